"""Figures from stores and score files."""
