"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from camflow.errors import ConfigError
from camflow.train.settings import TrainSettings


def effective_momentum(settings: TrainSettings) -> float:
    """Return the momentum SGD really gets; see ``TrainSettings.momentum_slot``."""
    return settings.weight_decay if settings.momentum_slot == "authors" else settings.momentum


def schedule_factor(settings: TrainSettings, step: int, steps_per_epoch: int) -> float:
    """Return what the learning rate is multiplied by in step ``step`` (from 0) of the run.

    The factor is evaluated before the update, so the first step of ``poly`` has factor 1 and the last one is not 0.
    """
    total = settings.epochs * steps_per_epoch
    if settings.schedule == "poly":
        factor = (1 - step / total) ** settings.power
    elif settings.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * step / total))
    elif settings.schedule == "step":
        factor = settings.gamma ** (step // steps_per_epoch // settings.step_every)
    else:
        factor = 1.0
    warmup = settings.warmup_epochs * steps_per_epoch
    return factor * min(1.0, (step + 1) / warmup) if warmup > 0 else factor


def build_optimizer(groups: Sequence[dict[str, Any]], settings: TrainSettings) -> torch.optim.Optimizer:
    """Build the optimiser over parameter groups.

    Args:
        groups: dicts with ``params`` and optionally ``lr_mult`` (default 1) and ``weight_decay``. Parameters that do
            not require a gradient are left out, and empty groups with them.
    """
    ready = []
    for group in groups:
        params = [p for p in group["params"] if p.requires_grad]
        lr = settings.lr * group.get("lr_mult", 1.0)
        decay = group.get("weight_decay", settings.weight_decay)
        if params:
            ready.append({"params": params, "lr": lr, "initial_lr": lr, "weight_decay": decay})
    if not ready:
        raise ConfigError("nothing to train: every parameter is frozen")
    adaptive = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    if settings.optimizer in adaptive:
        return adaptive[settings.optimizer](ready, lr=settings.lr)
    return torch.optim.SGD(ready, lr=settings.lr, momentum=effective_momentum(settings))


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group to ``factor`` times its rate at the start."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
