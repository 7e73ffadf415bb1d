"""Trained recipes on photos of one's own: `camflow apply`. Imported by no stage."""
