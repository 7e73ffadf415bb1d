"""Pictures side by side: photo, truth, seed, mask, for the fixed sample of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from camflow.data.catalog import Catalog
from camflow.data.sample import sample
from camflow.localize.maps import SeedMaps, full_size_maps, read_seed
from camflow.plots import style
from camflow.refine.driver import class_ids
from camflow.refine.threshold import winners
from camflow.store import Store


def seed_label(maps: np.ndarray, classes: np.ndarray, threshold: float) -> np.ndarray:
    """Arg-max of constant background and full-size maps ``(K, H, W)`` as a label map uint8 ``(H, W)``."""
    return class_ids(winners(maps, threshold), classes)


def overlay_figure(
    catalog: Catalog,
    seeds: Store | None,
    masks: Store | None,
    *,
    threshold: float | None,
    count: int,
    title: str,
):
    """The comparison grid, of what there is. ``threshold`` turns a seed into a label map when there are no masks."""
    ids = sample(catalog.ids, count)
    rows = [_row(catalog, seeds, masks, threshold, image_id) for image_id in ids]
    columns = ["photo", *(["truth"] if catalog.has_masks else []), *(["seed map"] if seeds is not None else [])]
    columns += ["mask"] if masks is not None else [f"seed > {threshold:.2f}"] if threshold is not None else []
    return style.grid(rows, columns, ids, title)


def _row(
    catalog: Catalog, seeds: Store | None, masks: Store | None, threshold: float | None, image_id: str
) -> list[np.ndarray]:
    photo = catalog.image(image_id)
    row = [photo]
    if catalog.has_masks:
        truth = catalog.mask(image_id)
        row.append(style.overlay(photo, truth) if truth is not None else photo)
    if seeds is not None:
        seed = SeedMaps.unpack(seeds.read(image_id), seeds.attrs(image_id))
        maps = full_size_maps(seed)
        row.append(style.heat(photo, maps.max(axis=0) if len(maps) else np.zeros(photo.shape[:2])))
        if masks is None and threshold is not None:
            row.append(style.overlay(photo, seed_label(maps, seed.classes, threshold)))
    if masks is not None:
        row.append(style.overlay(photo, masks.read(image_id)))
    return row


def photo_figure(catalog: Catalog, *, count: int, title: str):
    """Photos and their true masks."""
    ids = sample(catalog.ids, count)
    rows: list[Sequence[np.ndarray]] = []
    for image_id in ids:
        photo = catalog.image(image_id)
        truth = catalog.mask(image_id) if catalog.has_masks else None
        rows.append([photo, style.overlay(photo, truth)] if truth is not None else [photo, photo])
    return style.grid(rows, ["photo", "truth"], ids, title)


def comparison_figure(catalog: Catalog, seeds: dict[str, Store], *, count: int, title: str):
    """Photo, truth and the seed map of each localizer. ``seeds`` maps a column's name to its maps."""
    ids = sample(catalog.ids, count)
    rows = []
    for image_id in ids:
        photo = catalog.image(image_id)
        truth = catalog.mask(image_id) if catalog.has_masks else None
        row = [photo, *([] if not catalog.has_masks else [photo if truth is None else style.overlay(photo, truth)])]
        for store in seeds.values():
            maps = full_size_maps(read_seed(store, image_id))
            row.append(style.heat(photo, maps.max(axis=0) if len(maps) else np.zeros(photo.shape[:2])))
        rows.append(row)
    return style.grid(rows, ["photo", *(["truth"] if catalog.has_masks else []), *seeds], ids, title)
