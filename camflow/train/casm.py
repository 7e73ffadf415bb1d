"""Joint training of a classifier and a masker: Zolna, Geras and Cho, "Classifier-agnostic saliency map extraction",
CVIU 196 (2020), as the released code runs, with the switches of the follow-up work (arXiv 2010.09750).

The masker shall find what any classifier could use, so it is trained against many: the current one f and its past ones,
the history F. With every batch, in this order (losses: ``camflow.train.casm_losses``):

    1  f learns on the images (SGD); f does not learn where it is fixed
    2  now and then a copy of f joins F; when F is full the copy takes the place of a random one
    3  the masker sees the levels that f had before step 1, and masks the images
    4  f' is a random past classifier with probability hp, in eval mode, else f as it is
    5  the masker learns from f' on the masked images (Adam, gradient cut to a norm of 10)
    6  if f' is f, f also learns on the masked-out images (SGD)

Three differences from the released code. It updates f (6) before the masker's gradient (5) is taken, through a graph
whose weights have changed meanwhile; current frameworks refuse that, and here 5 comes first. It keeps a history also
where none is ever drawn from it. It cuts off an epoch after a fifth of the images plus one batch.

In 4, f as it is means in training mode: it uses, and moves, batch statistics of masked images. The mask-in objective
shows f' the masked-in images as well; f learns from the masked-out ones only.

Every draw is a function of (seed, epoch, step), and F is part of the checkpoint, so a killed run ends in the same bytes.
A step costs the same however long F is: past classifiers stay on the device and are run in place, not loaded.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import nn

from camflow.errors import ConfigError, did_you_mean
from camflow.models.classifier import Classifier, build_classifier, load_classifier
from camflow.models.masker import Masker, build_masker, save_masker
from camflow.params import from_config
from camflow.train import distributed
from camflow.train.augment import ResizedCrop, TrainTransform
from camflow.train.casm_losses import (
    SCORES,
    is_correct,
    mask_in_losses,
    mask_out_losses,
    mask_statistics,
    total_variation,
)
from camflow.train.classify import LOSSES, Catalog, ClassifyTask, predict
from camflow.train.inputs import InputParams
from camflow.train.loop import AlternatingTask, Update
from camflow.train.metrics import Row
from camflow.train.optim import build_optimizer
from camflow.train.order import derive_seed
from camflow.train.settings import TrainSettings
from camflow.train.tofile import Run, train_to_file

AUTO = "auto"
NEVER = 10_000_000  # batches; the published way to save the first classifier only

_CASM: dict[str, Any] = {"fixed": False, "hp": 0.5, "mask_in": False, "tv_weight": 0.0, "batch_size": 128}
_FOLLOW_UP: dict[str, Any] = {**_CASM, "mask_in": True, "tv_weight": 1e-3, "batch_size": 72}
# Published settings; ``lambda_r`` by score. FIX and CA are the follow-up work's, which has no adversarial score.
PRESETS: dict[str, dict[str, Any]] = {
    "F": {**_CASM, "fixed": True, "hp": 0.0, "save_every": NEVER, "lambda_r": {"entropy": 2.5, "adversarial": 9.0}},
    "L": {**_CASM, "hp": 0.0, "save_every": NEVER, "lambda_r": {"entropy": 14.0, "adversarial": 18.0}},
    "FL": {**_CASM, "save_every": NEVER, "lambda_r": {"entropy": 7.5, "adversarial": 11.0}},
    "L1000": {**_CASM, "save_every": 1000, "lambda_r": {"entropy": 10.0, "adversarial": 17.0}},
    "L100": {**_CASM, "save_every": 100, "lambda_r": {"entropy": 10.0, "adversarial": 17.0}},
    "FIX": {**_FOLLOW_UP, "fixed": True, "hp": 0.0, "save_every": NEVER, "lambda_r": {"entropy": 10.0}},
    "CA": {**_FOLLOW_UP, "save_every": 100, "lambda_r": {"entropy": 15.0}},
}


# --- parameters ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class CasmParams(InputParams):
    """Parameters of the training; the defaults are the published ones of L100. Fields of ``InputParams``,
    ``TrainSettings`` and ``build_classifier`` mean what they mean there; ``lr``, ``weight_decay``, ``momentum`` and
    ``optimizer`` are the classifier's. Published with ImageNet's weights.

    Attributes:
        head_lr_mult: learning rate of the classifier's head as a multiple of ``lr``.
        loss: of the classifier: ``cross_entropy`` (one label per image), ``soft_margin`` (any number), or ``auto``: the
            first if every training image has one label, else the second.
        score: what makes a mask good, ``entropy`` or ``adversarial``, see ``camflow.train.casm_losses``.
        fixed: the classifier stays as it is, and the masker depends on it.
        hp: probability of drawing a past classifier.
        save_every: a copy of the classifier joins the history in every so-manieth step of an epoch, and at the start.
        f_size: past classifiers at most; then a new one replaces a random one.
        lambda_r: weight of the area of masks.
        mask_in: the classifier shall also be right on what the mask keeps (follow-up work).
        lambda_in: weight of the area of masks in that objective.
        tv_weight: weight of the total variation in each objective (follow-up work: 0.001).
        taps, upsample, gumbel_tau: see ``camflow.models.masker.build_masker``.
        masker_lr, masker_weight_decay: of the masker's Adam; the decay is added to the gradient.
        clip: largest norm of the masker's gradient.
        epoch_share: an epoch ends after this share of the images.
        crop_area: bounds of the share of a photo that a training image shows, resized to ``crop`` x ``crop``; None for
            the crops that ``scale`` describes.
    """

    epochs: int = 60
    batch_size: int = 128
    lr: float = 1e-3
    schedule: str = "step"
    step_every: int = 20
    crop: int = 224
    scale: tuple[int, int] | None = None
    crop_area: tuple[float, float] | None = (0.08, 1.0)
    epoch_share: float = 0.2
    backbone: str = "resnet50"
    weights: str = "none"
    output_stride: int | None = None
    dilate: bool = False
    pooling: str = "gap"
    width: int = 24
    freeze_bn: bool = False
    freeze_stem: bool = False
    detach: str = "none"
    head_lr_mult: float = 1.0
    loss: str = AUTO
    score: str = "entropy"
    fixed: bool = False
    hp: float = 0.5
    save_every: int = 100
    f_size: int = 30
    lambda_r: float = 10.0
    mask_in: bool = False
    lambda_in: float = 1.0
    tv_weight: float = 0.0
    taps: tuple[int, ...] | None = None
    upsample: str = "nearest"
    gumbel_tau: float | None = None
    masker_lr: float = 1e-3
    masker_weight_decay: float = 1e-4
    clip: float = 10.0

    def __post_init__(self):
        super().__post_init__()
        for name, options in (("loss", (AUTO, *LOSSES)), ("score", SCORES)):
            value = getattr(self, name)
            if value not in options:
                raise ConfigError(f"casm: unknown {name} '{value}'{did_you_mean(value, options)}")
        for name in ("save_every", "f_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"casm: {name} must be at least 1, not {getattr(self, name)}")
        for name in ("head_lr_mult", "lambda_r", "lambda_in", "tv_weight", "masker_lr", "masker_weight_decay"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"casm: {name} must not be negative, but is {getattr(self, name)}")
        if not 0 <= self.hp <= 1:
            raise ConfigError(f"casm: hp is a probability, not {self.hp}")
        if self.fixed and self.hp:
            raise ConfigError("casm: a fixed classifier has no past; set hp to 0 or fixed to false")
        if not self.clip > 0:
            raise ConfigError(f"casm: clip must be above 0, not {self.clip}")
        if not 0 < self.epoch_share <= 1:
            raise ConfigError(f"casm: epoch_share lies in (0, 1], not {self.epoch_share}")
        if self.accumulate != 1:
            raise ConfigError(
                "casm: a batch updates the classifier twice and cannot be taken in parts; accumulate is 1"
            )
        if self.crop_area is not None:
            object.__setattr__(self, "crop_area", tuple(float(s) for s in self.crop_area))
            if len(self.crop_area) != 2 or not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
                raise ConfigError(f"casm: crop_area is two shares, the smaller first, not {list(self.crop_area)}")
            if self.scale is not None:
                raise ConfigError("casm: crop_area and scale are two ways to crop; set one of them to null")

    def transform(self, model: Any) -> TrainTransform:
        """Return the training transform for a network with ``mean`` and ``std``."""
        if self.crop_area is None:
            return super().transform(model)
        return ResizedCrop(model.mean, model.std, self.crop, None, self.hflip, self.augment, self.crop_area)

    def build(self, n_classes: int, warm_start: Classifier | None = None) -> Masker:
        """Build the network with its initial weights.

        Args:
            n_classes: number of foreground classes C.
            warm_start: a trained classifier, whose weights, the head's too, are the initial ones.

        Raises:
            ConfigError: any argument the network cannot honour.
        """
        names = ("weights", "output_stride", "dilate", "pooling", "width", "freeze_bn", "freeze_stem", "detach", "seed")
        net = build_classifier(self.backbone, n_classes, **{name: getattr(self, name) for name in names})
        if warm_start is not None:
            _take_weights(net, warm_start)
        decoder = {name: getattr(self, name) for name in ("taps", "upsample", "gumbel_tau")}
        model = build_masker(net, seed=derive_seed("decoder", self.seed), **decoder)
        if self.fixed:
            if warm_start is None:
                raise ConfigError("casm: a fixed classifier does not learn, so give a trained one; set warm_start")
            model.fix_classifier()
        return model


def _take_weights(net: Classifier, trained: Classifier) -> None:
    """Fill a classifier in place. Raises ``ConfigError`` when the weights of the other do not fit."""
    facts = ("backbone", "width", "pooling")
    wanted, found = ({name: network.spec[name] for name in facts} for network in (net, trained))
    if wanted != found:
        raise ConfigError(
            f"casm: the classifier of warm_start ({_listed(found)}) does not fit ({_listed(wanted)}); set these alike"
        )
    net.load_state_dict(trained.state_dict())


def _listed(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def preset_values(preset: str, score: str = "entropy") -> dict[str, Any]:
    """Fields of ``CasmParams`` as a preset has them. Raises ``ConfigError`` for what is not published."""
    if preset not in PRESETS:
        raise ConfigError(f"casm: unknown preset '{preset}'{did_you_mean(preset, PRESETS)}")
    values = dict(PRESETS[preset])
    weights = values.pop("lambda_r")
    if score in weights:
        values["lambda_r"] = weights[score]
    return values


def casm_params(preset: str = "L100", **overrides: Any) -> CasmParams:
    """A published parameter set, some of it replaced. Raises ``ConfigError``, see ``casm_from_config``."""
    return casm_from_config({"preset": preset, **overrides})


def casm_from_config(entry: Mapping[str, Any]) -> CasmParams:
    """The training of a config entry; a key without value takes that of its ``preset``.

    Raises:
        ConfigError: an unknown preset, or one without published ``lambda_r`` for the entry's ``score``.
    """
    score = entry.get("score", "entropy")
    given = {**preset_values(entry["preset"], score), **entry}
    if "lambda_r" not in given:
        raise ConfigError(f"casm: preset {entry['preset']} has no lambda_r for score {score}; set lambda_r")
    return from_config(CasmParams, given)


def with_loss(params: CasmParams, catalog: Catalog) -> CasmParams:
    """Replace ``loss: auto`` by what the labels of the training images ask for."""
    if params.loss != AUTO:
        return params
    single = all(catalog.label(image_id).sum() == 1 for image_id in catalog.ids)
    return dataclasses.replace(params, loss="cross_entropy" if single else "soft_margin")


# --- history ---------------------------------------------------------------------------------------------------------


class History:
    """Copies of past classifiers, the F of the paper.

    Attributes:
        size: how many there are at most.
        snapshots: their states, in slots.
    """

    def __init__(self, size: int):
        self.size = size
        self.snapshots: list[dict[str, torch.Tensor]] = []

    def due(self, index: int, every: int) -> bool:
        """Whether step ``index`` of an epoch (from 0) saves: the last of every ``every``, and as long as F is empty."""
        return index % every == every - 1 or not self.snapshots

    def save(self, network: nn.Module, rng: np.random.Generator) -> None:
        """Add a copy of a network; when F is full it takes a random place (the paper's thinning)."""
        # A state dict shares its tensors with the network, which goes on learning.
        snapshot = {name: value.detach().clone() for name, value in network.state_dict().items()}
        if len(self.snapshots) < self.size:
            self.snapshots.append(snapshot)
        else:
            self.snapshots[int(rng.integers(self.size))] = snapshot

    def draw(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Return one of them, each equally likely."""
        return self.snapshots[int(rng.integers(len(self.snapshots)))]


def run_snapshot(network: nn.Module, snapshot: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Output of a past state of a network, in eval mode; the network is left as it was."""
    training = network.training
    network.eval()
    try:
        return torch.func.functional_call(network, dict(snapshot), (x,), strict=True)
    finally:
        network.train(training)


# --- the task --------------------------------------------------------------------------------------------------------


class CasmTask(ClassifyTask, AlternatingTask):
    """Classifier and masker in turn; see the head of this file. Accuracies are those of ``is_correct``, and on masked
    images those of the drawn classifier."""

    model: Masker
    params: CasmParams

    def __init__(self, model: Masker, train: Catalog, val: Catalog | None, params: CasmParams, workers: int = 0):
        super().__init__(model, train, val, params, workers)
        self.epoch_share = params.epoch_share
        self.history = History(params.f_size)

    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        self._epoch, self._index = epoch, 0

    def after_step(self) -> None:
        self._index += 1

    def updates(self, batch: dict[str, torch.Tensor]) -> Generator[Update, None, dict[str, torch.Tensor | float]]:
        params, images, label = self.params, batch["image"], batch["label"]
        logits, levels = self.model.logits_and_levels(images)
        logits = logits.float()
        clean = self.loss(logits, label)
        if not params.fixed:
            yield Update(clean, "classifier")
        snapshot = self._past_classifier()
        net = self.model.net
        classify = net if snapshot is None else functools.partial(run_snapshot, net, snapshot)
        mask = self.model.enlarge(self.model.decoder(levels), images.shape[2:])
        masked = classify(images * (1 - mask)).float()
        out = mask_out_losses(
            logits, masked, mask, label, score=params.score, area_weight=params.lambda_r, loss=self.loss
        )
        loss = out["loss"]
        if params.mask_in:
            kept = classify(images * mask).float()
            loss = loss + mask_in_losses(kept, mask, label, area_weight=params.lambda_in, loss=self.loss)["loss"]
        if params.tv_weight:
            loss = loss + total_variation(mask, params.tv_weight * (2 if params.mask_in else 1))
        learns = snapshot is None and not params.fixed
        yield Update(loss, "masker", clip=params.clip, retain_graph=learns)
        if learns:
            yield Update(self.loss(masked, label), "classifier")
        if params.loss == "soft_margin":
            self.remember(logits, label)
        return {
            "loss": loss,
            "classifier_loss": clean,
            "area": out["area"],
            "accuracy": is_correct(logits, label).float().mean(),
            "masked_accuracy": is_correct(masked, label).float().mean(),
            **{f"mask_{name}": value for name, value in mask_statistics(mask).items()},
        }

    def _past_classifier(self) -> dict[str, torch.Tensor] | None:
        """Add to the history where it is time to; draw a past classifier, or None for the current one.

        The draws are the same on every process, as all must make the same updates.
        """
        if not self.params.hp:
            return None
        rng = np.random.default_rng(derive_seed("history", self.params.seed, self._epoch, self._index))
        if self.history.due(self._index, self.params.save_every):
            distributed.broadcast_buffers(self.model.net)  # the checkpoint has one history for all processes
            self.history.save(self.model.net, rng)
        return self.history.draw(rng) if rng.random() < self.params.hp else None

    def optimizers(self, settings: TrainSettings) -> dict[str, torch.optim.Optimizer]:
        params = self.params
        decoder = {"params": list(self.model.decoder.parameters()), "lr": params.masker_lr}
        masker = torch.optim.Adam(
            [{**decoder, "initial_lr": params.masker_lr}], weight_decay=params.masker_weight_decay
        )
        if params.fixed:
            return {"masker": masker}
        return {"classifier": build_optimizer(self.param_groups(), settings), "masker": masker}

    def param_groups(self) -> list[dict[str, Any]]:
        net = self.model.net
        return [
            {"params": net.trunk_parameters()},
            {"params": list(net.head.parameters()), "lr_mult": self.params.head_lr_mult},
        ]

    def evaluate(self) -> Row:
        """Return what ``ClassifyTask`` does, and of the validation images the facts of their masks, means of the
        images' own."""
        row = super().evaluate()
        if self.val is None:
            return row
        probe = _Probe(self.model)
        found = list(predict(probe, self.val, self.params, self.workers))
        parts = [part for process in distributed.gather_objects(found) for part in process]
        labels = np.stack([self.val.label(self.val.ids[i]) for index, _ in parts for i in index.tolist()])
        values = torch.cat([values for _, values in parts])
        count = self.model.n_classes
        label = torch.from_numpy(labels.astype(np.float32))
        row["val_accuracy"] = float(is_correct(values[:, :count], label).float().mean())
        row["val_masked_accuracy"] = float(is_correct(values[:, count : 2 * count], label).float().mean())
        mean, entropy, variation = values[:, 2 * count :].double().unbind(1)
        row["val_mask_mean"] = float(mean.mean())
        row["val_mask_std"] = float(mean.std()) if len(mean) > 1 else 0.0
        row["val_mask_entropy"], row["val_mask_tv"] = float(entropy.mean()), float(variation.mean())
        return row

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history.snapshots}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = self.model.head.weight.device
        self.history.snapshots = [{k: v.to(device) for k, v in snapshot.items()} for snapshot in state["history"]]


class _Probe(nn.Module):
    """What validation asks of an image: (B, 2C + 3), the logits of it and of the masked-out image, mean, entropy and
    total variation of the mask."""

    def __init__(self, model: Masker):
        super().__init__()
        self.model = model
        self.mean, self.std, self.head = model.mean, model.std, model.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits, levels = self.model.logits_and_levels(x)
        mask = self.model.enlarge(self.model.decoder(levels), x.shape[2:])
        statistics = [mask_statistics(one[None]) for one in mask]
        facts = torch.stack([torch.stack([s["mean"], s["entropy"], s["tv"]]) for s in statistics])
        return torch.cat([logits.float(), self.model(x * (1 - mask)).float(), facts], dim=1)


# --- the stage -------------------------------------------------------------------------------------------------------


def train_casm(
    catalog_train: Catalog,
    catalog_val: Catalog | None,
    params: CasmParams,
    *,
    warm_start: str | Path | None = None,
    **run: Unpack[Run],
) -> Masker:
    """Train a classifier and its masker and write both; calling again after a kill resumes and ends in the same bytes.

    Args:
        catalog_train: images and labels to learn from.
        catalog_val: images for the validation columns of the metrics, or None.
        params: see ``CasmParams``.
        out: the file of both, see ``camflow.models.masker.load_masker``. Its meta has the ``loss`` that was used.
        metrics_csv: one row per epoch: epoch, lr (the classifier's, of a fixed one the masker's), train_accuracy,
            train_area, train_classifier_loss, train_loss (the masker's), train_mask_entropy, train_mask_mean,
            train_mask_std, train_mask_tv, train_masked_accuracy, with soft_margin train_map; val_loss, val_map,
            val_accuracy, val_masked_accuracy, val_mask_mean, val_mask_std, val_mask_entropy, val_mask_tv.
        warm_start: file of a classifier of method plain on the same classes, with the same backbone, width and pooling:
            its weights, the head's too, are the initial ones.
        run: see ``camflow.train.tofile.Run``.

    Returns:
        The network in eval mode on its device.

    Raises:
        ConfigError: parameters that the network cannot honour, two initial states, a warm start that does not fit.
        DataError: cross-entropy asked for images that do not have exactly one label.
    """
    class_names = list(catalog_train.class_names)
    params = with_loss(params, catalog_train)
    start = None if warm_start is None else _trained(warm_start, class_names, params)

    def make_task() -> CasmTask:
        return CasmTask(
            params.build(len(class_names), start), catalog_train, catalog_val, params, run.get("workers", 0)
        )

    return train_to_file(make_task, params, save_masker, method="casm", class_names=class_names, **run)


def _trained(path: str | Path, class_names: list[str], params: CasmParams) -> Classifier:
    """Read the classifier of a warm start."""
    if params.weights != "none":
        raise ConfigError(f"casm: warm_start and weights: {params.weights} are two initial states; give one of them")
    model = load_classifier(path)
    if not isinstance(model, Classifier):
        raise ConfigError(f"casm: warm_start must be a classifier of method plain, and {path} is none")
    if list(model.class_names) != class_names:
        raise ConfigError(
            f"casm: the classifier of warm_start knows the classes {', '.join(model.class_names)}, "
            f"the dataset has {', '.join(class_names)}; use one trained on this dataset"
        )
    return model
