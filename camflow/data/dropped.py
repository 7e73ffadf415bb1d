"""Photos with pixels dropped at test time, for the comparison of Hide-and-Seek with dropout on pixels (Singh and Lee 2017)."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from camflow.data.erased import erase


class PixelDropout:
    """A catalog whose photos have pixels dropped, for testing as ``camflow.train.hiding.pixel_dropout`` trains; all else
    is the catalog's.

    What is dropped from a photo is a function of ``seed`` and its id, so every stage sees the same photo. A dropped
    pixel takes the mean rounded to a byte, less than half a grey level off. Where a stage resizes photos, dropped
    pixels mix with their neighbours; look at scale 1.

    Args:
        catalog: a ``camflow.data.catalog.Catalog`` or what is used like one.
        mean: of the network that will see the photos, RGB in [0, 1].
        p: probability with which a pixel is dropped.
        seed: of the masks.
    """

    def __init__(self, catalog: Any, mean: Sequence[float], p: float = 0.5, seed: int = 0):
        self.catalog, self.mean, self.p, self.seed = catalog, tuple(mean), p, seed

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "catalog":  # not there yet while it is being unpickled
            raise AttributeError(name)
        return getattr(self.catalog, name)

    def __len__(self) -> int:
        return len(self.catalog)

    def __contains__(self, image_id: str) -> bool:
        return image_id in self.catalog

    def subset(self, ids: Iterable[str]) -> PixelDropout:
        return PixelDropout(self.catalog.subset(ids), self.mean, self.p, self.seed)

    def shard(self, k: int, n: int) -> PixelDropout:
        return PixelDropout(self.catalog.shard(k, n), self.mean, self.p, self.seed)

    def image(self, image_id: str) -> np.ndarray:
        """The photo, uint8 RGB (H, W, 3), with its pixels dropped."""
        photo = self.catalog.image(image_id)
        rng = np.random.default_rng([self.seed, zlib.crc32(image_id.encode())])
        return erase(photo, rng.random(photo.shape[:2]) < self.p, self.mean)
