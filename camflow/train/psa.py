"""Training of AffinityNet: Ahn and Kwak, CVPR 2018, section 3.2, as the released code runs.

Pairs of cells within radius 5 whose labels are both known (not 255): "bg" both background, "fg" the same class, "neg"
different labels. With affinities a the loss is

    1/4 mean_bg -log(a + e)  +  1/4 mean_fg -log(a + e)  +  1/2 mean_neg -log(1 + e - a)             e = 1e-5

each mean over the whole batch and its count enlarged by e, so that a kind of pair that does not occur costs nothing.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import torch

from camflow.errors import ConfigError, DataError
from camflow.models.psa import RADIUS, STRIDE, AffinityNet, build_affinity_net, pair_affinity, save_affinity_net
from camflow.refine.driver import IGNORE
from camflow.refine.neighbours import neighbours, shift, source_window
from camflow.refine.psa_labels import crop_labels, read_confident_scores
from camflow.store import Store
from camflow.train.augment import (
    apply_augmentations,
    check_augmentations,
    normalize,
    random_crop_pad,
    random_flip,
    to_chw,
)
from camflow.train.classify import Catalog
from camflow.train.groups import freeze_as_published, published_groups
from camflow.train.loop import Task
from camflow.train.settings import TrainSettings
from camflow.train.tofile import Run, train_to_file

log = logging.getLogger(__name__)

EPSILON = 1e-5


# --- pairs and loss --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class PairLabels:
    """Which pairs are of which kind: bool tensors (B, P, n), in the order of ``pair_affinity``.

    Attributes:
        bg: both background.
        fg: the same class, not the background.
        neg: different labels.
    """

    bg: torch.Tensor
    fg: torch.Tensor
    neg: torch.Tensor


def pair_labels(labels: torch.Tensor, radius: int = RADIUS) -> PairLabels:
    """Sort the pairs of label maps (B, h, w), 0 background and 255 unknown, by kind; pairs with a 255 are of none.

    Raises ``ConfigError`` when the grid is too small to have a pair.
    """
    window = source_window(tuple(labels.shape[1:]), radius)
    source = labels[(..., *window)].flatten(1)[:, None]
    offsets = neighbours(radius).search.tolist()
    there = torch.stack([labels[(..., *shift(window, dy, dx))].flatten(1) for dy, dx in offsets], dim=1)
    known, same = (source != IGNORE) & (there != IGNORE), source == there
    return PairLabels(bg=known & same & (source == 0), fg=known & same & (source != 0), neg=known & ~same)


def affinity_loss(affinity: torch.Tensor, pairs: PairLabels) -> dict[str, torch.Tensor]:
    """The terms ``bg``, ``fg``, ``neg`` and their weighted sum ``loss`` for affinities (B, P, n) in [0, 1]."""
    positive, negative = -torch.log(affinity + EPSILON), -torch.log(1 + EPSILON - affinity)
    terms = {
        "bg": _mean(positive, pairs.bg),
        "fg": _mean(positive, pairs.fg),
        "neg": _mean(negative, pairs.neg),
    }
    return {**terms, "loss": terms["bg"] / 4 + terms["fg"] / 4 + terms["neg"] / 2}


def _mean(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    weight = chosen.to(values.dtype)
    return (weight * values).sum() / (weight.sum() + EPSILON)


# --- samples ---------------------------------------------------------------------------------------------------------


class AffinitySamples:
    """Training samples: dicts of ``image`` float32 (3, c, c) and ``label`` uint8 (c/8, c/8) of local labels.

    Images without a present class are left out: they have no label to tell apart.

    Args:
        catalog: the photos.
        scores: store of ``camflow.refine.psa_labels.write_confident_scores``.
        params: crop and augmentations.
        mean, std: of the network.

    Raises:
        DataError: no image has a class.
    """

    def __init__(
        self, catalog: Catalog, scores: Store, params: AffinityParams, mean: Sequence[float], std: Sequence[float]
    ):
        self.catalog, self.scores, self.params, self.mean, self.std = catalog, scores, params, tuple(mean), tuple(std)
        self.ids = [image_id for image_id in catalog.ids if catalog.label(image_id).any()]
        if not self.ids:
            raise DataError("none of the training images has a class, so there are no affinities to learn")

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        image_id, params = self.ids[index], self.params
        photo = self.catalog.image(image_id)
        scores = read_confident_scores(self.scores, image_id, photo.shape[:2])
        photo = apply_augmentations(photo, "photo", params.augment, rng)
        image = normalize(photo, self.mean, self.std)
        # Cropped together; both are padded with zeros, which the labels turn into "unknown".
        stack = np.concatenate([image, scores.reshape(-1, *scores.shape[2:]).transpose(1, 2, 0)], axis=2)
        stack, _ = random_crop_pad(stack, None, params.crop, rng)
        stack, _ = random_flip(stack, None, rng, params.hflip)
        labels = crop_labels(to_chw(stack[..., 3:]).reshape(2, -1, params.crop, params.crop), STRIDE)
        return {"image": torch.from_numpy(to_chw(stack[..., :3])), "label": torch.from_numpy(labels)}


# --- the task --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class AffinityParams(TrainSettings):
    """Parameters of the training of AffinityNet; the defaults are PSA's. Fields of ``TrainSettings`` mean the same.

    SEAM trains the same network at a tenth of the learning rate.

    Attributes:
        backbone, weights, output_stride, dilate, width: see ``camflow.models.psa.build_affinity_net``. Published with
            ImageNet's weights; a classifier's file serves as well.
        crop: side of the square training input in pixels, a multiple of 8.
        hflip: probability of mirroring.
        augment: {name: parameters} of photo augmentations.
    """

    epochs: int = 8
    batch_size: int = 8
    lr: float = 0.1
    weight_decay: float = 5e-4
    momentum_slot: str = "authors"
    backbone: str = "resnet38"
    weights: str = "none"
    output_stride: int | None = None
    dilate: bool = False
    width: int = 24
    crop: int = 448
    hflip: float = 0.5
    augment: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=lambda: {"colour_jitter": {}})

    def __post_init__(self):
        super().__post_init__()
        least = STRIDE * (2 * RADIUS - 1)
        if self.crop % STRIDE or self.crop < least:
            raise ConfigError(f"affinity: crop is a multiple of {STRIDE} and at least {least}, not {self.crop}")
        check_augmentations(self.augment)

    def build(self) -> AffinityNet:
        """Build the network with its initial weights and the published layers frozen."""
        if self.weights == "none":
            log.warning("weights: none: the frozen layers and norms of the affinity network stay as they are drawn")
        names = ("weights", "output_stride", "dilate", "width", "seed")
        model = build_affinity_net(self.backbone, **{name: getattr(self, name) for name in names})
        freeze_as_published(model.net)
        return model


class AffinityTask(Task):
    """Affinities learnt from confident labels; logs the three terms of the loss.

    The terms are means over the pairs of a micro-batch, so ``accumulate`` and several processes give each part of a
    batch its own counts.
    """

    def __init__(self, model: AffinityNet, dataset: AffinitySamples):
        self.model, self.dataset = model, dataset

    def step(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        affinity = pair_affinity(self.model.features(batch["image"]).float())
        terms = affinity_loss(affinity, pair_labels(batch["label"]))
        return terms.pop("loss"), terms

    def param_groups(self) -> list[dict[str, Any]]:
        return published_groups(self.model, self.model.new_layers())


def train_affinity_net(
    catalog: Catalog,
    scores: Store,
    params: AffinityParams,
    **run: Unpack[Run],
) -> AffinityNet:
    """Train an AffinityNet and write it; calling again after a kill resumes and ends in the same bytes.

    Args:
        catalog: the photos to learn from.
        scores: their ``camflow.refine.psa_labels`` scores.
        params: see ``AffinityParams``.
        out: the network's file, see ``camflow.models.psa.load_affinity_net``.
        metrics_csv: one row per epoch: epoch, lr, train_bg, train_fg, train_loss, train_neg.
        run: see ``camflow.train.tofile.Run``.

    Returns:
        The network in eval mode on its device.
    """

    def make_task() -> AffinityTask:
        model = params.build()
        return AffinityTask(model, AffinitySamples(catalog, scores, params, model.mean, model.std))

    return train_to_file(make_task, params, save_affinity_net, method="psa", class_names=catalog.class_names, **run)
