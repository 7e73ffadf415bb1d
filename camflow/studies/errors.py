"""Where refiners lose or win: the wrong pixels of several label maps by kind and by distance to the true boundaries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from camflow.data.catalog import Catalog
from camflow.data.sample import sampled
from camflow.evaluate.boundary import BANDS, KINDS, band_names, error_table
from camflow.localize.maps import checked_seed, full_size_maps
from camflow.refine.driver import class_ids
from camflow.refine.threshold import winners
from camflow.store import Store

LabelMaps = Store | Callable[[str], np.ndarray]  # a store of label maps, or what gives an image's


def seed_labels(maps: Store, threshold: float) -> Callable[[str], np.ndarray]:
    """The seed cut at a background threshold, as label maps uint8 (H, W) by image id."""

    def labels(image_id: str) -> np.ndarray:
        seed = checked_seed(maps, image_id)
        return class_ids(winners(full_size_maps(seed), threshold), seed.classes)

    return labels


def error_rows(
    catalog: Catalog,
    labels: Mapping[str, LabelMaps],
    bands: Sequence[float] = BANDS,
    *,
    images: int | None = None,
    progress: Callable[[int], Any] | None = None,
) -> pd.DataFrame:
    """Wrong pixels of label maps, all of the same images: those with a class and a mask.

    Args:
        catalog: images and true masks.
        labels: of each name a store of label maps uint8 (H, W), or a function from image ids to them.
        bands: where the bands of the distance to the nearest true boundary end, in pixels.
        images: number of images, None for all.
        progress: called with 1 after every image.

    Returns:
        columns ``labels, kind, band, pixels, share, band_pixels, images``: by name, kind and band in the order of
        ``camflow.evaluate.boundary``. ``share`` is that of all scored pixels, so the shares of a name add up to one
        minus its pixel accuracy; ``band_pixels`` are the scored pixels of the band.

    Raises:
        ConfigError: bands that are none.
        DataError: no image has a mask; a label map does not fit; names the image.
        StoreError: an image is missing in a store.
    """
    names = band_names(bands)
    readers = [source.read if isinstance(source, Store) else source for source in labels.values()]
    ids = sampled(catalog, images, masks=True)
    counts = np.zeros((len(readers), len(KINDS), len(names)), np.int64)
    for image_id in ids:
        found = [read(image_id) for read in readers]
        counts += error_table(catalog.mask(image_id), found, bands, image_id=image_id)
        if progress is not None:
            progress(1)
    rows = []
    for name, table in zip(labels, counts, strict=True):
        of_band, scored = table.sum(axis=0), table.sum()
        for kind, line in list(zip(KINDS, table, strict=True))[1:]:
            for band, pixels, within in zip(names, line.tolist(), of_band.tolist(), strict=True):
                share = pixels / scored if scored else float("nan")
                row = {"labels": name, "kind": kind, "band": band, "pixels": pixels, "share": share}
                rows.append({**row, "band_pixels": within, "images": len(ids)})
    return pd.DataFrame(rows)
