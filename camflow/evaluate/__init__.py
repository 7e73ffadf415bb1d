"""Confusion matrices, the threshold sweep and the scores."""
