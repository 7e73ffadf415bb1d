"""A catalog made of nothing: photos, labels and masks drawn from the id, for tests of whatever reads a catalog."""

from __future__ import annotations

import zlib

import numpy as np

from camflow.localize.maps import SeedMaps
from camflow.store import Store, StoreWriter, shard_of

CLASSES = ["ant", "bee", "cow", "dog", "elk"]
SIZES = [(40, 56), (33, 47), (56, 40)]


class Photos:
    """Images ``i00 ..`` of three sizes, every seventh without a class, every fifth without a mask."""

    class_names = CLASSES
    split, dataset = "val", "toy"

    def __init__(self, count: int, ids: list[str] | None = None):
        self.ids = ids if ids is not None else [f"i{n:02d}" for n in range(count)]
        self.sizes = np.array([self.size(i) for i in self.ids], np.int32).reshape(-1, 2)

    def shard(self, k: int, n: int) -> Photos:
        return Photos(0, [i for i in self.ids if shard_of(i, n) == k])

    def size(self, image_id: str) -> tuple[int, int]:
        return SIZES[int(image_id[1:]) % len(SIZES)]

    def _rng(self, image_id: str, what: str) -> np.random.Generator:
        return np.random.default_rng(zlib.crc32(f"{what} {image_id}".encode()))

    def label(self, image_id: str) -> np.ndarray:
        label = np.zeros(len(CLASSES), np.uint8)
        if int(image_id[1:]) % 7:
            chosen = self._rng(image_id, "label").choice(len(CLASSES), 1 + int(image_id[1:]) % 3, replace=False)
            label[chosen] = 1
        return label

    @property
    def labels(self) -> np.ndarray:
        return np.stack([self.label(i) for i in self.ids])

    def image(self, image_id: str) -> np.ndarray:
        """Noise, and a grey gradient so that the CRF sees an edge."""
        noise = self._rng(image_id, "photo").integers(0, 40, (*self.size(image_id), 3))
        noise[:, : noise.shape[1] // 2] += 180
        return noise.astype(np.uint8)

    def mask(self, image_id: str) -> np.ndarray | None:
        if int(image_id[1:]) % 5 == 4:
            return None
        rng, present = self._rng(image_id, "mask"), np.flatnonzero(self.label(image_id)) + 1
        return rng.choice([0, 0, *present, 255], self.size(image_id)).astype(np.uint8)


def seed_of(catalog: Photos, image_id: str) -> SeedMaps:
    """Random raw maps at two scales of stride 16."""
    classes, (height, width) = np.flatnonzero(catalog.label(image_id)), catalog.size(image_id)
    rng = catalog._rng(image_id, "maps")
    grids = [(-(-round(height * s) // 16), -(-round(width * s) // 16)) for s in (1.0, 1.5)]
    maps = [(rng.random((len(classes), *grid)) * 30).astype(np.float32) for grid in grids]
    return SeedMaps(classes, maps if len(classes) else [], (height, width))


def seed_store(path, catalog: Photos, leave_out: tuple[str, ...] = ()) -> Store:
    with StoreWriter(path, stage="maps", class_names=catalog.class_names) as writer:
        for image_id in catalog.ids:
            if image_id not in leave_out:
                array, attrs = seed_of(catalog, image_id).pack()
                writer.write(image_id, array, **attrs)
    return Store(path, stage="maps")
