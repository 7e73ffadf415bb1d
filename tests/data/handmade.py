"""Builders of small datasets on disk. Everything is written with PIL and plain text, never with the code under test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

REAL = Path(__file__).parents[2].parent / "shared" / "real" / "voc12_mini"


def write_photo(path: Path, height: int = 24, width: int = 32, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_mask(path: Path, labels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(np.random.default_rng(7).integers(0, 256, 768).tolist())
    image.save(path)
    return path


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_xml(path: Path, objects: list[tuple[str, int, int, int, int, int]]) -> Path:
    """Objects: name, difficult, xmin, ymin, xmax, ymax."""
    body = "".join(
        f"<object><name>{n}</name><difficult>{d}</difficult><bndbox><xmin>{a}</xmin><ymin>{b}</ymin>"
        f"<xmax>{c}</xmax><ymax>{e}</ymax></bndbox></object>"
        for n, d, a, b, c, e in objects
    )
    return write_text(path, f"<annotation>{body}</annotation>")


def label_map(*values: int, height: int = 24, width: int = 32) -> np.ndarray:
    """Background with one 4-pixel column stripe per value."""
    labels = np.zeros((height, width), np.uint8)
    for position, value in enumerate(values):
        labels[2:-2, 2 + 5 * position : 6 + 5 * position] = value
    return labels
