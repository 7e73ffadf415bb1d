"""SEAM's own maps: Wang et al., CVPR 2020, the released inference at scales 0.5, 1, 1.5, 2 with mirroring.

Raw maps of a scale are the network's maps after the PCM, summed over the photo and its mirror image. The published
reading resizes every map first to its own image (corners aligned), then to the photo (not aligned), sums all of them
and normalises between minimum and maximum,

    (s - min - e) / (max - min + e),  0 where s < min + e,                                           e = 1e-5

which ``seam_full_maps`` does. Refined maps are averages and nowhere zero, so the minimum matters.

Every other reader of seed maps divides by the maximum only. So that those too see (nearly) the published maps, each
raw map is stored less its minimum over its cells. The published reading does not change by that, as it is indifferent
to a constant per class; for the other readers the sum of the minima stands in for the minimum of the sum, which is at
least as large, and what is left of it (never below zero) is the whole difference beside the resizing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from camflow.localize.cam import add_views
from camflow.localize.extract import Photos, Views, extract_maps
from camflow.localize.maps import EPSILON, SeedMaps
from camflow.store import StoreWriter


@dataclass(frozen=True)
class SeamMapParams(Views):
    """Parameters of SEAM's maps: how photos are shown to the network; the defaults are the published ones."""

    scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)


def seam(model: nn.Module, views: torch.Tensor, classes: Sequence[np.ndarray], scale: float) -> list[torch.Tensor]:
    """Raw refined maps of the present classes, the smallest value of each being 0; needs a ``Seam`` host.

    See ``camflow.localize.extract`` for shapes. Views are shown one after the other: the PCM of a large photo takes
    hundreds of megabytes per view.
    """
    with torch.inference_mode():
        maps = torch.stack([model.refined_maps(view) for view in views.unbind(1)], dim=1)
        return [image - image.amin(dim=(1, 2), keepdim=True) for image in add_views(maps, classes)]


def seam_full_maps(seed: SeedMaps, scales: Sequence[float]) -> np.ndarray:
    """The published reading: (K, H, W) in [0, 1), min-max normalised.

    Where the published maps are negative (only where a class is at its minimum) they are 0 here, which no threshold
    tells apart.

    Args:
        seed: maps of ``seam``.
        scales: those the maps were made at, in their order.
    """
    height, width = seed.size
    frame = seed.frame or seed.size
    if not len(seed.classes):
        return np.zeros((0, height, width), np.float32)
    total = torch.zeros(1, len(seed.classes), height, width, dtype=torch.from_numpy(seed.maps[0]).dtype)
    for maps, scale in zip(seed.maps, scales, strict=True):
        seen = tuple(max(1, round(n * scale)) for n in frame)
        shown = functional.interpolate(torch.from_numpy(maps)[None], size=seen, mode="bilinear", align_corners=True)
        total += functional.interpolate(shown, size=(height, width), mode="bilinear", align_corners=False)
    return _min_max(total[0].numpy())


def _min_max(maps: np.ndarray) -> np.ndarray:
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    return np.maximum((maps - low - EPSILON) / (high - low + EPSILON), 0).astype(maps.dtype)


def extract_seam_maps(
    model: nn.Module, catalog: Photos, params: SeamMapParams, writer: StoreWriter, **options: Any
) -> None:
    """Write SEAM's maps of a catalog into an open ``StoreWriter(stage="maps")``; arguments as in ``extract_maps``."""
    extract_maps(model, catalog, seam, params, writer, **options)
