"""Dataset readers: one file per format."""
