"""Weakly-supervised action localisation in sequences of feature vectors."""
