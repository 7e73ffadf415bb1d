"""Made photos with truth and seed maps, for measuring at any photo size without a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
from PIL import Image

from camflow.data.parts import NAMES, PartsParams, draw_scene
from camflow.localize.maps import SeedMaps

SCALES = (1.0, 0.5, 1.5, 2.0)  # of the seed maps: IRN's
STRIDE = 16
CLASSES = NAMES[:6]
PRESENT = 2  # classes in every photo, so that the work does not depend on the draw


@dataclass(frozen=True)
class Example:
    """A photo uint8 (H, W, 3), its label map uint8 (H, W), and seed maps of the classes in it."""

    photo: np.ndarray
    truth: np.ndarray
    seed: SeedMaps


def examples(size: tuple[int, int], number: int) -> list[Example]:
    """The first ``number`` scenes of the embedded dataset, drawn at ``size`` (H, W), that show two classes."""
    return list(islice(_examples(size), number))


def _examples(size: tuple[int, int]) -> Iterator[Example]:
    height, width = size
    params = PartsParams(size=max(height, width, 48))
    for index in count():
        photo, scene = draw_scene(params, "val", index)
        label_of = np.array([0, *(k + 1 for k in scene.classes)], np.uint8)
        truth = label_of[scene.instance][:height, :width]
        classes = np.unique(truth[truth > 0]).astype(np.int64) - 1
        if len(classes) == PRESENT:
            seed = _seed(truth, classes, np.random.default_rng(index))
            yield Example(np.ascontiguousarray(photo[:height, :width]), truth.copy(), seed)


def _seed(truth: np.ndarray, classes: np.ndarray, rng: np.random.Generator) -> SeedMaps:
    """What a localizer might return: the truth at feature resolution under noise, one map per scale and class."""
    maps = []
    for scale in SCALES:
        grid = tuple(-(-round(n * scale) // STRIDE) for n in truth.shape)
        covers = [Image.fromarray((truth == k + 1).astype(np.float32)) for k in classes]
        share = np.stack([np.asarray(c.resize(grid[::-1], Image.Resampling.BOX)) for c in covers])
        maps.append((share + 0.4 * rng.random(share.shape)).astype(np.float32))
    return SeedMaps(classes, maps, truth.shape, truth.shape, STRIDE)


class MemoryPhotos:
    """Examples as a catalog that needs no files: what localizers and training read of one."""

    def __init__(self, found: list[Example], class_names: tuple[str, ...]):
        self.class_names = class_names
        self.ids = [f"made_{index:04d}" for index in range(len(found))]
        self.sizes = np.array([example.truth.shape for example in found], np.int32)
        self._found = dict(zip(self.ids, found, strict=True))

    def image(self, image_id: str) -> np.ndarray:
        return self._found[image_id].photo

    def label(self, image_id: str) -> np.ndarray:
        label = np.zeros(len(self.class_names), np.uint8)
        label[self._found[image_id].seed.classes] = 1
        return label
