"""Backbones with a CAM head."""
