"""Small made data for galleries: photos, true masks, and recipes whose mistakes are known."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from camflow.gallery.recipes import Recipe
from camflow.localize.maps import SeedMaps
from camflow.store import Store, StoreWriter

CLASSES = ["cat", "dog", "bird"]


@dataclass
class MadeCatalog:
    """What a gallery reads of a catalog. Image k shows the class k mod 3 as a square, and every fifth another."""

    count: int
    size_: tuple[int, int] = (40, 60)
    masks: bool = True
    unmasked: frozenset[str] = frozenset()
    class_names: list[str] = field(default_factory=lambda: list(CLASSES))
    dataset: str = "made"
    split: str = "val"

    @property
    def ids(self) -> list[str]:
        return [f"img{k:05d}" for k in range(self.count)]

    @property
    def has_masks(self) -> bool:
        return self.masks

    def number(self, image_id: str) -> int:
        return int(image_id[3:])

    def size(self, image_id: str) -> tuple[int, int]:
        return self.size_

    def label(self, image_id: str) -> np.ndarray:
        return np.isin(np.arange(len(self.class_names)) + 1, self.truth(image_id)).astype(np.uint8)

    def image(self, image_id: str) -> np.ndarray:
        rng = np.random.default_rng(self.number(image_id))
        photo = np.full((*self.size_, 3), 90 + rng.integers(0, 80, 3), np.uint8)
        photo[self.truth(image_id) > 0] = (200, 190, 170)
        return photo

    def truth(self, image_id: str) -> np.ndarray:
        k, (height, width) = self.number(image_id), self.size_
        mask = np.zeros(self.size_, np.uint8)
        mask[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = k % 3 + 1
        if k % 5 == 0:
            mask[: height // 5, : width // 5] = (k + 1) % 3 + 1
        mask[-2:] = 255
        return mask

    def mask(self, image_id: str) -> np.ndarray | None:
        return None if image_id in self.unmasked or not self.masks else self.truth(image_id)


def prediction(catalog: MadeCatalog, image_id: str, seed: int) -> np.ndarray:
    """The truth shifted and with a wrong patch, differently for every image and seed; some pixels undecided."""
    rng = np.random.default_rng([seed, catalog.number(image_id)])
    labels = catalog.truth(image_id)
    labels = np.roll(np.where(labels == 255, 0, labels), rng.integers(-6, 7, 2), axis=(0, 1)).astype(np.uint8)
    top, left = rng.integers(0, 20, 2)
    labels[top : top + rng.integers(0, 12), left : left + 9] = rng.integers(0, 4)
    labels[0, : 6 * seed] = 255
    return labels


def mask_recipe(folder: Path, catalog: MadeCatalog, name: str, seed: int) -> Recipe:
    path = folder / f"{name.replace('/', '_')}.h5"
    with StoreWriter(path, stage="masks", class_names=catalog.class_names) as writer:
        for image_id in catalog.ids:
            writer.write(image_id, prediction(catalog, image_id, seed))
    return Recipe(name, "pseudo-masks", masks=Store(path, stage="masks"))


def seed_recipe(folder: Path, catalog: MadeCatalog, name: str, threshold: float | None) -> Recipe:
    """Seed maps on a grid of cells of 4 pixels, brightest in the middle of the object."""
    path = folder / f"{name.replace('/', '_')}.h5"
    with StoreWriter(path, stage="maps", class_names=catalog.class_names) as writer:
        for image_id in catalog.ids:
            height, width = (side // 4 for side in catalog.size_)
            y, x = np.mgrid[:height, :width]
            blob = np.exp(-(((y - height / 2) / height * 4) ** 2 + ((x - width / 2) / width * 4) ** 2))
            classes = catalog.label(image_id).nonzero()[0]
            maps = np.stack([np.roll(blob, 3 * k, axis=1) for k in range(len(classes))]).astype(np.float32)
            array, attrs = SeedMaps(classes, [maps], catalog.size_, stride=4).pack()
            writer.write(image_id, array, **attrs)
    return Recipe(name, "seed maps", maps=Store(path, stage="maps"), threshold=threshold)


def recipes(folder: Path, catalog: MadeCatalog) -> list[Recipe]:
    return [
        seed_recipe(folder, catalog, "plain/cam", 0.3),
        mask_recipe(folder, catalog, "plain/cam/crf", 1),
        mask_recipe(folder, catalog, "plain/cam/irn", 2),
    ]
