"""Seed maps made elsewhere, read from a folder of files (``camflow.data.interchange``).

The maps of an image come on one grid: the photo's own pixels, cells of a whole number of pixels of which the last may
hang over the border (IRN's quarter-size maps), or, where ``stretch`` allows it, any grid laid over the whole photo. They
are kept on that grid, which the readers of seed maps resize like any other.

These readers also divide a class by (its maximum + 1e-5), see ``camflow.localize.maps``. Scores g in [0, 1] that are to be
taken as they are come out of that unchanged when they are stored as

    x = g * 1e-5 / (1 - max g),   for then x / (max x + 1e-5) = g
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from camflow.data.interchange import ARRAYS, CLASSES, FORMATS, MapFolder, Maps
from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.localize.extract import write_seed
from camflow.localize.maps import EPSILON, SeedMaps
from camflow.store import StoreWriter

CHOICES = {
    "format": FORMATS,
    "classes": CLASSES,
    "array": ARRAYS,
    "normalise": ("none", "max", "min_max"),
    "missing": ("error", "zeros"),
    "extra": ("error", "drop"),
}
PRINTED = 50  # problems in the message
TOLERANCE = 1e-6  # of a score that should not exceed 1


class Labelled(Protocol):
    """What is read of a catalog."""

    class_names: Sequence[str]
    ids: Sequence[str]
    sizes: np.ndarray

    def label(self, image_id: str) -> np.ndarray: ...


@dataclass(frozen=True)
class ImportParams:
    """How files are read.

    Attributes:
        folder: of the files.
        format, classes, array: see ``camflow.data.interchange``.
        normalise: ``none`` takes the values as they are, from 0 to 1; ``max`` takes 0 for negative ones and divides each
            class by its maximum; ``min_max`` maps each class linearly to [0, 1].
        missing: an image without file, or a class without map, is an ``error`` or ``zeros``.
        extra: maps of classes that the image does not show are an ``error``, or ``drop``ped. (An array of all classes
            has them by its nature and says nothing.)
        stretch: lay maps of any grid over the whole photo.
    """

    folder: str
    format: str = "npy"
    classes: str = "index"
    array: str = "high_res"
    normalise: str = "none"
    missing: str = "error"
    extra: str = "error"
    stretch: bool = False

    def __post_init__(self):
        for name, options in CHOICES.items():
            value = getattr(self, name)
            if value not in options:
                raise ConfigError(f"{name}: unknown '{value}'{did_you_mean(value, options)}")


def grid_stride(grid: Sequence[int], size: Sequence[int], stretch: bool = False) -> int | None:
    """Pixels per cell of a grid (h, w) over a photo (H, W): s with h = ceil(H/s) and w = ceil(W/s).

    Of several the first power of two, as networks have, else the least. Where there is none: with ``stretch`` 1, so that
    readers resize the grid straight to the photo, else None.
    """
    (height, width), (rows, columns) = size, grid
    if min(rows, columns) < 1:
        return None
    # The strides that give h rows are those from H/h on to below H/(h - 1).
    first = max(-(-height // rows), -(-width // columns))
    fitting = [s for s in range(first, 2 * first + 1) if (-(-height // s), -(-width // s)) == (rows, columns)]
    powers = [s for s in fitting if s & (s - 1) == 0]
    return (powers or fitting or [1 if stretch else None])[0]


def imported_seed(
    found: Maps | None, present: Sequence[int], size: tuple[int, int], params: ImportParams, class_names: Sequence[str]
) -> SeedMaps:
    """The seed maps of an image.

    Args:
        found: class index -> (h, w), of ``MapFolder.read``; None for an image without file.
        present: (K,) indices of the image's classes, ascending.
        size: (H, W) of the photo.
        params: how they are read.
        class_names: for messages.

    Raises:
        ValueError: says what is wrong with them.
    """
    found = dict(found or {})
    extra = [class_names[index] for index in sorted(set(found) - {int(n) for n in present})]
    if extra and params.extra == "error":
        raise ValueError(f"has maps of {', '.join(extra)}, which its labels do not name (extra: drop leaves them out)")
    lacking = [class_names[index] for index in present if int(index) not in found]
    if lacking and params.missing == "error":
        raise ValueError(f"has no map of {', '.join(lacking)} (missing: zeros takes zeros)")
    grids = {found[int(index)].shape for index in present if int(index) in found}
    if len(grids) > 1 or any(len(grid) != 2 for grid in grids):
        raise ValueError(f"has maps of shapes {', '.join(map(str, sorted(grids)))}; expected one shape (h, w)")
    grid = grids.pop() if grids else size
    stride = grid_stride(grid, size, params.stretch)
    if stride is None:
        raise ValueError(
            f"its maps are {grid[0]}x{grid[1]}, the photo is {size[0]}x{size[1]}; they are neither of its size nor cells of "
            "a whole number of its pixels (stretch: true lays them over the photo)"
        )
    blank = np.zeros(grid, np.float32)
    maps = [_values(found.get(int(index), blank), params.normalise) for index in present]
    return SeedMaps(np.asarray(present, np.int64), [np.stack(maps)] if maps else [], size, size, stride)


def _values(scores: np.ndarray, normalise: str) -> np.ndarray:
    """What is stored of a class's scores (h, w): float32, see the head of this file."""
    if scores.dtype.kind not in "fiub":
        raise ValueError(f"its maps are of type {scores.dtype}, not of numbers")
    scores = scores.astype(np.float32)
    if not np.isfinite(scores).all():
        raise ValueError("its maps hold NaN or infinite values")
    low, high = (0, scores.max()) if normalise == "max" else (scores.min(), scores.max())
    if normalise != "none":
        scores = (np.maximum(scores, low) - low) / (high - low) if high > low else np.zeros_like(scores)
    elif low < 0 or high > 1 + TOLERANCE:
        raise ValueError(
            f"its maps go from {low:.3g} to {high:.3g}, not from 0 to 1 (normalise: max or min_max scales them)"
        )
    return scores * np.float32(EPSILON / (1 - min(scores.max(), 1 - TOLERANCE)))


def import_maps(
    catalog: Labelled,
    params: ImportParams,
    writer: StoreWriter,
    *,
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Write the maps of every image of a catalog into an open ``StoreWriter(stage="maps")``.

    Args:
        catalog: the images and their classes.
        params: where the files are, and how they are read.
        writer: receives one packed map per image, in the order of the ids.
        progress: called with the number of images done since its last call.

    Raises:
        ConfigError: there is no such folder.
        DataError: names every image whose files are missing or cannot be right.
    """
    folder = MapFolder(params.folder, params.format, catalog.class_names, classes=params.classes, array=params.array)
    problems = []
    for image_id, size in zip(catalog.ids, catalog.sizes.tolist(), strict=True):
        present = np.flatnonzero(catalog.label(image_id))
        try:
            found = folder.read(image_id, present)
            if found is None and len(present) and params.missing == "error":
                raise ValueError(f"has no file {folder.expected(image_id)} (missing: zeros takes zeros)")
            write_seed(writer, image_id, imported_seed(found, present, tuple(size), params, catalog.class_names))
        except (ValueError, DataError) as error:
            problems.append(f"image '{image_id}': {error}")
        if progress is not None:
            progress(1)
    if problems:
        more = [f"and {len(problems) - PRINTED} more"] if len(problems) > PRINTED else []
        count = "1 image" if len(problems) == 1 else f"{len(problems)} images"
        lines = "\n".join(f"  - {line}" for line in [*problems[:PRINTED], *more])
        raise DataError(f"{params.folder}: the maps of {count} cannot be taken:\n{lines}")
