"""Training of MCTformer-V2: Xu et al., CVPR 2022, section 3.3, as the released code runs.

    loss = soft_margin(class logits) + soft_margin(patch logits)

each the multi-label soft-margin loss, mean over classes and batch. The recipe is DeiT's (Touvron et al., ICML 2021):
AdamW at 5e-4 for 512 images a step, decay .05 of all but norms, biases and tokens, cosine with five epochs of warm-up,
random resized crops, RandAugment, random erasing, stochastic depth .1. Here the cosine falls to 0 and the warm-up begins
at 0; DeiT's ends at 1e-5 and begins at 1e-6.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

import torch
from torch.nn import functional

from camflow.errors import ConfigError
from camflow.models.mctformer import MctFormer, architecture_of, build_mctformer, save_mctformer
from camflow.train.augment import ResizedCrop, TrainTransform
from camflow.train.classify import Catalog, ClassifyTask
from camflow.train.inputs import InputParams
from camflow.train.tofile import Run, train_to_file

log = logging.getLogger(__name__)

UNDECAYED = ("cls_token", "pos_embed")


@dataclasses.dataclass(frozen=True)
class MctFormerParams(InputParams):
    """Parameters of the training; the defaults are the published ones. Fields of ``InputParams`` and ``TrainSettings``
    mean what they mean there.

    Attributes:
        backbone: see ``camflow.models.mctformer.architecture_of``.
        weights: see ``camflow.models.vit_weights``. Published with DeiT-S's ImageNet weights.
        patch, width, depth, heads, stem: of the network; None keeps those of the backbone.
        size: side of the image that the position embedding is learnt at; None: ``crop``. Weights of another size have
            theirs resized.
        drop_path: probability that the last block leaves a branch out.
        crop_area: bounds of the share of a photo that a training image shows; None for ``scale``'s way to crop.
    """

    loss: ClassVar[str] = "soft_margin"  # what the validation columns report

    epochs: int = 60
    batch_size: int = 64
    lr: float = 5e-4 * 64 / 512
    weight_decay: float = 0.05
    optimizer: str = "adamw"
    schedule: str = "cosine"
    warmup_epochs: float = 5.0
    crop: int = 224
    scale: tuple[int, int] | None = None
    augment: Mapping[str, Mapping[str, Any]] = dataclasses.field(
        default_factory=lambda: {"rand_augment": {}, "random_erasing": {}}
    )
    backbone: str = "deit_small"
    weights: str = "none"
    patch: int | None = None
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    stem: str | None = None
    size: int | None = None
    drop_path: float = 0.1
    crop_area: tuple[float, float] | None = (0.08, 1.0)

    def __post_init__(self):
        super().__post_init__()
        if self.crop_area is not None:
            object.__setattr__(self, "crop_area", tuple(float(share) for share in self.crop_area))
            if len(self.crop_area) != 2 or not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
                raise ConfigError(f"mctformer: crop_area is two shares, the smaller first, not {list(self.crop_area)}")
            if self.scale is not None:
                raise ConfigError("mctformer: crop_area and scale are two ways to crop; set one of them to null")

    def transform(self, model: Any) -> TrainTransform:
        if self.crop_area is None:
            return super().transform(model)
        return ResizedCrop(model.mean, model.std, self.crop, None, self.hflip, self.augment, self.crop_area)

    def build(self, n_classes: int) -> MctFormer:
        """Build the network with its initial weights."""
        if self.weights == "none" and self.backbone != "small":
            log.warning(
                "weights: none: a transformer of this size is published with weights of ImageNet and learns little without"
            )
        names = ("patch", "width", "depth", "heads", "stem")
        changes = {name: getattr(self, name) for name in names}
        shape = architecture_of(self.backbone, **changes, size=self.size or self.crop)
        return build_mctformer(
            n_classes,
            shape,
            backbone=self.backbone,
            weights=self.weights,
            drop_path=self.drop_path,
            seed=self.seed,
        )


def mctformer_losses(class_logits: torch.Tensor, patch_logits: torch.Tensor, label: torch.Tensor) -> dict:
    """Both terms and ``loss``, their sum; logits and label (B, C)."""
    terms = {
        "class": functional.multilabel_soft_margin_loss(class_logits, label),
        "patch": functional.multilabel_soft_margin_loss(patch_logits, label),
    }
    return {**terms, "loss": terms["class"] + terms["patch"]}


class MctFormerTask(ClassifyTask):
    """Both losses; metrics are those of a classifier, of the class logits, and the two terms."""

    model: MctFormer
    params: MctFormerParams

    def step(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        label = batch["label"]
        maps, logits = self.model.score_maps_and_logits(batch["image"])
        logits = logits.float()
        self.remember(logits, label)
        terms = mctformer_losses(logits, maps.float().mean(dim=(2, 3)), label)
        return terms["loss"], {name: terms[name] for name in ("class", "patch")}

    def param_groups(self) -> list[dict[str, Any]]:
        decayed, others = [], []
        for name, parameter in self.model.named_parameters():
            (others if parameter.ndim < 2 or name in UNDECAYED else decayed).append(parameter)
        return [{"params": decayed}, {"params": others, "weight_decay": 0.0}]


def train_mctformer(
    catalog_train: Catalog,
    catalog_val: Catalog | None,
    params: MctFormerParams,
    **run: Unpack[Run],
) -> MctFormer:
    """Train MCTformer and write it; calling again after a kill resumes and ends in the same bytes.

    Args:
        catalog_train: images and labels to learn from.
        catalog_val: images for the validation columns of the metrics, or None.
        params: see ``MctFormerParams``.
        out: the network's file, see ``camflow.models.mctformer.load_mctformer``.
        metrics_csv: one row per epoch: epoch, lr, train_class, train_loss, train_patch, train_map, val_loss, val_map,
            and val_accuracy if every validation image has one label.
        run: see ``camflow.train.tofile.Run``.

    Returns:
        The network in eval mode on its device.
    """
    class_names = list(catalog_train.class_names)

    def make_task() -> MctFormerTask:
        return MctFormerTask(params.build(len(class_names)), catalog_train, catalog_val, params, run.get("workers", 0))

    return train_to_file(make_task, params, save_mctformer, method="mctformer", class_names=class_names, **run)
