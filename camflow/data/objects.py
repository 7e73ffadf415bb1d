"""Where a dataset in VOC layout keeps its instance masks. Imports nothing: the planner asks it."""

from __future__ import annotations

from pathlib import Path

FOLDER = "SegmentationObject"


def object_path(root: Path, image_id: str) -> Path:
    """The file of an image's instance masks: 0 background, 1 .. the objects, 255 undecided."""
    return root / FOLDER / f"{image_id}.png"
