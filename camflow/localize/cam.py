"""Class activation maps: Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, in the
multi-scale recipe of IRN (Ahn, Cho, Kwak, CVPR 2019) that AdvCAM and LPCAM also start from.

With features f and the classifier's weights w_c, the score map of class c is z_c(p) = w_c . f(p) (Zhou eq. 2). Per
scale s the photo and its mirror image are shown, and

    m_s = relu(z(photo)) + mirror(relu(z(mirrored photo)))          relu before adding, no normalisation per scale

The maps of all scales are summed and normalised only when they are read (``camflow.localize.maps``), so that each scale
weighs by its raw magnitude.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from camflow.localize.extract import Photos, Views, extract_maps, run_views
from camflow.store import StoreWriter


@dataclass(frozen=True)
class CamParams(Views):
    """Parameters of CAM: how photos are shown to the network, nothing else. The defaults are IRN's."""


def cam(model: nn.Module, views: torch.Tensor, classes: Sequence[np.ndarray], scale: float) -> list[torch.Tensor]:
    """Raw activation maps m_s of the present classes; see ``camflow.localize.extract`` for shapes."""
    with torch.inference_mode():
        return add_views(torch.relu(run_views(model, views)), classes)


def add_views(maps: torch.Tensor, classes: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """Sum (B, V, C, h, w) over the views in the photo's frame and keep each image's classes: B tensors (K_b, h, w)."""
    total = maps[:, 0]
    if maps.shape[1] == 2:
        total = total + maps[:, 1].flip(-1)
    return [image[torch.as_tensor(present, device=maps.device)] for image, present in zip(total, classes, strict=True)]


def extract_cams(model: nn.Module, catalog: Photos, params: CamParams, writer: StoreWriter, **options: Any) -> None:
    """Write the CAMs of a catalog into an open ``StoreWriter(stage="maps")``; arguments as in ``extract_maps``."""
    extract_maps(model, catalog, cam, params, writer, **options)
