"""Weakly-supervised localisation and segmentation: every published method as an interchangeable stage."""
