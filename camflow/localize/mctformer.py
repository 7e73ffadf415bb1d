"""MCTformer's own maps: Xu et al., CVPR 2022, the released inference at scale 1 with mirroring.

The raw map of a scale is the network's map of the photo plus that of its mirror image, turned back. The published
reading stretches the sum over the photo (bilinear, corners not aligned) and normalises it between its minimum and its
maximum,

    (s - min) / (max - min + e),                                                                     e = 1e-8

which ``mctformer_full_maps`` does. Refined maps are averages and nowhere zero, so the minimum matters. As SEAM's
(``camflow.localize.seam``), every raw map is stored less its minimum over its cells, so that the other readers, which
divide by the maximum only, see nearly the published maps; the published reading does not change by that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from camflow.errors import ConfigError, did_you_mean
from camflow.localize.cam import add_views
from camflow.localize.extract import Method, Photos, Views, extract_maps
from camflow.localize.maps import SeedMaps, summed_maps
from camflow.models.mctformer import MAPS
from camflow.store import StoreWriter

EPSILON = 1e-8


@dataclass(frozen=True)
class MctFormerMapParams(Views):
    """Parameters of MCTformer's maps; the defaults are the published ones.

    Attributes:
        scales: as in ``Views``.
        maps: ``refined``, ``fused`` (without the affinity of patches) or ``attention`` (without the patch tokens' own
            maps, as of MCTformer-V1); the maps of the patch tokens alone are those of localizer ``cam``.
        last_blocks: number of blocks whose attention from class to patch is summed; None: see
            ``MctFormer.features_and_attention``.
    """

    scales: tuple[float, ...] = (1.0,)
    maps: str = "refined"
    last_blocks: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.maps not in MAPS:
            raise ConfigError(f"maps: unknown '{self.maps}'{did_you_mean(self.maps, MAPS)}")


def mctformer(params: MctFormerMapParams) -> Method:
    """The localizer for ``camflow.localize.extract``: raw maps of the present classes, the smallest value of each being
    0; needs an ``MctFormer`` host.

    Views are shown one after the other: the attention of a large photo takes hundreds of megabytes per view.
    """

    def method(
        model: nn.Module, views: torch.Tensor, classes: Sequence[np.ndarray], scale: float
    ) -> list[torch.Tensor]:
        with torch.inference_mode():
            found = [model.attention_maps(v, last=params.last_blocks, kind=params.maps) for v in views.unbind(1)]
            summed = add_views(torch.stack(found, dim=1), classes)
            return [image - image.amin(dim=(1, 2), keepdim=True) for image in summed]

    return method


def mctformer_full_maps(seed: SeedMaps) -> np.ndarray:
    """The published reading: (K, H, W) in [0, 1), min-max normalised."""
    if not len(seed.classes):
        return np.zeros((0, *seed.size), np.float32)
    total = summed_maps(seed, seed.size)
    low, high = total.min(axis=(1, 2), keepdims=True), total.max(axis=(1, 2), keepdims=True)
    return (total - low) / (high - low + total.dtype.type(EPSILON))


def extract_mctformer_maps(
    model: nn.Module, catalog: Photos, params: MctFormerMapParams, writer: StoreWriter, **options: Any
) -> None:
    """Write MCTformer's maps of a catalog into an open ``StoreWriter(stage="maps")``; arguments as in
    ``extract_maps``."""
    extract_maps(model, catalog, mctformer(params), params, writer, **options)
