"""What of a network PSA and SEAM train, and how fast: Ahn and Kwak, CVPR 2018, as its code runs, and SEAM after it.

Frozen: every batch norm (statistics and affine part) and everything up to stride 2 (on ``resnet38`` conv1a, b2, b2_1
and b2_2; on ``vgg16_psa`` the convolutions of stages 1 and 2). The rest learns in four groups: weights at the learning
rate, biases at twice the rate without weight decay; new layers at ten and twenty times the rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from camflow.models.classifier import Classifier

FROZEN_STRIDE = 2


def freeze_as_published(net: Classifier) -> None:
    """Stop training the batch norms of a classifier and its first layers, in place.

    A step is among the first layers when the level it belongs to has at most stride 2 in the published network; in a
    ResNet nothing has, and then the first convolution and its norm are frozen (as IRN does).
    """
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.requires_grad_(False)
    early = [level for level, stride in zip(net.levels, net.published_strides, strict=True) if stride <= FROZEN_STRIDE]
    if not early:
        net.freeze_stem()
        return
    for step in net.steps[: net.steps.index(early[-1]) + 1]:
        net.get_submodule(step).requires_grad_(False)


def published_groups(model: nn.Module, new_layers: Iterable[nn.Module]) -> list[dict[str, Any]]:
    """The four parameter groups of a network, see ``camflow.train.loop.Task.param_groups``.

    Args:
        model: holds every parameter; frozen ones are left out by the optimiser.
        new_layers: modules of the model that start without initial weights.
    """
    fresh = {id(p) for layer in new_layers for p in layer.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {(new, b): [] for new in (False, True) for b in (False, True)}
    for name, parameter in model.named_parameters():
        groups[id(parameter) in fresh, name.endswith("bias")].append(parameter)
    return [_group(parameters, new, bias) for (new, bias), parameters in groups.items()]


def _group(parameters: Sequence[nn.Parameter], new: bool, bias: bool) -> dict[str, Any]:
    group: dict[str, Any] = {"params": list(parameters), "lr_mult": (10.0 if new else 1.0) * (2.0 if bias else 1.0)}
    if bias:
        group["weight_decay"] = 0.0
    return group
