"""Photos with erased pixels: Wei et al., "Object Region Mining with Adversarial Erasing", CVPR 2017, section 3.1.

What a classifier found is set to the mean pixel of the training set, so that the next classifier has to look elsewhere.
Only the masks are stored, one bit a pixel; the photo is erased when it is read.

A photo of bytes cannot hold the mean exactly. Therefore a pixel is erased twice: in the photo it takes the rounded mean
(less than half a grey level off), so that no resampling mixes what was there into its neighbours, and in the normalised
input the resampled mask sets it to exactly 0, as the padding of a crop is.

This file imports nothing but the store: whatever it imported would count for the keys of the trained networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from camflow.errors import DataError
from camflow.store import Store

STAGE = "erased"

# (photo, generator, mask uint8 (H, W)) -> (input float32 (3, c, c), the mask moved along, uint8 (c, c))
Transform = Callable[[np.ndarray, np.random.Generator, np.ndarray], tuple[np.ndarray, np.ndarray]]


# --- masks as bits ---------------------------------------------------------------------------------------------------


def pack_regions(classes: np.ndarray, regions: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Return uint8 (K, H, ceil(W / 8)), eight pixels of a row in a byte, and the attributes ``unpack_regions`` needs.

    Args:
        classes: (K,) 0-based class indices.
        regions: bool (K, H, W).
    """
    if len(classes) != len(regions):
        raise ValueError(f"{len(classes)} classes but {len(regions)} regions")
    attrs = {"classes": np.asarray(classes, np.int32), "size": np.array(regions.shape[1:], np.int32)}
    return np.packbits(regions, axis=2), attrs


def unpack_regions(packed: np.ndarray, attrs: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Rebuild classes int64 (K,) and regions bool (K, H, W) from ``pack_regions``'s array and attributes."""
    width = int(attrs["size"][1])
    regions = np.unpackbits(packed, axis=2, count=width).astype(bool)
    return np.asarray(attrs["classes"], np.int64).reshape(-1), regions


class ErasedStore:
    """Reads what was erased, of all rounds up to one; picklable.

    Args:
        path: a store of stage ``erased``.

    Raises:
        StoreError: missing, torn, or of another stage; later, an image it does not have.
    """

    def __init__(self, path: str | Path):
        self._store = Store(path, stage=STAGE)
        self.path = self._store.path
        self.class_names, self.meta = self._store.class_names, self._store.meta

    @property
    def ids(self) -> list[str]:
        return self._store.ids

    def read(self, image_id: str, size: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the classes int64 (K,) and their regions bool (K, H, W).

        Raises ``DataError`` when the photo has a ``size`` (H, W) that the regions were not made for.
        """
        attrs = self._store.attrs(image_id)
        if size is not None and tuple(attrs["size"]) != tuple(size):
            found, wanted = ("x".join(str(int(n)) for n in pair) for pair in (attrs["size"], size))
            raise DataError(
                f"image '{image_id}': {self.path} has its erased pixels for {found} pixels, the photo has {wanted}; "
                "erase again"
            )
        return unpack_regions(self._store.read(image_id), attrs)

    def union(self, image_id: str, size: Sequence[int] | None = None) -> np.ndarray:
        """Return bool (H, W): what is erased for any class. ``size`` as in ``read``."""
        return self.read(image_id, size)[1].any(axis=0)


# --- photos ----------------------------------------------------------------------------------------------------------


def mean_pixel(mean: Sequence[float]) -> np.ndarray:
    """Return the mean of a network (RGB in [0, 1]) as the nearest uint8 (3,) pixel."""
    return np.rint(255 * np.asarray(mean, np.float64)).astype(np.uint8)


def erase(photo: np.ndarray, mask: np.ndarray, mean: Sequence[float]) -> np.ndarray:
    """Return a copy of the uint8 photo (H, W, 3) with the pixels of the bool mask (H, W) at the rounded mean."""
    return np.where(mask[..., None], mean_pixel(mean), photo)


class ErasedCatalog:
    """A catalog whose photos are erased; everything else is the catalog's own.

    Args:
        catalog: a ``camflow.data.catalog.Catalog`` or what is used like one.
        erased: has the pixels of each of its images.
        mean: of the network that will see the photos, RGB in [0, 1].
    """

    def __init__(self, catalog: Any, erased: ErasedStore, mean: Sequence[float]):
        self.catalog, self.erased, self.mean = catalog, erased, tuple(mean)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "catalog":  # not there yet while it is being unpickled
            raise AttributeError(name)
        return getattr(self.catalog, name)

    def __len__(self) -> int:
        return len(self.catalog)

    def __contains__(self, image_id: str) -> bool:
        return image_id in self.catalog

    def subset(self, ids: Iterable[str]) -> ErasedCatalog:
        return ErasedCatalog(self.catalog.subset(ids), self.erased, self.mean)

    def shard(self, k: int, n: int) -> ErasedCatalog:
        return ErasedCatalog(self.catalog.shard(k, n), self.erased, self.mean)

    def image(self, image_id: str) -> np.ndarray:
        """The erased photo, uint8 RGB (H, W, 3); errors as ``image_and_mask``."""
        return self.image_and_mask(image_id)[0]

    def image_and_mask(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        """The erased photo, and bool (H, W): which of its pixels are erased.

        Raises:
            StoreError: the store of erased pixels does not have the image.
            DataError: it has it for another size of photo.
        """
        photo = self.catalog.image(image_id)
        mask = self.erased.union(image_id, photo.shape[:2])
        return erase(photo, mask, self.mean), mask


class ErasedSamples:
    """Training samples like those of ``camflow.train.classify.LabelledSamples``, exactly 0 where they are erased.

    The mask goes through the transform as a label map does, nearest neighbour, and draws no random numbers of its own:
    without erased pixels the samples are the same to the bit. Random changes of colour come before, so that they leave
    no trace in erased pixels.

    Args:
        catalog: of erased photos.
        transform: a ``camflow.train.augment.TrainTransform``.
    """

    def __init__(self, catalog: ErasedCatalog, transform: Transform):
        self.catalog, self.transform = catalog, transform
        self.ids = list(catalog.ids)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        photo, mask = self.catalog.image_and_mask(self.ids[index])
        image, moved = self.transform(photo, rng, mask.astype(np.uint8))
        image[:, moved == 1] = 0  # the padding, 255 in the mask, is 0 already
        label = self.catalog.label(self.ids[index]).astype(np.float32)
        return {"image": torch.from_numpy(image), "label": torch.from_numpy(label)}
