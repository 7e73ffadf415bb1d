"""Schedules in closed form, momentum, parameter groups, settings."""

import itertools
import math

import pytest
import torch

from camflow.errors import ConfigError
from camflow.train.optim import build_optimizer, effective_momentum, schedule_factor, set_learning_rate
from camflow.train.settings import TrainSettings


def test_poly_in_closed_form():
    config = TrainSettings(epochs=5)
    factors = [schedule_factor(config, step, 661) for step in range(3305)]  # VOC: 10582 // 16 steps, 5 epochs
    assert factors[0] == 1.0
    assert factors[1234] == pytest.approx((1 - 1234 / 3305) ** 0.9, rel=1e-15)
    assert factors[-1] == pytest.approx((1 / 3305) ** 0.9, rel=1e-12)
    assert all(a > b for a, b in itertools.pairwise(factors))


def test_other_schedules():
    cosine = TrainSettings(epochs=2, schedule="cosine")
    assert [schedule_factor(cosine, s, 2) for s in range(4)] == pytest.approx(
        [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    )
    steps = TrainSettings(epochs=6, schedule="step", step_every=2, gamma=0.1)
    assert [schedule_factor(steps, s, 3) for s in (0, 5, 6, 11, 12)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    warm = TrainSettings(epochs=4, schedule="constant", warmup_epochs=2)
    assert [schedule_factor(warm, s, 2) for s in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_momentum_slot():
    assert effective_momentum(TrainSettings(weight_decay=5e-4, momentum_slot="authors")) == 5e-4
    assert effective_momentum(TrainSettings(weight_decay=5e-4, momentum_slot="paper")) == 0.9
    for slot, momentum in (("authors", 1e-4), ("paper", 0.9)):
        optimizer = build_optimizer(
            [{"params": [torch.nn.Parameter(torch.ones(1))]}], TrainSettings(momentum_slot=slot)
        )
        assert optimizer.param_groups[0]["momentum"] == momentum
        assert optimizer.param_groups[0]["weight_decay"] == 1e-4


def test_groups():
    free, head, frozen = (torch.nn.Parameter(torch.ones(2), requires_grad=r) for r in (True, True, False))
    groups = [
        {"params": [free, frozen]},
        {"params": [head], "lr_mult": 10, "weight_decay": 0.0},
        {"params": [frozen]},
    ]
    optimizer = build_optimizer(groups, TrainSettings(lr=0.1))
    assert [len(g["params"]) for g in optimizer.param_groups] == [1, 1]
    set_learning_rate(optimizer, 0.5)
    assert [g["lr"] for g in optimizer.param_groups] == [0.05, 0.5]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [1e-4, 0.0]
    adamw = build_optimizer(groups, TrainSettings(lr=0.1, optimizer="adamw"))
    assert isinstance(adamw, torch.optim.AdamW)
    assert [g["lr"] for g in adamw.param_groups] == [0.1, 1.0]


def test_adam_has_its_weight_decay_in_the_gradient():
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    adam = build_optimizer([{"params": [weight]}], TrainSettings(lr=0.1, optimizer="adam", weight_decay=0.5))
    weight.grad = torch.tensor([-3.0])
    adam.step()
    # Its first step is lr times the sign of the gradient: of -3 + .5 * 2. Decay beside it would give 2 + .1 - .1.
    assert weight.item() == pytest.approx(2.1, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schedule": "polly"}, "did you mean 'poly'"),
        ({"momentum_slot": "author"}, "did you mean 'authors'"),
        ({"precision": "int8"}, "unknown precision"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"lr": -1}, "lr must not be negative"),
        ({"lr": float("nan")}, "lr must not be negative"),
        ({"batch_size": 2, "accumulate": 3}, "cannot exceed batch_size"),
    ],
)
def test_impossible_settings_are_named(changes, words):
    with pytest.raises(ConfigError, match=words):
        TrainSettings(**changes)
