"""What all figures share: colours, the fixed sample of images, saving."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from camflow.data.palette import voc_palette
from camflow.store import atomic_path

IGNORE = 255


def colour(labels: np.ndarray) -> np.ndarray:
    """A label map uint8 ``(H, W)`` as RGB; ignored pixels are cream, as in VOC."""
    return voc_palette()[labels]


def overlay(photo: np.ndarray, labels: np.ndarray, strength: float = 0.6) -> np.ndarray:
    """A label map over its photo; background stays as it is. Returns uint8 ``(H, W, 3)``."""
    mixed = (1 - strength) * photo + strength * colour(labels)
    return np.where((labels > 0)[..., None], mixed, photo).astype(np.uint8)


def heat(photo: np.ndarray, score: np.ndarray, strength: float = 0.65) -> np.ndarray:
    """A score map in [0, 1] over its photo (grey where the score is low). Returns uint8 ``(H, W, 3)``."""
    coloured = plt.get_cmap("inferno")(np.clip(score, 0, 1))[..., :3] * 255
    weight = (strength * np.clip(score, 0, 1) ** 0.5)[..., None]
    grey = photo.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    return ((1 - weight) * grey + weight * coloured).astype(np.uint8)


def save(figure, path: str | Path) -> None:
    """Write a figure as PNG, atomically and without a date, and close it."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def grid(rows: Sequence[Sequence[np.ndarray]], columns: Sequence[str], names: Sequence[str], title: str):
    """A grid of pictures: one row an image, one column a stage. Returns the figure."""
    figure, axes = plt.subplots(len(rows), len(columns), figsize=(2.2 * len(columns), 2.0 * len(rows)), squeeze=False)
    for line, pictures, name in zip(axes, rows, names, strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(name, fontsize=6)
    for axis, column in zip(axes[0], columns, strict=True):
        axis.set_title(column, fontsize=9)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    return figure
