"""A network run over the photos of a catalog into a store, what IRN and PSA share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from camflow.localize.extract import numerics
from camflow.refine.driver import Photos
from camflow.store import StoreWriter


def write_photos(
    predict: Callable[[np.ndarray], tuple[np.ndarray, dict[str, Any]]],
    catalog: Photos,
    writer: StoreWriter,
    *,
    device: str | torch.device = "cpu",
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Write what a network says of every photo.

    Args:
        predict: a uint8 photo (H, W, 3) -> the array to store and its attributes.
        catalog: the photos, in the order of whose ids is written.
        writer: an open ``StoreWriter``.
        device: where the network runs; with one thread and one photo at a time on the CPU, so that the bytes depend on
            neither the machine's load nor the other photos.
        progress: called with the number of images done since its last call.
    """
    with numerics(torch.device(device), "float32"):
        for image_id in catalog.ids:
            array, attrs = predict(catalog.image(image_id))
            writer.write(image_id, array, **attrs)
            if progress is not None:
                progress(1)
