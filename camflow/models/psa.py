"""AffinityNet (PSA): Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly
Supervised Semantic Segmentation", CVPR 2018, section 3.2.

Three levels of a trunk are reduced by 1x1 convolutions to 64, 128 and 256 channels, concatenated to 448 channels and
mixed by one more 1x1 convolution, each followed by an ELU. Cells i and j at stride 8 have the affinity

    a_ij = exp( - mean over the 448 channels of |F_i - F_j| )          (the paper writes the sum, its code the mean)

The levels are the last three of the backbone: on ``resnet38`` conv4, conv5 and conv6 (512, 1024 and 4096 channels), on
``vgg16_psa`` conv4_3, conv5_3 and fc7, as published; on any other the same rule gives e.g. layer2, layer3 and layer4 of
a ResNet. What does not lie on the grid of stride 8 is resized to it. All but ``resnet38``, whose levels end in batch
norms of equal scale, get a group norm (8, 16, 32 groups) in front of the ELU, as the published VGG-16 has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from camflow.errors import ConfigError
from camflow.models.classifier import Classifier, build_classifier
from camflow.models.files import load_network, save_network
from camflow.models.vgg16_psa import dilate_fc6
from camflow.refine.neighbours import neighbours, shift, source_window

KIND = "affinity"
STRIDE = 8  # pixels per cell of the affinities, whatever the backbone
RADIUS = 5  # in cells; affinities are learnt and walked within it
CHANNELS = (64, 128, 256)
GROUPS = (8, 16, 32)
_NAMES = ("8_3", "8_4", "8_5")


# --- affinities of pairs ---------------------------------------------------------------------------------------------


class _PairAffinity(torch.autograd.Function):
    """exp(-mean |F_i - F_j|) without keeping the differences of all pairs, which are 34 times the features."""

    @staticmethod
    def forward(context: Any, features: torch.Tensor, radius: int) -> torch.Tensor:
        window = source_window(tuple(features.shape[2:]), radius)
        source = features[(..., *window)]
        pairs = [
            torch.exp(-(source - features[(..., *shift(window, dy, dx))]).abs().mean(dim=1))
            for dy, dx in neighbours(radius).search.tolist()
        ]
        affinity = torch.stack(pairs, dim=1)
        context.save_for_backward(features, affinity)
        context.radius = radius
        return affinity.flatten(2)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        features, affinity = context.saved_tensors
        window = source_window(tuple(features.shape[2:]), context.radius)
        source = features[(..., *window)]
        slope = gradient.view_as(affinity) * affinity / -features.shape[1]
        total, at_source = torch.zeros_like(features), torch.zeros_like(source)
        for index, (dy, dx) in enumerate(neighbours(context.radius).search.tolist()):
            there = (..., *shift(window, dy, dx))
            part = torch.sign(source - features[there]) * slope[:, index, None]
            at_source += part
            total[there] -= part
        total[(..., *window)] += at_source
        return total, None


def pair_affinity(features: torch.Tensor, radius: int = RADIUS) -> torch.Tensor:
    """Affinities of all pairs of a grid.

    Args:
        features: float (B, D, h, w).
        radius: cells closer than this are paired.

    Returns:
        (B, P, n) in (0, 1]: P offsets in ``neighbours(radius).search`` order (34 for radius 5), n sources in the rows'
        order of ``source_window``.

    Raises:
        ConfigError: the grid is too small to have a pair.
    """
    return _PairAffinity.apply(features, radius)


# --- the network -----------------------------------------------------------------------------------------------------


class AffinityNet(nn.Module):
    """Trunk -> three levels -> 448 features per cell at stride 8; see ``build_affinity_net``.

    Input is float ``(B, 3, H, W)``, RGB/255 normalised by ``mean`` and ``std``; H and W multiples of 8.

    Attributes:
        net: the classifier whose trunk is used; its head is not.
        f8_3, f8_4, f8_5, f9: the new convolutions; gn8_3, gn8_4, gn8_5: their norms, absent on ``resnet38``.
        mean, std: normalisation of the input.
        class_names, meta, spec: as of ``Classifier``; affinities know no classes.
    """

    def __init__(self, net: Classifier, spec: dict[str, Any]):
        super().__init__()
        backbone = spec["backbone"]
        if len(net.levels) < 3:
            raise ConfigError(f"affinity: backbone '{backbone}' has fewer than the three levels that it needs")
        self.net = net
        self.normed = backbone != "resnet38"
        for name, inputs, channels, groups in zip(_NAMES, net.level_channels[-3:], CHANNELS, GROUPS, strict=True):
            conv = nn.Conv2d(inputs, channels, 1, bias=False)
            nn.init.kaiming_normal_(conv.weight)
            self.add_module(f"f{name}", conv)
            if self.normed:
                self.add_module(f"gn{name}", nn.GroupNorm(groups, channels))
        self.f9 = nn.Conv2d(sum(CHANNELS), sum(CHANNELS), 1, bias=False)
        nn.init.xavier_uniform_(self.f9.weight, gain=4)
        if backbone == "vgg16_psa":
            dilate_fc6(net)
        self.mean, self.std = net.mean, net.std
        self.spec = spec
        self.class_names: list[str] = []
        self.meta: dict[str, Any] = {}

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features that affinities compare, ``(B, 448, ceil(H/8), ceil(W/8))``."""
        grid = tuple(-(-n // STRIDE) for n in x.shape[2:])
        reduced = [
            self._reduce(name, level, grid) for name, level in zip(_NAMES, self.net.level_features(x)[-3:], strict=True)
        ]
        return functional.elu(self.f9(torch.cat(reduced, dim=1)))

    def _reduce(self, name: str, level: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
        y = self.get_submodule(f"f{name}")(level)
        if y.shape[2:] != grid:
            y = functional.interpolate(y, size=grid, mode="bilinear", align_corners=False)
        if self.normed:
            y = self.get_submodule(f"gn{name}")(y)
        return functional.elu(y)

    def forward(self, x: torch.Tensor, radius: int = RADIUS) -> torch.Tensor:
        """Return the affinities ``(B, P, n)`` of all pairs, see ``pair_affinity``."""
        return pair_affinity(self.features(x), radius)

    def new_layers(self) -> list[nn.Module]:
        """Return the layers that start without initial weights."""
        names = [f"f{name}" for name in _NAMES] + ([f"gn{name}" for name in _NAMES] if self.normed else [])
        return [*(self.get_submodule(name) for name in names), self.f9]


def build_affinity_net(
    backbone: str,
    *,
    weights: str = "none",
    output_stride: int | None = None,
    dilate: bool = False,
    width: int = 24,
    seed: int = 0,
) -> AffinityNet:
    """Build an AffinityNet in training mode on the CPU; batch norms always use their running statistics.

    Args:
        backbone, output_stride, dilate, width, seed: see ``camflow.models.classifier.build_classifier``.
        weights: initial weights of the trunk, see ``load_initial_weights``. A classifier's file serves as well, though
            users report better affinities from ImageNet's weights, which is what was published.

    Raises:
        ConfigError: any argument the network cannot honour.
    """
    spec = {"backbone": backbone, "output_stride": output_stride, "dilate": dilate, "width": width}
    # The one row of the head that a classifier must have is never used, nor does it train (no gradient reaches it).
    net = build_classifier(
        backbone, 1, weights=weights, output_stride=output_stride, dilate=dilate, width=width, freeze_bn=True, seed=seed
    )
    net.head.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AffinityNet(net, spec).train()


def padded_size(size: Sequence[int]) -> tuple[int, int]:
    """(H, W) rounded up to whole cells, as the network must see a photo."""
    height, width = (math.ceil(int(n) / STRIDE) * STRIDE for n in size)
    return height, width


def save_affinity_net(
    path: str | Path, model: AffinityNet, *, class_names: Sequence[str] = (), meta: dict[str, Any] | None = None
) -> None:
    """Write an AffinityNet atomically; equal weights and facts give equal bytes."""
    save_network(path, model, kind=KIND, class_names=class_names, meta=meta)


def load_affinity_net(path: str | Path, device: str | torch.device = "cpu") -> AffinityNet:
    """Read an AffinityNet in eval mode. Raises ``StoreError`` for a file that is missing, torn, altered or another's."""
    return load_network(path, build_affinity_net, kind=KIND, device=device)
