"""Figure of masked photos, as the paper on CASM shows them (Zolna, Geras, Cho, CVIU 196, 2020)."""

from __future__ import annotations

import numpy as np

from camflow.data.catalog import Catalog
from camflow.data.sample import sampled
from camflow.evaluate.masked_accuracy import MaskedParams, framed_mask, masked_images
from camflow.localize.maps import checked_seed
from camflow.plots import style
from camflow.store import Store

GREY = (0.35, 0.35, 0.35)  # what the figure shows where a photo is masked; networks are shown ``params.fill``


def masked_figure(catalog: Catalog, maps_store: Store, params: MaskedParams, *, count: int, title: str):
    """A row an image: the photo's frame, its mask, masked-in, masked-out, inpainted. Returns the figure.

    Args:
        catalog: the images; a fixed sample of ``count`` of those that show a class is drawn.
        maps_store: their seed maps.
        params: how photos are masked; masked pixels are shown in grey.
    """
    ids = sampled(catalog, count)
    rows = [_row(catalog, maps_store, params, image_id) for image_id in ids]
    return style.grid(rows, ["photo", "mask", "masked-in", "masked-out", "inpainted"], ids, title)


def _row(catalog: Catalog, maps_store: Store, params: MaskedParams, image_id: str) -> list[np.ndarray]:
    photo = catalog.image(image_id)
    seed = checked_seed(maps_store, image_id, photo.shape[:2])
    frame, mask, binary = framed_mask(photo, seed, params, image_id)
    grey = np.rint(255 * mask).astype(np.uint8)[..., None].repeat(3, axis=-1)
    return [frame, grey, *masked_images(frame, binary, GREY)]
