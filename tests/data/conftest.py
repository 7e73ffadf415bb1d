"""A small VOC folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from handmade import label_map, write_mask, write_photo, write_text


@pytest.fixture
def voc_root(tmp_path: Path) -> Path:
    """Train a, b, c and val d with classes cat (VOC 8) and dog (12); b also shows a person (15) and void."""
    root = tmp_path / "voc"
    masks = {"a": label_map(8), "b": label_map(12, 15, 255), "c": label_map(8, 12), "d": label_map(12)}
    for seed, (name, mask) in enumerate(masks.items()):
        write_photo(root / "JPEGImages" / f"{name}.jpg", seed=seed)
        write_mask(root / "SegmentationClass" / f"{name}.png", mask)
    write_text(root / "ImageSets/Segmentation/train.txt", "a\nb\nc\n")
    write_text(root / "ImageSets/Segmentation/val.txt", "d\n")
    return root


@pytest.fixture
def voc_params(voc_root: Path) -> dict:
    return {"format": "voc", "root": str(voc_root), "classes": ["cat", "dog"]}
