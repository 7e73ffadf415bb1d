"""Train a plain classifier."""
