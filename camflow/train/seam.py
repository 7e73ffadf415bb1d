"""Training of SEAM: Wang et al., CVPR 2020, sections 3.2 to 3.4, as the released code runs.

Every image is seen twice, at full size (branch 1) and reduced to 0.3 of it (branch 2); both branches share the network.
With M the maps before and R the maps after the PCM, C classes and a background:

    cls   mean over the branches of the multi-label soft-margin loss of the mean-pooled M of the classes
          + mean over the branches of ``lowest_quarter`` of R, a term that the paper does not mention
    er    mean |M1 - M2| over the classes
    ecr   |strongest(M2) - R1| + |strongest(M1) - R2|, each the mean of its largest fifth per image

    loss = cls + er + ecr

For er and ecr all maps are normalised (``max_norm``), those of branch 1 then reduced to the size of branch 2, and maps
of absent classes are zero. In ecr the M are constants with 1 - max_c M_c as background, so it trains the PCM only.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

import torch
from torch.nn import functional

from camflow.errors import ConfigError
from camflow.models.seam import Seam, build_seam, max_norm, save_seam, strongest_only, with_background
from camflow.train.classify import Catalog, ClassifyTask
from camflow.train.groups import freeze_as_published, published_groups
from camflow.train.inputs import InputParams
from camflow.train.tofile import Run, train_to_file

log = logging.getLogger(__name__)

Maps = tuple[torch.Tensor, torch.Tensor]  # before and after the PCM, (B, C+1, h, w) each


# --- losses ----------------------------------------------------------------------------------------------------------


def reduce_size(images: torch.Tensor, scale: float) -> torch.Tensor:
    """Resize (B, D, H, W) to floor(scale H) x floor(scale W), bilinear with aligned corners."""
    size = tuple(max(1, int(n * scale)) for n in images.shape[2:])
    return functional.interpolate(images, size=size, mode="bilinear", align_corners=True)


def lowest_quarter(maps: torch.Tensor) -> torch.Tensor:
    """Mean over each image's lowest quarter of pixels of relu(max_c maps_c), for class maps (B, C, h, w).

    It holds down the refined maps where an image is surely background.
    """
    best = maps.amax(dim=1).flatten(1)
    count = max(1, best.shape[1] // 4)
    return functional.relu(best.topk(count, dim=1, largest=False).values).mean()


def hardest_mean(errors: torch.Tensor, share: float) -> torch.Tensor:
    """Mean over the largest ``share`` of each image's values (B, ...): online hard example mining."""
    flat = errors.flatten(1)
    return flat.topk(max(1, int(flat.shape[1] * share)), dim=1).values.mean()


