"""Figure of adversarial erasing: what each round found, and what it was worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from camflow.data.catalog import Catalog
from camflow.data.erased import ErasedStore, erase
from camflow.data.sample import sample
from camflow.plots import style
from camflow.refine.driver import class_ids


def region_labels(regions: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Regions bool (K, H, W) as a label map uint8 (H, W), for the eye: where they overlap the earlier class is shown."""
    if not len(regions):
        return np.zeros(regions.shape[1:], np.uint8)
    return class_ids(np.where(regions.any(axis=0), regions.argmax(axis=0) + 1, 0), classes)


def erasing_figure(
    catalog: Catalog,
    rounds: Sequence[ErasedStore],
    mean: Sequence[float],
    *,
    count: int,
    title: str,
    scores: Sequence[float] = (),
):
    """A row an image: photo, truth if there is one, what each round saw and newly found, and everything found.

    Args:
        catalog: the images, of which a fixed sample of ``count`` is shown.
        rounds: what is erased after each round, the first round first.
        mean: of the networks, the colour of erased pixels.
        scores: mIoU in [0, 1] of the seed after each round, which then stands over its column.
    """
    ids = sample(catalog.ids, count)
    rows = [_row(catalog, rounds, mean, image_id) for image_id in ids]
    steps = [f"round {number}" for number in range(1, len(rounds) + 1)]
    for index, score in enumerate(scores):
        steps[index] += f" ({100 * score:.1f} mIoU)"
    columns = ["photo", *(["truth"] if catalog.has_masks else []), *steps, "all rounds"]
    return style.grid(rows, columns, ids, title)


def _row(catalog: Catalog, rounds: Sequence[ErasedStore], mean: Sequence[float], image_id: str) -> list[np.ndarray]:
    photo = catalog.image(image_id)
    row = [photo]
    if catalog.has_masks:
        truth = catalog.mask(image_id)
        row.append(photo if truth is None else style.overlay(photo, truth))
    labels, gone = np.zeros(photo.shape[:2], np.uint8), None
    for store in rounds:
        classes, found = store.read(image_id, photo.shape[:2])
        gone = np.zeros_like(found) if gone is None else gone
        new = region_labels(found & ~gone, classes)
        row.append(style.overlay(erase(photo, gone.any(axis=0), mean), new))
        labels, gone = region_labels(found, classes), found
    return [*row, style.overlay(photo, labels)]
