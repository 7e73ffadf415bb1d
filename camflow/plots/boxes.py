"""Figure of boxes: the true ones, and those that maps give at a fixed fraction of their maximum."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw

from camflow.data.catalog import Catalog
from camflow.data.sample import sampled
from camflow.errors import ConfigError
from camflow.evaluate.cam_boxes import HIT
from camflow.localize.maps import full_size_maps, read_seed
from camflow.plots import style
from camflow.store import Store

TRUE, HITS, MISSES = (255, 255, 255), (0, 200, 0), (230, 0, 0)


def box_figure(catalog: Catalog, maps: Store, curves: Store, *, count: int, title: str):
    """A row an image: its true boxes in white; its maps, with the box of each class, green if it hits, else red.

    Args:
        catalog: the images; a fixed sample of ``count`` of those that show a class is drawn.
        maps: their seed maps.
        curves: of ``camflow.evaluate.localization.box_curves_of``; the boxes are those of its first fixed fraction.

    Raises:
        ConfigError: the curves have no fixed fraction.
    """
    fractions = curves.meta["curves"]["fractions"]
    if not fractions:
        raise ConfigError("localization.curves.fractions: give at least one, at which boxes are drawn")
    ids = sampled(catalog, count)
    rows = [_row(catalog, maps, curves, image_id) for image_id in ids]
    return style.grid(rows, ["true boxes", f"boxes at {fractions[0]:g} of the maximum"], ids, title)


def _row(catalog: Catalog, maps: Store, curves: Store, image_id: str) -> list[np.ndarray]:
    photo = catalog.image(image_id)
    heat = full_size_maps(read_seed(maps, image_id))
    shown = style.heat(photo, heat.max(axis=0) if len(heat) else np.zeros(photo.shape[:2]))
    attrs = curves.attrs(image_id)
    colours = [HITS if iou > HIT else MISSES for iou in attrs["cam_ious"][0]]
    return [
        with_boxes(photo, ((box, TRUE) for box in catalog.boxes(image_id)[:, 1:])),
        with_boxes(shown, zip(attrs["cam_boxes"][0], colours, strict=True)),
    ]


def with_boxes(picture: np.ndarray, boxes: Iterable[tuple[np.ndarray, tuple[int, int, int]]]) -> np.ndarray:
    """A copy of uint8 (H, W, 3) with outlines of half-open boxes x1, y1, x2, y2; an empty box has none."""
    image = Image.fromarray(picture)
    pen, width = ImageDraw.Draw(image), max(1, min(picture.shape[:2]) // 100)
    for (x1, y1, x2, y2), colour in boxes:
        if x2 > x1 and y2 > y1:
            pen.rectangle((int(x1), int(y1), int(x2) - 1, int(y2) - 1), outline=colour, width=width)
    return np.asarray(image)