def comparable(maps: torch.Tensor, label: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Normalised maps (B, C+1, *size), zero for absent classes: what er and ecr compare.

    Args:
        maps: (B, C+1, h, w); normalised at this size, then resized.
        label: (B, C) of 0/1.
        size: of the smaller branch.
    """
    maps = max_norm(maps)
    if maps.shape[2:] != size:
        maps = functional.interpolate(maps, size=size, mode="bilinear", align_corners=True)
    return maps * _with_background_label(label)


def _with_background_label(label: torch.Tensor) -> torch.Tensor:
    """(B, C) -> (B, C+1, 1, 1); the background is always present."""
    return functional.pad(label, (1, 0), value=1.0)[:, :, None, None]


def seam_losses(full: Maps, small: Maps, label: torch.Tensor, hard_share: float = 0.2) -> dict[str, torch.Tensor]:
    """All terms of the loss.

    Args:
        full, small: maps of the two branches before and after the PCM, at the size of the branch's image.
        label: float (B, C) of 0/1.
        hard_share: of the values that ecr looks at.

    Returns:
        ``cls1``, ``cls2``, ``rvmin1``, ``rvmin2``, ``cls``, ``er``, ``ecr1``, ``ecr2``, ``ecr`` and ``loss``.
    """
    terms: dict[str, torch.Tensor] = {}
    present = _with_background_label(label)
    for branch, (maps, refined) in enumerate((full, small), 1):
        logits = maps[:, 1:].mean(dim=(2, 3))
        terms[f"cls{branch}"] = functional.multilabel_soft_margin_loss(logits, label)
        terms[f"rvmin{branch}"] = lowest_quarter((refined * present)[:, 1:])
    size = (small[0].shape[2], small[0].shape[3])
    before = [comparable(maps, label, size) for maps, _ in (full, small)]
    after = [comparable(refined, label, size) for _, refined in (full, small)]
    target = [strongest_only(with_background(maps.detach())) for maps in before]
    terms["er"] = (before[0] - before[1])[:, 1:].abs().mean()
    terms["ecr1"] = hardest_mean((target[1] - after[0]).abs(), hard_share)
    terms["ecr2"] = hardest_mean((target[0] - after[1]).abs(), hard_share)
    terms["cls"] = (terms["cls1"] + terms["cls2"]) / 2 + (terms["rvmin1"] + terms["rvmin2"]) / 2
    terms["ecr"] = terms["ecr1"] + terms["ecr2"]
    terms["loss"] = terms["cls"] + terms["er"] + terms["ecr"]
    return terms


# --- the task --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class SeamParams(InputParams):
    """Parameters of the training of SEAM; the defaults are the published ones. Fields of ``InputParams`` and
    ``TrainSettings`` mean what they mean there.

    Attributes:
        backbone, weights, output_stride, dilate, width: see ``camflow.models.seam.build_seam``. Published with
            ImageNet's weights; a classifier's file serves as well.
        small_scale: size of the second branch relative to the first.
        hard_share: share of the values that the cross loss looks at.
    """

    loss: ClassVar[str] = "soft_margin"  # what the validation columns report

    epochs: int = 8
    batch_size: int = 8
    lr: float = 0.01
    weight_decay: float = 5e-4
    momentum_slot: str = "authors"
    backbone: str = "resnet38"
    weights: str = "none"
    output_stride: int | None = None
    dilate: bool = False
    width: int = 24
    crop: int = 448
    scale: tuple[int, int] | None = (448, 768)
    augment: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=lambda: {"colour_jitter": {}})
    small_scale: float = 0.3
    hard_share: float = 0.2

    def __post_init__(self):
        super().__post_init__()
        for name in ("small_scale", "hard_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"seam: {name} lies in (0, 1], not {getattr(self, name)}")

    def build(self, n_classes: int) -> Seam:
        """Build the network with its initial weights and the published layers frozen."""
        if self.weights == "none":
            log.warning("weights: none: the frozen layers and norms of SEAM stay as they are drawn")
        names = ("weights", "output_stride", "dilate", "width", "seed")
        model = build_seam(self.backbone, n_classes, **{name: getattr(self, name) for name in names})
        freeze_as_published(model.net)
        return model


class SeamTask(ClassifyTask):
    """The two branches and their losses; metrics are those of a classifier, and the terms cls, er and ecr."""

    model: Seam
    params: SeamParams

    def step(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        images, label = batch["image"], batch["label"]
        full = self._maps(images)
        small = self._maps(reduce_size(images, self.params.small_scale))
        self.remember(full[0][:, 1:].mean(dim=(2, 3)), label)
        terms = seam_losses(full, small, label, self.params.hard_share)
        return terms["loss"], {name: terms[name] for name in ("cls", "er", "ecr")}

    def _maps(self, images: torch.Tensor) -> Maps:
        before, after = self.model.image_size_maps(images)
        return before.float(), after.float()

    def param_groups(self) -> list[dict[str, Any]]:
        return published_groups(self.model, self.model.new_layers())


def train_seam(
    catalog_train: Catalog,
    catalog_val: Catalog | None,
    params: SeamParams,
    **run: Unpack[Run],
) -> Seam:
    """Train SEAM and write it; calling again after a kill resumes and ends in the same bytes.

    Args:
        catalog_train: images and labels to learn from.
        catalog_val: images for the validation columns of the metrics, or None.
        params: see ``SeamParams``.
        out: the network's file, see ``camflow.models.seam.load_seam``.
        metrics_csv: one row per epoch: epoch, lr, train_cls, train_ecr, train_er, train_loss, train_map, val_loss,
            val_map, and val_accuracy if every validation image has one label.
        run: see ``camflow.train.tofile.Run``.

    Returns:
        The network in eval mode on its device.
    """
    class_names = list(catalog_train.class_names)

    def make_task() -> SeamTask:
        return SeamTask(params.build(len(class_names)), catalog_train, catalog_val, params, run.get("workers", 0))

    return train_to_file(make_task, params, save_seam, method="seam", class_names=class_names, **run)
