"""Cross-consistency training: Ouali, Hudelot and Tami, CVPR 2020, as the released code runs.

A few images have true masks, the others none or pseudo-masks made from image labels. With z the encoder's output of the
unlabelled images, D the main decoder, D_k the auxiliary ones and p_k their perturbations (``camflow.train.perturb``)

    supervised    CE of D on the labelled images
    consistency   mean_k d(softmax D_k(p_k(z)), softmax D(z)), the second a constant, d by default the mean squared error
    weak          mean_k CE of D_k(p_k(z)) with the pseudo-masks
    loss          supervised + w_u(t) consistency + w_w(t) weak

where w_u rises to 30 and w_w to 0.4 along exp(-5 (1 - t)^2) in the first tenth of the epochs.

What the released code has and this has not: a pair-wise term, which is added after the total is formed, so it has no
effect; the choice of the best epoch on the validation images unless ``select: best`` asks for it. Its option for
pseudo-masks is spelt ``use_weak_lables`` and not as its manual says, which then switches nothing on without a word.

Batches. An epoch passes once over the unlabelled images; each brings a labelled one along, drawn with its own random
numbers. So the two halves of a batch are equal in size, and every step is a function of (seed, epoch, image ids). The
released code goes through the labelled images in turn instead.

Memory. Each auxiliary decoder works at the size of the image, so thirty of them at once need gigabytes. Here each is
forgotten after its loss is known and run again in the backward pass (``recompute``): one at a time is held, the gradient
is the same, and the decoders run forward twice.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.models.cct import Cct, CctTraining, build_cct, save_cct, with_auxiliary
from camflow.models.dtypes import at_least_single
from camflow.train import perturb
from camflow.train.augment import IGNORE, long_side_size
from camflow.train.inputs import InputParams
from camflow.train.order import derive_seed, steps_per_epoch
from camflow.train.segment import (
    SELECTS,
    LabelMaps,
    MaskedPhotos,
    Photos,
    SegmentSamples,
    SegmentTask,
    pixel_losses,
    plain_loss,
)
from camflow.train.tofile import Run, train_to_file

DECODERS = {
    "vat": 2,
    "dropout": 6,
    "cutout": 6,
    "context_mask": 2,
    "object_mask": 2,
    "feature_drop": 6,
    "feature_noise": 6,
}
CONSISTENCIES = ("mse", "kl", "js")
SUPERVISED = ("plain", "annealed")
MIN_KEPT = 1  # pixels per image that the annealed loss looks at however sure the network is

Perturbation = Callable[[torch.Tensor], torch.Tensor]

# --- ramps -----------------------------------------------------------------------------------------------------------

# From [0, 1] to [0, 1]; sigmoid, log and exp do not reach both ends.
RAMPS: dict[str, Callable[[float], float]] = {
    "sigmoid": lambda r: math.exp(-5 * (1 - r) ** 2),
    "linear": lambda r: r,
    "cosine": lambda r: 0.5 * (1 - math.cos(math.pi * r)),
    "log": lambda r: 1 - math.exp(-5 * r),
    "exp": lambda r: math.exp(5 * (r - 1)),
}


def ramp(shape: str, step: int, end: int, start: int = 0) -> float:
    """What a weight is multiplied by in step ``step`` (from 0), in [0, 1].

    Args:
        shape: one of ``RAMPS``.
        step: of the run.
        end: the step from which the value stays.
        start: the step before which it is 0.
    """
    if step < start:
        return 0.0
    return RAMPS[shape](min(1.0, (step - start) / (end - start)) if end > start else 1.0)


def annealed_threshold(n_labels: int, step: int, end: int) -> float:
    """Probability under which ``annealed_loss`` looks at a pixel: from 1/n_labels to nearly 0.9 at step ``end``."""
    low = 1 / n_labels
    return low + (0.9 - low) * ramp("log", step, end)


# --- losses ----------------------------------------------------------------------------------------------------------


def consistency_loss(
    logits: torch.Tensor, target: torch.Tensor, kind: str = "mse", confidence: float | None = None
) -> torch.Tensor:
    """How far a prediction is from another one, a scalar.

    ``mse`` is the mean over images, classes and pixels of the squared difference of the probabilities; ``kl`` the mean
    over the same of t (log t - log p), so it is smaller than the divergence by the number of classes; ``js`` with
    M = (p + t)/2 half of mean M (log M - log p) + mean M (log M - log (t + 1e-5)).

    Args:
        logits: (B, K, H, W); p is their softmax.
        target: t, probabilities (B, K, H, W), constant.
        kind: one of ``CONSISTENCIES``.
        confidence: count only pixels whose largest target probability is above this. ``mse`` is then a mean over these
            pixels; ``kl`` a sum over them by the number of all pixels, as released. 0 where there is none. Not for
            ``js``, where the released code ignores it.

    Raises:
        ConfigError: unknown kind, or a confidence with ``js``.
    """
    if kind not in CONSISTENCIES:
        raise ConfigError(f"unknown consistency '{kind}'{did_you_mean(kind, CONSISTENCIES)}")
    if kind == "js" and confidence is not None:
        raise ConfigError("consistency: js has no confidence mask; use mse or kl, or no confidence")
    log_p = functional.log_softmax(logits, dim=1)
    if kind == "js":
        middle = (log_p.exp() + target) / 2
        log_m = middle.clamp(min=torch.finfo(middle.dtype).tiny).log()  # both may underflow to 0
        return ((middle * (log_m - log_p)).mean() + (middle * (log_m - (target + 1e-5).log())).mean()) / 2
    if kind == "mse":
        errors = (functional.softmax(logits, dim=1) - target).square()
    else:
        errors = functional.kl_div(log_p, target, reduction="none")
    if confidence is None:
        return errors.mean()
    sure = target.amax(dim=1, keepdim=True) > confidence
    total = (errors * sure).sum()
    return total / (sure.sum().clamp(min=1) * logits.shape[1] if kind == "mse" else sure.numel())


def annealed_loss(logits: torch.Tensor, labels: torch.Tensor, threshold: float) -> torch.Tensor:
    """Mean cross-entropy over the labelled pixels whose label is not yet likely: the annealed bootstrapped loss.

    A pixel counts while the probability of its label is below ``threshold``, or below the (MIN_KEPT B + 1)-th smallest
    of the batch where that is larger. 0 where no pixel counts.

    Args:
        logits: (B, K, H, W).
        labels: integers (B, H, W) of {0 .. K-1, 255}.
        threshold: of ``annealed_threshold``.
    """
    losses = pixel_losses(logits, labels)[labels != IGNORE]
    if not len(losses):
        return logits.sum() * 0
    likely = (-losses.detach()).exp()
    rank = min(len(losses), MIN_KEPT * len(logits) + 1)
    kept = likely < likely.topk(rank, largest=False).values[-1].clamp(min=threshold)
    return (losses * kept).sum() / kept.sum().clamp(min=1)


def auxiliary_losses(
    code: torch.Tensor,
    decoders: Iterable[torch.nn.Module],
    perturbations: Iterable[Perturbation],
    target: torch.Tensor,
    weak: torch.Tensor | None = None,
    *,
    consistency: str = "mse",
    confidence: float | None = None,
    recompute: bool = True,
) -> torch.Tensor:
    """Consistency and weak loss of every auxiliary decoder, (K, 2), the second 0 without ``weak``.

    Args:
        code: the encoder's output (B, D, h, w).
        decoders: K of them.
        perturbations: one for each, code -> code, whose random numbers are drawn already.
        target: constant probabilities (B, n_labels, H, W) at the size of the decoders' logits.
        weak: pseudo-masks, integers (B, H, W) with 255, or None.
        consistency, confidence: see ``consistency_loss``.
        recompute: hold the values of one decoder at a time; same results, see the module.
    """

    def losses(code: torch.Tensor, decoder: torch.nn.Module, perturbation: Perturbation) -> torch.Tensor:
        logits = at_least_single(decoder(perturbation(code)))
        apart = consistency_loss(logits, target, consistency, confidence)
        return torch.stack([apart, torch.zeros_like(apart) if weak is None else plain_loss(logits, weak)])

    # The random numbers are arguments, so the generators need not be put back for the second run.
    run = functools.partial(checkpoint, losses, use_reentrant=False, preserve_rng_state=False) if recompute else losses
    return torch.stack([run(code, *pair) for pair in zip(decoders, perturbations, strict=True)])


# --- parameters ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class CctParams(InputParams):
    """Parameters of the training; the defaults are the released configuration. Fields of ``InputParams`` and
    ``TrainSettings`` mean what they mean there; ``batch_size`` counts pairs of a labelled and an unlabelled image.

    Attributes:
        backbone, weights, output_stride, dilate, width, freeze_bn, last_relu: see ``camflow.models.cct.build_cct``.
        labelled: which images have their true masks used: a number or a share of them, or a list of ids, see
            ``choose_labelled``.
        labelled_seed: of that draw; apart from ``seed``, so that runs can share the choice.
        use_weak_labels: learn from pseudo-masks as well.
        supervised: ``plain`` cross-entropy or ``annealed``, which leaves out what the network is already sure of.
        consistency: ``mse``, ``kl`` or ``js``.
        confidence: see ``consistency_loss``; None counts every pixel. Released: 0.5, switched off.
        consistency_weight, weak_weight: of the two terms at the end of the ramp.
        ramp: shape of the rise of both, one of ``RAMPS``.
        ramp_share: share of the epochs that it takes, rounded down to whole epochs.
        anneal_share: share of the steps in which the threshold of ``annealed`` rises.
        decoders: {perturbation: number of auxiliary decoders}, see ``DECODERS`` for the names.
        decoders_per_step: draw this many of them for each batch; the mean over them is unbiased, and the optimiser
            leaves the others alone. None takes all.
        vat_xi, vat_eps, vat_iterations: see ``camflow.train.perturb.vat_direction``, also for why the released
            ``vat_xi`` of 1e-6 hardly perturbs, and in float32 in a direction that is mostly noise; 0.1 does as meant.
        dropout_rate: probability with which spatial dropout drops a channel.
        drop_share: bounds of the share of the largest attention from which feature drop drops.
        noise: bound of the feature noise.
        erase: sides of a cut-out as a share of the object's box.
        cutout_points: contours with more points than this are cut; lower it for small images.
        recompute: hold the values of one auxiliary decoder at a time; False holds all and is faster.
        select: ``last``, or ``best``: the weights with the highest val_miou, as released; a choice made on the
            validation images' true masks.
    """

    epochs: int = 80
    batch_size: int = 10
    lr: float = 0.01
    evaluate_every: int = 5
    crop: int = 320
    scale: tuple[int, int] | None = (200, 800)
    backbone: str = "resnet50"
    weights: str = "none"
    output_stride: int | None = 8
    dilate: bool = True
    width: int = 24
    freeze_bn: bool = False
    last_relu: bool = True
    labelled: float | str = 1464
    labelled_seed: int = 0
    use_weak_labels: bool = False
    supervised: str = "plain"
    consistency: str = "mse"
    confidence: float | None = None
    consistency_weight: float = 30.0
    weak_weight: float = 0.4
    ramp: str = "sigmoid"
    ramp_share: float = 0.1
    anneal_share: float = 0.4
    decoders: Mapping[str, int] = dataclasses.field(default_factory=lambda: dict(DECODERS))
    decoders_per_step: int | None = None
    vat_xi: float = 1e-6
    vat_eps: float = 2.0
    vat_iterations: int = 1
    dropout_rate: float = 0.5
    drop_share: tuple[float, float] = (0.7, 0.9)
    noise: float = 0.3
    erase: float = perturb.ERASE
    cutout_points: int = perturb.MIN_POINTS
    recompute: bool = True
    select: str = "last"

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "drop_share", tuple(float(s) for s in self.drop_share))
        for name, options in (
            ("supervised", SUPERVISED),
            ("consistency", CONSISTENCIES),
            ("ramp", tuple(RAMPS)),
            ("select", SELECTS),
        ):
            value = getattr(self, name)
            if value not in options:
                raise ConfigError(f"cct: unknown {name} '{value}'{did_you_mean(value, options)}")
        for name, count in self.decoders.items():
            if name not in DECODERS:
                raise ConfigError(f"cct: decoders: unknown perturbation '{name}'{did_you_mean(name, DECODERS)}")
            if count < 0:
                raise ConfigError(f"cct: decoders: '{name}' cannot have {count} decoders")
        if not self.kinds:
            raise ConfigError("cct: decoders: there must be at least one auxiliary decoder")
        if self.decoders_per_step is not None and not 1 <= self.decoders_per_step <= len(self.kinds):
            raise ConfigError(
                f"cct: decoders_per_step lies between 1 and the {len(self.kinds)} decoders, not {self.decoders_per_step}"
            )
        if self.consistency == "js" and self.confidence is not None:
            raise ConfigError("cct: consistency js has no confidence mask; use mse or kl, or no confidence")
        for name in ("consistency_weight", "weak_weight", "cutout_points", "noise", "vat_eps"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"cct: {name} must not be negative, but is {getattr(self, name)}")
        if not self.vat_xi > 0 or self.vat_iterations < 1:
            raise ConfigError("cct: vat_xi is above 0, vat_iterations at least 1")
        for name in ("ramp_share", "anneal_share", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"cct: {name} lies in [0, 1], not {getattr(self, name)}")
        if not 0 <= self.dropout_rate < 1:
            raise ConfigError(f"cct: dropout_rate lies in [0, 1), not {self.dropout_rate}")
        if len(self.drop_share) != 2 or not 0 <= self.drop_share[0] <= self.drop_share[1]:
            raise ConfigError(f"cct: drop_share must be two shares, the smaller first, not {list(self.drop_share)}")

    @property
    def kinds(self) -> list[str]:
        """The perturbation of every auxiliary decoder, in the order of ``DECODERS``."""
        return [name for name in DECODERS for _ in range(self.decoders.get(name, 0))]

    def build(self, n_classes: int) -> CctTraining:
        """Build the network with its initial weights and auxiliary decoders. Raises ``ConfigError``."""
        names = ("weights", "output_stride", "dilate", "width", "freeze_bn", "last_relu", "seed")
        network = build_cct(self.backbone, n_classes, **{name: getattr(self, name) for name in names})
        if self.crop % network.stride:
            raise ConfigError(f"cct: crop must be a multiple of the network's stride {network.stride}, not {self.crop}")
        return with_auxiliary(network, len(self.kinds), seed=derive_seed("auxiliary", self.seed))

    def frame(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) at which a validation photo is seen (published: its own)."""
        return self.eval_grid(size)


