"""How a classifier sees photos, in training and in validation: what the parameters of all classifier methods share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from camflow.errors import ConfigError
from camflow.train.augment import TrainTransform, check_augmentations, long_side_size
from camflow.train.settings import TrainSettings


@dataclasses.dataclass(frozen=True)
class InputParams(TrainSettings):
    """Settings of the loop and of the input.

    Attributes:
        crop: side of the square training input in pixels.
        scale: bounds of the longer side a training image is resized to before cropping; None resizes every image to
            ``crop`` x ``crop``.
        hflip: probability of mirroring.
        augment: {name: parameters} of further augmentations.
        eval_size: longer side of validation images; None: the middle of ``scale``. Without ``scale`` validation images
            are resized like training images.
    """

    crop: int = 512
    scale: tuple[int, int] | None = (320, 640)
    hflip: float = 0.5
    augment: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    eval_size: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.scale is not None:
            object.__setattr__(self, "scale", tuple(self.scale))  # a list when it comes from a config file
            if len(self.scale) != 2 or not 1 <= self.scale[0] <= self.scale[1]:
                raise ConfigError(f"scale must be two sizes in pixels, the smaller first, not {list(self.scale)}")
        if self.crop < 1:
            raise ConfigError(f"crop must be positive, not {self.crop}")
        check_augmentations(self.augment)

    def transform(self, model: Any) -> TrainTransform:
        """Return the training transform for a network with ``mean`` and ``std``."""
        return TrainTransform(model.mean, model.std, self.crop, self.scale, self.hflip, self.augment)

    def eval_grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) at which a validation image of a size is seen."""
        if self.scale is None:
            return self.crop, self.crop
        return long_side_size(size, self.eval_size or sum(self.scale) // 2)
