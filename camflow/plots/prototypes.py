"""Pictures of what LPCAM's prototypes respond to."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np

from camflow.data.catalog import Catalog
from camflow.localize.extract import frame_size
from camflow.localize.prototypes import Cell, ClassPrototypes, SelectionParams, kept
from camflow.plots import style  # noqa: F401  (chooses the file-only backend)

MOST = 3  # prototypes shown of each class, those with the most members
REACH = 2.5  # cells of surroundings shown on each side


def patch(photo: np.ndarray, cell: Cell, stride: int, frame: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The surroundings of a cell, and the cell's outline (4 corners, x y) within them.

    Args:
        photo: uint8 (H, W, 3).
        cell: place in the feature map.
        stride: pixels of the frame per cell.
        frame: (H, W) the network saw.
    """
    scale = np.array([photo.shape[0] / frame[0], photo.shape[1] / frame[1]]) * stride
    start = np.array([cell.row, cell.column]) * scale
    low = np.maximum(np.floor(start - REACH * scale), 0).astype(int)
    high = np.minimum(np.ceil(start + (1 + REACH) * scale), photo.shape[:2]).astype(int)
    (top, left), (bottom, right) = start - low, start + scale - low
    return photo[low[0] : high[0], low[1] : high[1]], np.array(
        [[left, top], [right, top], [right, bottom], [left, bottom]]
    )


def prototype_figure(
    catalog: Catalog,
    prototypes: Sequence[ClassPrototypes],
    params: SelectionParams,
    *,
    long_side: int | None,
    title: str,
):
    """A row a prototype: its nearest cells, each of another image, outlined in their surroundings."""
    rows = []
    for one in prototypes:
        chosen = np.flatnonzero(kept(one, params)[0])
        for number in sorted(chosen, key=lambda k: -one.foreground.members[k])[:MOST]:
            rows.append((one, int(number)))
    width = max((len(one.nearest[number]) for one, number in rows), default=1)
    figure, axes = plt.subplots(
        max(1, len(rows)), width, figsize=(1.5 * width + 1, 1.5 * max(1, len(rows))), squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for line, (one, number) in zip(axes, rows, strict=False):
        for axis, cell in zip(line, one.nearest[number], strict=False):
            photo = catalog.image(cell.image_id)
            shown, corners = patch(photo, cell, one.stride, frame_size(photo.shape[:2], long_side))
            axis.imshow(shown, interpolation="nearest")
            axis.plot(*np.vstack([corners, corners[:1]]).T, color="red", linewidth=1)
        share = one.foreground.members[number] / max(1, one.foreground.members.sum())
        told = f"{one.class_name} {number}\n{share:.0%} of cells\nz = {one.foreground.score[number]:.2f}"
        line[0].text(-0.08, 0.5, told, transform=line[0].transAxes, ha="right", va="center", fontsize=7)
    figure.suptitle(f"{title}: nearest cells of the largest prototypes", fontsize=9)
    return figure