# --- samples ---------------------------------------------------------------------------------------------------------


def choose_labelled(ids: Sequence[str], labelled: float | str, seed: int) -> list[str]:
    """The images whose true masks are used; sorted. Drawn, unless a file lists them.

    Every image has a place in a queue that depends on the seed and its id alone, and the first ones are taken. So more
    of them include the fewer, and an image that is added to the split can push out one at most.

    Args:
        ids: of all images.
        labelled: above 1 how many, up to 1 which share of them (rounded, at least one); 100 and 100.0 are the same. Or
            the path of a text file with one id a line, the images themselves.
        seed: of the queue.

    Raises:
        ConfigError: a number that leaves no labelled or no unlabelled image, or a file that cannot be read.
    """
    if isinstance(labelled, str):
        return sorted(_read_ids(labelled))
    if labelled <= 0 or (labelled > 1 and labelled != int(labelled)):
        raise ConfigError(f"cct: labelled is a whole number of images or a share between 0 and 1, not {labelled}")
    count = int(labelled) if labelled > 1 else max(1, round(labelled * len(ids)))
    if not 0 < count < len(ids):
        raise ConfigError(
            f"cct: of {len(ids)} images {count} cannot be labelled: at least one must be, and one must not; "
            "change labelled"
        )
    return sorted(sorted(ids, key=lambda image_id: (derive_seed("labelled", seed, image_id), image_id))[:count])


