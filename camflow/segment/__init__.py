"""Segmentation networks trained on pseudo-masks."""
