"""Maps of a masker: Zolna, Geras and Cho, "Classifier-agnostic saliency map extraction", CVIU 196 (2020).

The mask m of a photo says where the evidence for any class lies. It needs no label and knows none. The raw map of a scale
is its value at its own resolution, the mean over the photo and (with ``flip``) its mirror image; published at scale 1
without mirroring. It keeps its unit, [0, 1], as the published box rule thresholds at the mean of m.

Two readings make seed maps of it, one map per present class:

    same    every class has m. Where a photo shows one class this is all there is to know
    cam     m times the class's CAM of the same classifier, divided by its maximum over the cells of the scale: where
            several classes are present, each keeps what it activates of m

Maps lie on the grid of the masks (cells of 4 pixels), finer than the CAM's; the CAM is enlarged bilinearly.
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
from camflow.localize.extract import Photos, Views, extract_maps
from camflow.models.masker import Masker, onto_grid
from camflow.store import StoreWriter

CLASSES = ("same", "cam")


@dataclass(frozen=True)
class MaskerParams(Views):
    """Parameters of the masker's maps; the views default to the published one.

    Attributes:
        classes: how the classes of a photo share its mask: ``same`` or ``cam``, see the head of this file.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    classes: str = "same"

    def __post_init__(self):
        super().__post_init__()
        if self.classes not in CLASSES:
            raise ConfigError(f"masker: unknown classes '{self.classes}'{did_you_mean(self.classes, CLASSES)}")


class MaskHost(nn.Module):
    """A masker as ``camflow.localize.extract`` sees it: its stride is that of the masks, on whose grid the maps lie.

    Raises:
        ConfigError: the network has no masker.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        if not isinstance(model, Masker):
            raise ConfigError("masker: this classifier has no masker; use one of method casm")
        self.model, self.head = model, model.head
        self.mean, self.std, self.stride = model.mean, model.std, model.mask_stride
        self.map_stride = 1 if model.map_stride == 1 else self.stride
        self.class_names = model.class_names


def mask_maps(model: nn.Module, views: torch.Tensor, classes: Sequence[np.ndarray], scale: float) -> list[torch.Tensor]:
    """The same mask for every present class, in [0, 1]; needs a ``MaskHost``, see ``camflow.localize.extract``."""
    with torch.inference_mode():
        masks = _mean_of_views(model.model.masks(_flat(views)), views)
        return [mask.expand(len(present), -1, -1) for mask, present in zip(masks, classes, strict=True)]


def class_mask_maps(
    model: nn.Module, views: torch.Tensor, classes: Sequence[np.ndarray], scale: float
) -> list[torch.Tensor]:
    """The mask times each present class's CAM, in [0, 1]; a class without positive activation has 0 everywhere."""
    with torch.inference_mode():
        flat, scores = model.model.masks_and_score_maps(_flat(views))
        masks = _mean_of_views(flat, views)
        factor = model.model.stride // model.stride
        maps = []
        for mask, cam in zip(masks, add_views(_by_view(torch.relu(scores), views), classes), strict=True):
            peak = cam.amax(dim=(1, 2), keepdim=True)
            share = onto_grid((cam / torch.where(peak > 0, peak, 1))[None], factor, mask.shape[1:])[0]
            maps.append(mask * share)
        return maps


def _flat(views: torch.Tensor) -> torch.Tensor:
    return views.flatten(0, 1).contiguous(memory_format=torch.channels_last)


def _by_view(maps: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
    return maps.unflatten(0, views.shape[:2])


def _mean_of_views(masks: torch.Tensor, views: torch.Tensor) -> list[torch.Tensor]:
    """(B V, 1, h, w) -> B masks (1, h, w) in the photo's frame."""
    only = [np.zeros(1, np.int64)] * len(views)
    return [mask / views.shape[1] for mask in add_views(_by_view(masks, views), only)]


METHODS = {"same": mask_maps, "cam": class_mask_maps}


def extract_masker_maps(
    model: nn.Module, catalog: Photos, params: MaskerParams, writer: StoreWriter, **options: Any
) -> None:
    """Write the masker's maps of a catalog into an open ``StoreWriter(stage="maps")``.

    Args:
        model: a ``Masker``, as ``load_classifier`` and ``load_masker`` read it.
        catalog, params, writer, options: as of ``camflow.localize.extract.extract_maps``.

    Raises:
        ConfigError: the classifier has no masker.
        DataError: see ``extract_maps``.
    """
    extract_maps(MaskHost(model), catalog, METHODS[params.classes], params, writer, **options)
