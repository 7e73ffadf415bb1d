"""A classifier of sequences whose last layer is a temporal class activation map, and its training.

The network of Singh and Lee (ICCV 2017, arXiv 1704.04232) for action localisation: two temporal convolutions of kernel
1 and 500 channels, global max pooling over time, a linear classifier. The classifier has no bias, as the image
classifiers of this project, so that nothing but the maps contributes. The paper does not give the schedule; the
defaults are ours.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.models.files import load_network, save_network
from camflow.store import Store
from camflow.temporal.hiding import hide_segments
from camflow.train.classify import mean_average_precision
from camflow.train.loop import Task
from camflow.train.metrics import Row
from camflow.train.settings import TrainSettings
from camflow.train.tofile import Run, train_to_file

KIND = "temporal"
POOLINGS = ("gmp", "gap")
LOSSES = ("cross_entropy", "soft_margin")
IN_MEMORY = 2 << 30  # bytes of sequences that are read once and kept


@dataclasses.dataclass(frozen=True)
class TemporalParams(TrainSettings):
    """Parameters of training; the fields of ``TrainSettings`` mean what they mean there.

    Attributes:
        width: channels of the two convolutions.
        pooling: over time: ``gmp`` (maximum) or ``gap`` (mean).
        loss: ``cross_entropy`` (softmax; a video of several classes shares its probability evenly among them) or
            ``soft_margin`` (each class by itself).
        hide_segments: into how many segments a training sequence is cut; 0 hides nothing.
        hide_p: probability with which a segment is hidden.
    """

    epochs: int = 50
    lr: float = 1e-3
    weight_decay: float = 1e-4
    optimizer: str = "adamw"
    schedule: str = "constant"
    width: int = 500
    pooling: str = "gmp"
    loss: str = "cross_entropy"
    hide_segments: int = 20
    hide_p: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        for name, options in (("pooling", POOLINGS), ("loss", LOSSES)):
            value = getattr(self, name)
            if value not in options:
                raise ConfigError(f"unknown {name} '{value}'{did_you_mean(value, options)}")
        if self.hide_segments < 0:
            raise ConfigError(f"hide_segments must not be negative, but is {self.hide_segments}")
        if not 0 <= self.hide_p <= 1:
            raise ConfigError(f"hide_p must be from 0 to 1, not {self.hide_p}")


class TemporalNet(nn.Module):
    """Features (B, D, T) -> logits (B, C); see ``build_temporal``.

    Attributes:
        spec: the arguments that rebuild this network.
        class_names, meta: facts carried by saved files; empty until set.
    """

    def __init__(self, features: int, n_classes: int, width: int, pooling: str):
        super().__init__()
        self.conv1 = nn.Conv1d(features, width, 1)
        self.conv2 = nn.Conv1d(width, width, 1)
        self.classifier = nn.Conv1d(width, n_classes, 1, bias=False)
        self.pooling = pooling
        self.spec = {"features": features, "n_classes": n_classes, "width": width, "pooling": pooling}
        self.class_names: list[str] = []
        self.meta: dict[str, Any] = {}

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last features (B, width, T), >= 0."""
        return self.conv2(self.conv1(x).relu()).relu()

    def score_maps(self, x: torch.Tensor) -> torch.Tensor:
        """Return the signed class scores of every step, (B, C, T): the temporal class activation maps."""
        return self.classifier(self.features(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, C)."""
        reduce = torch.amax if self.pooling == "gmp" else torch.mean
        return self.classifier(reduce(self.features(x), dim=2, keepdim=True)).squeeze(2)


def build_temporal(
    features: int, n_classes: int, *, width: int = 500, pooling: str = "gmp", seed: int = 0
) -> TemporalNet:
    """Build a network in training mode on the CPU; the global generator is left as it was.

    Args:
        features: D, channels of the sequences.
        n_classes: C.
        width: channels of the two convolutions.
        pooling: ``gmp`` or ``gap``.
        seed: of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TemporalNet(features, n_classes, width, pooling)


def load_temporal(path: str | Path, device: str | torch.device = "cpu") -> TemporalNet:
    """Read a network in eval mode, with ``class_names`` and ``meta``. Raises ``StoreError``."""
    return load_network(path, build_temporal, kind=KIND, device=device)


# --- training --------------------------------------------------------------------------------------------------------


class Sequences:
    """The sequences of a store with their labels as vectors; kept in memory when they are small.

    Attributes:
        ids: of the videos.
        labels: float32 (N, C) of 0/1.
        mean: float64 (D,), over all steps of all videos.

    Raises:
        DataError: no video, or one without a label.
    """

    def __init__(self, store: Store):
        self.store, self.ids = store, store.ids
        self.mean = store.table("mean")
        if not self.ids:
            raise DataError(f"{store.path}: holds no video; prepare the sequences again")
        self.labels = np.zeros((len(self.ids), len(store.class_names)), np.float32)
        for row, video in zip(self.labels, self.ids, strict=True):
            row[store.attrs(video)["classes"]] = 1
        without = np.flatnonzero(~self.labels.any(axis=1))
        if len(without):
            raise DataError(f"{store.path}: video '{self.ids[without[0]]}' has no label; leave it out of the split")
        self._kept: list[np.ndarray] | None = None
        first = store.read(self.ids[0])
        if first.nbytes * len(self.ids) <= IN_MEMORY:
            self._kept = [first, *map(store.read, self.ids[1:])]

    def read(self, index: int) -> np.ndarray:
        """Return float32 (T, D)."""
        return self.store.read(self.ids[index]) if self._kept is None else self._kept[index]


class HiddenSequences:
    """Training samples: dicts of ``sequence`` float32 (D, T), with segments hidden, and ``label`` float32 (C,)."""

    def __init__(self, sequences: Sequences, params: TemporalParams):
        self.sequences, self.params, self.ids = sequences, params, sequences.ids

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        sequence = self.sequences.read(index)
        if self.params.hide_segments:
            options = {"segments": self.params.hide_segments, "p": self.params.hide_p}
            sequence = hide_segments(sequence, self.sequences.mean, rng, **options)
        return {
            "sequence": torch.from_numpy(np.ascontiguousarray(sequence.T)),
            "label": torch.from_numpy(self.sequences.labels[index]),
        }


class TemporalTask(Task):
    """Classification of videos.

    Args:
        model: the network.
        train: sequences to learn from.
        val: sequences to validate on, seen whole, or None.
        params: loss and hiding.
    """

    def __init__(self, model: TemporalNet, train: Sequences, val: Sequences | None, params: TemporalParams):
        self.model, self.val, self.params = model, val, params
        self.dataset = HiddenSequences(train, params)

    def loss(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of logits and labels (B, C)."""
        if self.params.loss == "cross_entropy":
            return F.cross_entropy(logits, label / label.sum(dim=1, keepdim=True))
        return F.multilabel_soft_margin_loss(logits, label)

    def step(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits, label = self.model(batch["sequence"]).float(), batch["label"]
        right = label.gather(1, logits.argmax(dim=1, keepdim=True))
        return self.loss(logits, label), {"accuracy": right.mean()}

    def evaluate(self) -> Row:
        """Return ``val_loss``, ``val_map`` and ``val_accuracy`` (the highest score is a label) of whole videos."""
        if self.val is None:
            return {}
        device = self.model.classifier.weight.device
        rows = [torch.from_numpy(self.val.read(i)).T[None].to(device) for i in range(len(self.val.ids))]
        logits = torch.cat([self.model(row).float().cpu() for row in rows])
        labels = self.val.labels
        return {
            "val_loss": float(self.loss(logits, torch.from_numpy(labels))),
            "val_map": mean_average_precision(logits.numpy(), labels),
            "val_accuracy": float(labels[np.arange(len(labels)), logits.argmax(1).numpy()].mean()),
        }


def train_temporal(
    train: Store,
    val: Store | None,
    params: TemporalParams,
    **run: Unpack[Run],
) -> TemporalNet:
    """Train a network and write it; calling again after a kill resumes and ends in the same bytes.

    Args:
        train: ``Store(stage="sequences")`` to learn from.
        val: the same for the validation columns of the metrics, or None.
        params: see ``TemporalParams``.
        out: the network's file, see ``load_temporal``.
        metrics_csv: one row per epoch: epoch, lr, train_loss, train_accuracy, and with ``val`` val_loss, val_map,
            val_accuracy.
        run: see ``camflow.train.tofile.Run``.

    Raises:
        DataError: a split without videos or labels, or splits that do not fit together.
    """
    names = list(train.class_names)
    if val is not None and list(val.class_names) != names:
        raise DataError(f"{val.path}: has other classes than {train.path}; give both splits the same `classes`")

    def make_task() -> TemporalTask:
        sequences = Sequences(train)
        model = build_temporal(
            len(sequences.mean), len(names), width=params.width, pooling=params.pooling, seed=params.seed
        )
        return TemporalTask(model, sequences, None if val is None else Sequences(val), params)

    save = functools.partial(save_network, kind=KIND)
    return train_to_file(make_task, params, save, method="temporal", class_names=names, **run)
