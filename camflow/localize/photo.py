"""Maps of single photos from Python, without workflow or files: what a notebook calls.

All functions take a classifier (``camflow.models.pretrained.from_torchvision``, ``load_classifier``), photos of any size,
uint8 RGB (H, W, 3), and 0-based class indices, which come back sorted in the maps: float32 (K, H, W) in [0, 1), each class
divided by its maximum. They are the functions that the workflow runs, in the dtype and on the device of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from camflow.errors import DataError
from camflow.localize.advcam import AdvCamParams, advcam, frozen
from camflow.localize.cam import CamParams, cam
from camflow.localize.extract import Method, Views, numerics, seed_of_photo
from camflow.localize.lpcam import LpcamParams, class_vectors, lpcam
from camflow.localize.maps import SeedMaps, full_size_maps
from camflow.localize.prototypes import ClassPrototypes, PrototypeParams, cluster_class


def cam_maps(
    model: nn.Module, photo: np.ndarray, classes: Sequence[int], params: CamParams | None = None
) -> np.ndarray:
    """Class activation maps (K, H, W)."""
    return full_size_maps(_seed(model, cam, photo, classes, params or CamParams()))


def advcam_maps(
    model: nn.Module, photo: np.ndarray, classes: Sequence[int], params: AdvCamParams | None = None
) -> np.ndarray:
    """AdvCAM's maps (K, H, W). What is climbed has a gradient; no weight gets one, and none is left behind."""
    params = params or AdvCamParams()
    with frozen(model):
        return full_size_maps(_seed(model, advcam(params), photo, classes, params))


def lpcam_prototypes(
    model: nn.Module,
    photos: Sequence[np.ndarray],
    class_index: int,
    params: PrototypeParams | None = None,
    views: CamParams | None = None,
) -> ClassPrototypes:
    """Cluster the features of a class in photos that show it; the more photos, the better the prototypes.

    Args:
        photos: at least one.
        class_index: of the class that all of them show.
        params: of the clustering.
        views: of the CAMs that part the class from its context.
    """
    images = _PhotoSet(model, photos, class_index)
    seeds = {
        name: _seed(model, cam, photo, [class_index], views or CamParams()) for name, photo in images.photos.items()
    }
    device = next(model.parameters()).device
    masks: Any = _Maps(seeds, images.class_names)
    return cluster_class(model, images, masks, class_index, params or PrototypeParams(), device=device)


def lpcam_maps(
    model: nn.Module, photo: np.ndarray, prototypes: dict[int, ClassPrototypes], params: LpcamParams | None = None
) -> np.ndarray:
    """LPCAM's maps (K, H, W).

    Args:
        prototypes: class index -> of ``lpcam_prototypes``.
    """
    params = params or LpcamParams()
    classes = sorted(prototypes)
    weight = next(model.parameters())
    vectors = torch.zeros(model.head.weight.shape[:2])
    vectors[classes] = class_vectors((prototypes[index] for index in classes), params)
    return full_size_maps(_seed(model, lpcam(vectors.to(weight.device)), photo, classes, params))


def _seed(model: nn.Module, method: Method, photo: np.ndarray, classes: Sequence[int], params: Views) -> SeedMaps:
    photo, count = np.asarray(photo), int(model.head.weight.shape[0])
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
        raise DataError(
            f"a photo is uint8 RGB (H, W, 3), not {photo.dtype} {photo.shape}; see camflow.data.images.open_image"
        )
    for index in classes:
        if not 0 <= int(index) < count:
            raise DataError(f"there is no class {index}; the classifier has {count}, counted from 0")
    with numerics(next(model.parameters()).device, params.precision):
        return seed_of_photo(model, method, photo, sorted({int(index) for index in classes}), params)


class _PhotoSet:
    """Photos of one class in memory, with what the clustering reads of a catalog."""

    def __init__(self, model: nn.Module, photos: Sequence[np.ndarray], class_index: int):
        self.photos = {f"{n:06d}": np.asarray(photo) for n, photo in enumerate(photos)}
        self.ids = list(self.photos)
        self.sizes = np.array([photo.shape[:2] for photo in self.photos.values()], np.int32).reshape(-1, 2)
        count = int(model.head.weight.shape[0])
        self.class_names = list(getattr(model, "class_names", ())) or [str(n) for n in range(count)]
        self._label = (np.arange(count) == class_index).astype(np.uint8)

    def label(self, image_id: str) -> np.ndarray:
        return self._label

    def image(self, image_id: str) -> np.ndarray:
        return self.photos[image_id]


@dataclass(frozen=True)
class _Maps:
    """Seed maps in memory, with what is read of a store of them."""

    seeds: dict[str, SeedMaps]
    class_names: list[str]
    path: str = "the photos' CAMs"

    def read(self, image_id: str) -> np.ndarray:
        return self.seeds[image_id].pack()[0]

    def attrs(self, image_id: str) -> dict[str, Any]:
        return self.seeds[image_id].pack()[1]
