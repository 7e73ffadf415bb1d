"""What a training run is asked to do, independent of the method trained."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields

from camflow.errors import ConfigError, did_you_mean

log = logging.getLogger(__name__)

CHOICES = {
    "optimizer": ("sgd", "adam", "adamw"),
    "schedule": ("poly", "cosine", "step", "constant"),
    "momentum_slot": ("authors", "paper"),
    "precision": ("fp32", "tf32", "bf16", "fp16"),
}


@dataclass(frozen=True)
class TrainSettings:
    """Settings of ``camflow.train.loop.fit``. All of them can change the numbers, so all belong to a result's key.

    Attributes:
        epochs: passes over the training set.
        batch_size: samples per optimiser step, over all processes.
        accumulate: a step's samples pass the network in this many parts (less memory; batch statistics differ).
        lr: learning rate at the start; a parameter group multiplies it by its ``lr_mult``.
        weight_decay: of every group that names none of its own.
        momentum: of SGD, see ``momentum_slot``.
        momentum_slot: ``paper`` uses ``momentum``. ``authors`` uses the value of ``weight_decay`` instead: the
            published code of IRN, AdvCAM, PSA and SEAM passes the weight decay in the place of the momentum, and the
            published learning rates are ten times too high for a real momentum of 0.9.
        optimizer: ``sgd``, ``adam`` (weight decay as part of the gradient) or ``adamw``.
        schedule: ``poly`` lr (1 - t/T)^power, ``cosine`` to zero, ``step`` times ``gamma`` every ``step_every`` epochs,
            ``constant``; t counts steps, T is their number in the whole run.
        power: of ``poly``.
        step_every, gamma: of ``step``.
        warmup_epochs: linear increase from 0 before the schedule's factor has its full effect.
        precision: ``fp32``; ``tf32``, ``bf16`` and ``fp16`` take effect on CUDA only, a CPU run says so and uses fp32.
        drop_last: leave out the last, smaller batch of an epoch (unless it is the only one).
        sync_bn: batch statistics over all processes instead of each its own (GPUs only).
        evaluate_every: epochs between two evaluations; the last epoch is always evaluated; 0: only the last.
        seed: of order, augmentation and everything random in the network.
        threads: CPU threads of torch; the order of summation, hence the last bits, depends on it.
        channels_last: memory layout of images and convolutions; changes the last bits and what dropout drops.
    """

    epochs: int = 5
    batch_size: int = 16
    accumulate: int = 1
    lr: float = 0.1
    weight_decay: float = 1e-4
    momentum: float = 0.9
    momentum_slot: str = "paper"
    optimizer: str = "sgd"
    schedule: str = "poly"
    power: float = 0.9
    step_every: int = 1
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    precision: str = "fp32"
    drop_last: bool = True
    sync_bn: bool = False
    evaluate_every: int = 1
    seed: int = 0
    threads: int = 1
    channels_last: bool = False

    def __post_init__(self):
        for name, options in CHOICES.items():
            value = getattr(self, name)
            if value not in options:
                raise ConfigError(f"unknown {name} '{value}'{did_you_mean(value, options)}")
        for name in ("epochs", "batch_size", "accumulate", "step_every", "threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("lr", "weight_decay", "momentum", "warmup_epochs", "evaluate_every"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must not be negative, but is {getattr(self, name)}")
        if self.accumulate > self.batch_size:
            raise ConfigError(f"accumulate ({self.accumulate}) cannot exceed batch_size ({self.batch_size})")

    def settings(self) -> TrainSettings:
        """The part that the loop reads, of a method's parameters that inherit these."""
        return TrainSettings(**{field.name: getattr(self, field.name) for field in fields(TrainSettings)})


def warn_of_frozen(weights: str, freeze_bn: bool, freeze_stem: bool, detach: str) -> None:
    """Say so where layers neither train nor have weights to start from; parameters as of ``PlainParams``."""
    if weights == "none" and (freeze_bn or freeze_stem or detach != "none"):
        log.warning("weights: none with freeze_bn, freeze_stem or detach leaves untrained layers as they are drawn")