def _read_ids(path: str) -> set[str]:
    """The lines of a text file that hold something. Whether they are images of the split is checked with the samples."""
    try:
        text = Path(os.path.expanduser(path)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cct: labelled: {path} cannot be read ({error}); give a text file with one id a line"
        ) from error
    return {line.strip() for line in text.splitlines() if line.strip()}


class TrueMasks:
    """The masks of a catalog as label maps."""

    def __init__(self, catalog: MaskedPhotos):
        self.catalog = catalog

    def read(self, image_id: str) -> np.ndarray:
        """uint8 (H, W). Raises ``DataError`` when the image has none."""
        mask = self.catalog.mask(image_id)
        if mask is None:
            raise DataError(
                f"image '{image_id}' is among the labelled ones, but has no true mask; "
                "list labelled images that have one"
            )
        return mask


class _Views(SegmentSamples):
    """Samples of some of the images, by the longer side as ``InputParams`` resizes; without labels all is unknown."""

    def __init__(self, catalog: Photos, ids: Sequence[str], labels: LabelMaps | None, params: CctParams, *more: Any):
        super().__init__(catalog, labels, params, *more)
        self.ids = list(ids)

    def _read(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        if self.labels is not None:
            return super()._read(image_id)
        photo = self.catalog.image(image_id)
        return photo, np.full(photo.shape[:2], IGNORE, np.uint8)

    def _size(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        if self.params.scale is None:
            return self.params.crop, self.params.crop
        low, high = self.params.scale
        return long_side_size(size, int(rng.integers(low, high + 1)))


class CctSamples:
    """Training samples: an unlabelled image and a labelled one drawn for it.

    Dicts of ``image`` float32 (3, c, c) and ``label`` uint8 (c, c) of the labelled image, ``unlabelled`` and
    ``weak_label`` of the other; ``weak_label`` is 255 everywhere without pseudo-masks. ``ids`` are the unlabelled ones,
    ``labelled`` the others.

    Args:
        catalog: all photos.
        labelled: ids of those whose true masks are used; the others are unlabelled.
        truth: their masks.
        weak: pseudo-masks of the unlabelled ones, or None.
        params: the input.
        mean, std: of the network.

    Raises:
        ConfigError: ids that are not in the catalog, or no image of one of the two kinds.
    """

    def __init__(
        self,
        catalog: Photos,
        labelled: Sequence[str],
        truth: LabelMaps,
        weak: LabelMaps | None,
        params: CctParams,
        mean: Sequence[float],
        std: Sequence[float],
    ):
        chosen = set(labelled)
        unknown = sorted(chosen.difference(catalog.ids))
        if unknown:
            raise ConfigError(
                f"cct: {len(unknown)} labelled images are not in the training split, e.g. '{unknown[0]}'; "
                "list images of the split"
            )
        self.labelled = sorted(chosen)
        self.ids = [image_id for image_id in catalog.ids if image_id not in chosen]
        if not chosen or not self.ids:
            raise ConfigError(f"cct: {len(chosen)} of {len(catalog.ids)} images are labelled; leave some of each kind")
        self._labelled = _Views(catalog, self.labelled, truth, params, mean, std)
        self._unlabelled = _Views(catalog, self.ids, weak, params, mean, std)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """See ``camflow.train.loop.Samples``. Raises ``DataError`` for masks of another size or of unknown classes."""
        labelled = self._labelled.sample(int(rng.integers(len(self._labelled.ids))), rng)
        other = self._unlabelled.sample(index, rng)
        return {**labelled, "unlabelled": other["image"], "weak_label": other["label"]}


# --- the task --------------------------------------------------------------------------------------------------------


class CctTask(SegmentTask):
    """Supervised, consistency and weak term; logs each without its weight."""

    model: CctTraining
    params: CctParams

    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        params = self.params
        self._per_epoch = steps_per_epoch(len(self.dataset.ids), params.batch_size, params.drop_last)
        self._now = epoch * self._per_epoch

    def after_step(self) -> None:
        self._now += 1

    def step(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        params, network = self.params, self.model.network
        supervised = self._supervised(at_least_single(network(batch["image"])), batch["label"])
        code = network.encode(batch["unlabelled"])
        with torch.no_grad():
            prediction = at_least_single(network.main_decoder(code))
        decoders, perturbations = self._draw(code, prediction)
        consistency, weak = auxiliary_losses(
            code,
            decoders,
            perturbations,
            functional.softmax(prediction, dim=1),
            batch["weak_label"] if params.use_weak_labels else None,
            consistency=params.consistency,
            confidence=params.confidence,
            recompute=params.recompute,
        ).mean(dim=0)
        risen = ramp(params.ramp, self._now, int(params.ramp_share * params.epochs) * self._per_epoch)
        total = supervised + risen * (params.consistency_weight * consistency + params.weak_weight * weak)
        logs = {"supervised": supervised, "consistency": consistency}
        return total, {**logs, "weak": weak} if params.use_weak_labels else logs

    def _supervised(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.params.supervised == "plain":
            return plain_loss(logits, labels)
        end = int(self.params.anneal_share * self.params.epochs * self._per_epoch)
        return annealed_loss(logits, labels, annealed_threshold(logits.shape[1], self._now, end))

    def _draw(self, code: torch.Tensor, prediction: torch.Tensor) -> tuple[list[torch.nn.Module], list[Perturbation]]:
        """Choose this step's decoders and draw their perturbations."""
        count = len(self.params.kinds)
        chosen = range(count)
        if self.params.decoders_per_step is not None:
            chosen = sorted(torch.randperm(count)[: self.params.decoders_per_step].tolist())
        draw = _Draws(code, perturb.foreground(prediction), self.params)
        decoders = [self.model.aux_decoders[k] for k in chosen]
        kinds = [self.params.kinds[k] for k in chosen]
        return decoders, [draw(kind, decoder) for kind, decoder in zip(kinds, decoders, strict=True)]

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "labelled_images": len(self.dataset.labelled)}

    def param_groups(self) -> list[dict[str, Any]]:
        network = self.model.network
        new = [*network.head_parameters(), *self.model.aux_decoders.parameters()]
        return [{"params": network.trunk_parameters(), "lr_mult": 0.1}, {"params": new}]


class _Draws:
    """Draws the perturbations of one batch; the contours of its objects are found once, when they are needed.

    Args:
        code: the encoder's output.
        found: foreground of the main prediction, bool (B, H, W).
        params: of the perturbations.
    """

    def __init__(self, code: torch.Tensor, found: torch.Tensor, params: CctParams):
        self.code, self.found, self.params = code.detach(), found, params

    @functools.cached_property
    def boxes(self) -> np.ndarray:
        return perturb.object_boxes(self.found, self.params.cutout_points)

    def __call__(self, kind: str, decoder: torch.nn.Module) -> Perturbation:
        """Return the perturbation code -> code of one decoder."""
        return getattr(self, f"_{kind}")(decoder)

    def _vat(self, decoder: torch.nn.Module) -> Perturbation:
        params, start = self.params, perturb.draw_start(self.code)
        settings = {"xi": params.vat_xi, "eps": params.vat_eps, "iterations": params.vat_iterations}
        direction = perturb.vat_direction(self.code, decoder, start, **settings)
        return lambda code: code + direction

    def _dropout(self, _: torch.nn.Module) -> Perturbation:
        rate = self.params.dropout_rate
        return functools.partial(perturb.spatial_dropout, kept=perturb.draw_kept(self.code, rate), rate=rate)

    def _cutout(self, _: torch.nn.Module) -> Perturbation:
        erase = self.params.erase
        rectangles = perturb.cutout_rectangles(self.boxes, perturb.draw_offsets(self.boxes, erase), erase)
        return functools.partial(perturb.guided_cutout, left=perturb.cutout_mask(rectangles, self.found.shape))

    def _context_mask(self, _: torch.nn.Module) -> Perturbation:
        return functools.partial(perturb.context_mask, found=self.found)

    def _object_mask(self, _: torch.nn.Module) -> Perturbation:
        return functools.partial(perturb.object_mask, found=self.found)

    def _feature_drop(self, _: torch.nn.Module) -> Perturbation:
        return functools.partial(perturb.feature_drop, share=perturb.draw_share(self.code, self.params.drop_share))

    def _feature_noise(self, _: torch.nn.Module) -> Perturbation:
        return functools.partial(perturb.feature_noise, noise=perturb.draw_noise(self.code, self.params.noise))


# --- the stage -------------------------------------------------------------------------------------------------------


def train_cct(
    catalog: Photos,
    truth: LabelMaps,
    weak_labels: LabelMaps | None,
    params: CctParams,
    *,
    catalog_val: MaskedPhotos | None = None,
    **run: Unpack[Run],
) -> Cct:
    """Train a segmentation network and write it; calling again after a kill resumes and, on a CPU, ends in the same
    bytes. On a GPU the backward pass of the pyramid's means adds in any order.

    Args:
        catalog: the photos to learn from, labelled and unlabelled.
        truth: true masks of the labelled ones, e.g. ``TrueMasks``.
        weak_labels: pseudo-masks of the unlabelled ones; read with ``use_weak_labels`` only.
        params: see ``CctParams``.
        out: the network's file, without auxiliary decoders, see ``camflow.models.cct.load_cct``. Its meta has the
            number of labelled images.
        metrics_csv: one row per epoch: epoch, lr, train_consistency, train_loss, train_supervised, with pseudo-masks
            train_weak, and with ``catalog_val`` val_miou.
        catalog_val: photos with true masks for the column val_miou, see ``camflow.train.segment.train_segmenter``.
        run: see ``camflow.train.tofile.Run``.

    Returns:
        The network in eval mode on its device.

    Raises:
        ConfigError: parameters that the images or the network cannot honour.
    """
    if params.use_weak_labels and weak_labels is None:
        raise ConfigError("cct: use_weak_labels needs pseudo-masks; give a source for them, or switch it off")
    labelled = choose_labelled(catalog.ids, params.labelled, params.labelled_seed)
    weak = weak_labels if params.use_weak_labels else None

    def make_task() -> CctTask:
        model = params.build(len(catalog.class_names))
        samples = CctSamples(catalog, labelled, truth, weak, params, model.mean, model.std)
        return CctTask(model, samples, params, catalog_val, run.get("workers", 0))

    return train_to_file(
        make_task,
        params,
        save_cct,
        method="cct",
        class_names=catalog.class_names,
        network_of=lambda model: model.network,
        **run,
    )
