"""What a recipe has to show of an image: seed maps as heat and thresholded, masks and predictions as label maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from camflow.errors import DataError
from camflow.localize.maps import checked_seed, full_size_maps
from camflow.plots.overlays import seed_label
from camflow.store import Store, read_json


@dataclass(frozen=True)
class Recipe:
    """A column of the gallery. Picklable.

    Attributes:
        name: the recipe below its dataset, e.g. ``plain/cam/crf``.
        shows: what its label maps are, in words.
        maps: its seed maps, of a localizer; None for all others.
        masks: its label maps, of a refiner or a segmentation network; None for a localizer.
        threshold: background score that makes label maps of seed maps; None where there is none to take.
    """

    name: str
    shows: str
    maps: Store | None = None
    masks: Store | None = None
    threshold: float | None = None

    @property
    def has_labels(self) -> bool:
        """Whether there are label maps, which scores and comparisons need."""
        return self.masks is not None or self.threshold is not None

    def read(self, image_id: str, size: tuple[int, int]) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Heat float32 ``(H, W)`` in [0, 1] (the maximum over the classes) and labels uint8 ``(H, W)``, None where absent.

        Raises:
            StoreError: the store does not have the image.
            DataError: what it has is not for a photo of ``size``.
        """
        if self.maps is None:
            labels = self.masks.read(image_id)
            if labels.shape != tuple(size):
                raise DataError(
                    f"image '{image_id}': its label map in {self.masks.path} is {labels.shape} pixels, the photo "
                    f"{tuple(size)}; run the workflow again to make it anew"
                )
            return None, labels
        seed = checked_seed(self.maps, image_id, size)
        maps = full_size_maps(seed)
        heat = maps.max(axis=0) if len(maps) else np.zeros(size, np.float32)
        return heat, None if self.threshold is None else seed_label(maps, seed.classes, self.threshold)


def open_recipe(name: str, shows: str, files: Mapping[str, str], number: int) -> Recipe:
    """A column from the files of a job: ``maps_<number>`` and ``threshold_<number>`` (a score), or ``masks_<number>``."""
    maps, score, masks = (files.get(f"{what}_{number}") for what in ("maps", "threshold", "masks"))
    return Recipe(
        name,
        shows,
        maps=Store(maps, stage="maps") if maps else None,
        masks=Store(masks, stage="masks") if masks else None,
        threshold=float(read_json(score)["threshold"]) if score else None,
    )
