"""Training of AMN on the confident labels of a seed: Lee, Kim and Shim, CVPR 2022, as its code runs.

The defaults are the published ones: Adam at 5e-6 for the trunk and 1e-4 for the new layers, 5 epochs of 16 crops of 512
pixels, photos resized by a factor between .5 and 1.5, label smoothing .4. Labels are brought to the grid of the logits as
Pillow's nearest resizing does. The learning rate stays as it is, as no schedule is known; batch norms and stem are frozen
as in IRN's networks, which is an assumption.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Unpack

import numpy as np
import torch

from camflow.errors import ConfigError
from camflow.models.amn import Amn, build_amn, save_amn
from camflow.models.deeplab import RATES
from camflow.train.amn_loss import amn_losses
from camflow.train.augment import check_augmentations
from camflow.train.loop import Task
from camflow.train.segment import LabelMaps, Photos, SegmentSamples, nearest_labels
from camflow.train.settings import TrainSettings, warn_of_frozen
from camflow.train.tofile import Run, train_to_file


class LabelledPhotos(Photos, Protocol):
    """What training reads of ``camflow.data.catalog.Catalog``."""

    def label(self, image_id: str) -> np.ndarray: ...  # uint8 (C,) of 0/1


@dataclasses.dataclass(frozen=True)
class AmnParams(TrainSettings):
    """Parameters of the training; the defaults are the published ones.

    Fields that ``TrainSettings`` also has mean what they mean there. Others:

    Attributes:
        backbone, weights, output_stride, dilate, width, rates, dropout, freeze_bn, freeze_stem, detach: see
            ``camflow.models.amn.build_amn``.
        smoothing: share of a cell's target that the labels other than its own have together.
        head_lr_mult: learning rate of the new layers as a multiple of ``lr``.
        crop: side of the square training input in pixels.
        scale: bounds of the factor by which a photo is resized before cropping.
        hflip: probability of mirroring.
        augment: {name: parameters} of further augmentations.
    """

    scale_pick: ClassVar[str] = "uniform"  # of the samples, see ``camflow.train.segment.SegmentSamples``

    lr: float = 5e-6
    optimizer: str = "adam"
    schedule: str = "constant"
    backbone: str = "resnet50"
    weights: str = "IMAGENET1K_V1"
    output_stride: int | None = 16
    dilate: bool = False
    width: int = 24
    rates: tuple[int, ...] = RATES
    dropout: float = 0.1
    freeze_bn: bool = True
    freeze_stem: bool = True
    detach: str = "none"
    smoothing: float = 0.4
    head_lr_mult: float = 20.0
    crop: int = 512
    scale: tuple[float, float] = (0.5, 1.5)
    hflip: float = 0.5
    augment: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "scale", tuple(float(s) for s in self.scale))
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(f"amn: scale must be two factors above 0, the smaller first, not {list(self.scale)}")
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"amn: smoothing lies in [0, 1), not {self.smoothing}")
        if self.crop < 1 or not 0 <= self.hflip <= 1:
            raise ConfigError(f"amn: crop is positive, hflip a probability, not {self.crop} and {self.hflip}")
        check_augmentations(self.augment)

    def build(self, n_classes: int) -> Amn:
        """Build the network with its initial weights."""
        warn_of_frozen(self.weights, self.freeze_bn, self.freeze_stem, self.detach)
        names = (
            "weights", "output_stride", "dilate", "width", "rates", "dropout", "freeze_bn", "freeze_stem", "detach", "seed",
        )  # fmt: skip
        return build_amn(self.backbone, n_classes, **{name: getattr(self, name) for name in names})

    def frame(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) of a photo at scale 1: its own."""
        return size


class AmnSamples(SegmentSamples):
    """Samples of a segmentation network with ``present``, float32 (C,) of 0/1: the labels of the whole photo."""

    catalog: LabelledPhotos

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        present = self.catalog.label(self.ids[index]).astype(np.float32)
        return {**super().sample(index, rng), "present": torch.from_numpy(present)}


class AmnTask(Task):
    """The network and the labels it learns; logs the loss of background and of foreground cells.

    The means run over the cells of a micro-batch: with ``accumulate`` or several processes each part has its own.
    """

    model: Amn

    def __init__(self, model: Amn, catalog: LabelledPhotos, labels: LabelMaps, params: AmnParams):
        self.model, self.params = model, params
        self.dataset = AmnSamples(catalog, labels, params, model.mean, model.std)

    def step(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = self.model(batch["image"], batch["present"]).float()
        terms = amn_losses(logits, nearest_labels(batch["label"], logits.shape[2:]), self.params.smoothing)
        return terms.pop("loss"), terms

    def param_groups(self) -> list[dict[str, Any]]:
        return [
            {"params": self.model.trunk_parameters()},
            {"params": self.model.new_parameters(), "lr_mult": self.params.head_lr_mult},
        ]


def train_amn(
    catalog: LabelledPhotos,
    labels: LabelMaps,
    params: AmnParams,
    **run: Unpack[Run],
) -> Amn:
    """Train an AMN and write it; calling again after a kill resumes and ends in the same bytes.

    Args:
        catalog: the photos and their image labels.
        labels: label maps of all of them, uint8 of {0 .. C, 255}.
        params: see ``AmnParams``.
        out: the network's file, see ``camflow.models.amn.load_amn``.
        metrics_csv: one row per epoch: epoch, lr, train_background, train_foreground, train_loss.
        run: see ``camflow.train.tofile.Run``.

    Returns:
        The network in eval mode on its device.

    Raises:
        DataError: labels are of another size than their photo, or of unknown classes; names the image.
    """
    class_names = list(catalog.class_names)

    def make_task() -> AmnTask:
        return AmnTask(params.build(len(class_names)), catalog, labels, params)

    return train_to_file(make_task, params, save_amn, method="amn", class_names=class_names, **run)
