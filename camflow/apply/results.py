"""What is written for a photo: maps, mask, boxes and a picture to look at; each file is whole or absent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from camflow.data.interchange import write_npy
from camflow.data.palette import voc_palette, write_label_map
from camflow.plots.style import overlay
from camflow.refine.driver import IGNORE
from camflow.store import atomic_path, write_json

# What is behind a photo's id.
NAMES = {"maps": ".npy", "mask": ".mask.png", "facts": ".json", "overlay": ".overlay.png"}
EIGHT = np.ones((3, 3), bool)  # pixels that touch at a corner belong together


def boxes_of(
    labels: np.ndarray, class_names: Sequence[str], maps: np.ndarray, classes: Sequence[int]
) -> list[dict[str, Any]]:
    """The box of every connected part of every class of a label map, the largest part of a class first.

    Args:
        labels: uint8 (H, W), 0 background, index + 1, 255 ignored.
        class_names: in order.
        maps: float (K, H, W), the scores of ``classes``.
        classes: (K,) 0-based indices.

    Returns:
        ``class``, ``box`` (half-open pixels [x1, y1, x2, y2]), ``pixels`` of the part, and ``score``, the largest value of
        the class's map in it (None where the class has no map).
    """
    found = []
    rows = {int(index): row for row, index in enumerate(classes)}
    for label in sorted(set(np.unique(labels).tolist()) - {0, IGNORE}):
        components, count = ndimage.label(labels == label, EIGHT)
        parts = []
        for number, (y, x) in enumerate(ndimage.find_objects(components, count), 1):
            inside = components[y, x] == number
            score = float(maps[rows[label - 1]][y, x][inside].max()) if label - 1 in rows else None
            parts.append(
                {
                    "class": class_names[label - 1],
                    "box": [x.start, y.start, x.stop, y.stop],
                    "pixels": int(inside.sum()),
                    "score": None if score is None else round(score, 6),
                }
            )
        found += sorted(parts, key=lambda part: (-part["pixels"], part["box"]))
    return found


def overlay_picture(photo: np.ndarray, labels: np.ndarray, boxes: Sequence[dict[str, Any]], class_names: Sequence[str]):
    """The photo under its mask, with the boxes and, where there is room, the names of their classes; a Pillow image."""
    picture = Image.fromarray(overlay(photo, labels))
    draw = ImageDraw.Draw(picture)
    width = max(1, round(max(photo.shape[:2]) / 200))
    for item in boxes:
        colour = tuple(voc_palette()[class_names.index(item["class"]) + 1].tolist())
        x1, y1, x2, y2 = item["box"]
        draw.rectangle((x1, y1, x2 - 1, y2 - 1), outline=colour, width=width)
        name = draw.textbbox((x1 + width, y1 + width), item["class"])
        if name[2] < x2 and name[3] < y2:
            draw.rectangle(name, fill=colour)
            draw.text((x1 + width, y1 + width), item["class"], fill="white")
    return picture


def paths_of(folder: Path, image_id: str) -> dict[str, Path]:
    """The files of a photo, by what they hold."""
    return {what: folder / f"{image_id}{ending}" for what, ending in NAMES.items()}


def write_results(
    folder: Path,
    image_id: str,
    photo: np.ndarray,
    labels: np.ndarray,
    maps: np.ndarray,
    classes: Sequence[int],
    class_names: Sequence[str],
    facts: dict[str, Any],
) -> None:
    """Write the files of one photo, see ``NAMES``.

    Args:
        folder: of the results.
        image_id: of the photo; with ``/`` its files lie in a sub-folder.
        photo: uint8 (H, W, 3).
        labels: uint8 (H, W).
        maps: float32 (K, H, W) in [0, 1].
        classes: (K,) 0-based indices, the maps' order.
        class_names: of the dataset.
        facts: further entries of the JSON file.
    """
    paths = paths_of(folder, image_id)
    write_npy(paths["maps"], maps)
    with atomic_path(paths["mask"]) as temporary:
        write_label_map(temporary, labels, format="PNG")
    boxes = boxes_of(labels, class_names, maps, classes)
    with atomic_path(paths["overlay"]) as temporary:
        overlay_picture(photo, labels, boxes, class_names).save(temporary, format="PNG")
    names = [class_names[int(index)] for index in classes]
    size = dict(zip(("height", "width"), labels.shape, strict=True))
    # Last: where it is, the others are.
    write_json(paths["facts"], {**facts, **size, "maps": names, "boxes": boxes})
