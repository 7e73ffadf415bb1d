"""The network of cross-consistency training: Ouali, Hudelot and Tami, CVPR 2020, sections 3.2 and 4.1.

    encoder   trunk of output stride 8 -> pyramid pooling (Zhao et al., CVPR 2017) -> a quarter of the trunk's channels
    decoder   1x1 convolution to the labels, then per factor of two up to the image: 1x1 convolution to four times the
              channels, ReLU, pixel shuffle (Shi et al., CVPR 2016)

The number of doublings follows from the stride of the trunk. Training adds decoders that see perturbed features
(``CctTraining``); prediction and files need the main one alone (``Cct``).

The last operation of a decoder is a ReLU, as in the released code: logits are never negative, and where all are 0 the
prediction is background. A class whose logit is 0 everywhere gets no gradient through its own channel and may never be
predicted. With two or three classes, whose decoders are as narrow, that happens to most trainings from random weights;
``last_relu`` false makes it rarer (the ReLUs before remain).

The paper's encoder is a ResNet-50 whose first convolution is three 3 x 3 ones; torchvision's has one of 7 x 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from camflow.errors import ConfigError
from camflow.models.backbones import Trunk, build_trunk
from camflow.models.files import load_network, save_network
from camflow.models.segmenter import Segmenter, load_weights

KIND = "segmenter_cct"
BINS = (1, 2, 3, 6)


def icnr_(weight: torch.Tensor) -> torch.Tensor:
    """Fill the weight (4K, D, 1, 1) of a convolution before a pixel shuffle in place; returns it.

    Four rows in succession, which become the four pixels of a 2 x 2 block, get the same values, drawn as He et al. 2015
    do; so a fresh network makes no checkerboard (Aitken et al. 2017, "ICNR"). Biases are not part of it: as released
    they stay random, and differ within a block.
    """
    base = nn.init.kaiming_normal_(weight.new_empty(weight.shape[0] // 4, *weight.shape[1:]))
    with torch.no_grad():
        return weight.copy_(spread(base))


def spread(base: torch.Tensor) -> torch.Tensor:
    """The weight (4K, D, 1, 1) of ICNR whose rows 4j to 4j+3 are row j of ``base`` (K, D, 1, 1)."""
    return base.repeat_interleave(4, dim=0)


class Doubling(nn.Module):
    """1x1 convolution to four times the channels -> ReLU -> pixel shuffle: (B, K, h, w) -> (B, K, 2h, 2w).

    Without ``relu`` the values keep their sign.
    """

    def __init__(self, channels: int, relu: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 1)
        self.relu = relu
        icnr_(self.conv.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return functional.pixel_shuffle(functional.relu(x) if self.relu else x, 2)


class Decoder(nn.Module):
    """(B, D, h, w) features -> (B, n_labels, h 2^n, w 2^n) logits.

    Args:
        channels: D.
        n_labels: background included.
        doublings: n.
        last_relu: whether the last doubling ends in a ReLU.
    """

    def __init__(self, channels: int, n_labels: int, doublings: int, last_relu: bool = True):
        super().__init__()
        first = nn.Conv2d(channels, n_labels, 1, bias=False)
        nn.init.kaiming_normal_(first.weight, nonlinearity="relu")
        relus = [True] * (doublings - 1) + [last_relu] * min(1, doublings)
        self.upsample = nn.Sequential(first, *(Doubling(n_labels, relu) for relu in relus))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.upsample(features)


class PyramidPooling(nn.Module):
    """Means over grids of n x n parts of the image beside the features, then a 3x3 convolution.

    Args:
        channels: D of the input (B, D, h, w); the output has ``out_channels`` = D // number of grids, at least 1.
        bins: n of every grid.
    """

    def __init__(self, channels: int, bins: Sequence[int] = BINS):
        super().__init__()
        self.bins = tuple(bins)
        self.out_channels = max(1, channels // len(bins))
        self.stages = nn.ModuleList(_norm_relu(nn.Conv2d(channels, self.out_channels, 1, bias=False)) for _ in bins)
        joined = channels + len(bins) * self.out_channels
        self.bottleneck = _norm_relu(nn.Conv2d(joined, self.out_channels, 3, padding=1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) == 1 and self.stages[0][1].training:
            raise ConfigError(
                "cct: the batch norm behind the mean of a whole image needs at least two images at a time; raise "
                "batch_size, lower accumulate, or set freeze_bn"
            )
        parts = [x]
        for n, stage in zip(self.bins, self.stages, strict=True):
            pooled = stage(functional.adaptive_avg_pool2d(x, n))
            parts.append(functional.interpolate(pooled, size=x.shape[2:], mode="bilinear", align_corners=False))
        return self.bottleneck(torch.cat(parts, dim=1))


def _norm_relu(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(inplace=True))


class _Head(nn.Module):
    """Pyramid pooling and the main decoder."""

    def __init__(self, channels: int, n_labels: int, doublings: int, last_relu: bool):
        super().__init__()
        self.pooling = PyramidPooling(channels)
        self.decoder = Decoder(self.pooling.out_channels, n_labels, doublings, last_relu)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.pooling(features))

    def new_layers(self) -> list[nn.Module]:
        return [self.pooling, self.decoder]


class Cct(Segmenter):
    """Encoder and main decoder: a network with the interface of ``Segmenter`` whose logits have the image's size.

    Attributes:
        main_decoder: features of ``encode`` -> logits.
        code_channels: of what ``encode`` returns.
        doublings: of the decoders.
    """

    def __init__(self, trunk: Trunk, spec: dict[str, Any]):
        stride = trunk.strides[-1]
        doublings = stride.bit_length() - 1
        if 2**doublings != stride:
            raise ConfigError(f"cct: a decoder doubles, so the stride must be a power of two, not {stride}")
        head = _Head(trunk.channels[-1], spec["n_classes"] + 1, doublings, spec["last_relu"])
        super().__init__(trunk, head, spec)
        self.doublings = doublings

    @property
    def main_decoder(self) -> Decoder:
        return self.head.decoder

    @property
    def code_channels(self) -> int:
        return self.head.pooling.out_channels

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Return what every decoder starts from, ``(B, D, ceil(H/stride), ceil(W/stride))``."""
        return self.head.pooling(self.features(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits ``(B, n_labels, H, W)``.

        Sides that are no multiples of the stride are padded at the right and the bottom, as published by reflection
        (by the border where an image is smaller than the padding), and the padding's logits are cut off.
        """
        size = x.shape[2:]
        height, width = (-n % self.stride for n in size)
        if height or width:
            mode = "reflect" if height < size[0] and width < size[1] else "replicate"
            x = functional.pad(x, (0, width, 0, height), mode=mode)
        return super().forward(x)[:, :, : size[0], : size[1]]


class CctTraining(nn.Module):
    """What is trained: a ``Cct`` with its auxiliary decoders, which are all of the main decoder's kind.

    Attributes:
        network: encoder and main decoder; what files hold.
        aux_decoders: any number.
        n_labels, mean, std: of the network.
    """

    def __init__(self, network: Cct, count: int):
        super().__init__()
        self.network = network
        self.n_labels, self.mean, self.std = network.n_labels, network.mean, network.std
        shape = network.code_channels, network.n_labels, network.doublings, network.spec["last_relu"]
        self.aux_decoders = nn.ModuleList(Decoder(*shape) for _ in range(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the main decoder's logits ``(B, n_labels, H, W)``."""
        return self.network(x)


def build_cct(
    backbone: str,
    n_classes: int,
    *,
    weights: str = "none",
    output_stride: int | None = 8,
    dilate: bool = True,
    width: int = 24,
    freeze_bn: bool = False,
    last_relu: bool = True,
    seed: int = 0,
) -> Cct:
    """Build the network in training mode on the CPU; published: ``resnet50`` with its weights of ImageNet.

    Args:
        backbone: a name of ``camflow.models.backbones.build_trunk``.
        n_classes: number of foreground classes C; the network has C + 1 labels.
        weights: initial weights of the trunk, as of ``camflow.models.segmenter.build_segmenter``.
        output_stride: stride of the trunk, a power of two; None keeps the published one.
        dilate: replace removed strides by dilation.
        width: first channels of ``tiny``.
        freeze_bn: all batch norms use their running statistics and do not train.
        last_relu: decoders end in a ReLU, as released; False lets logits be negative.
        seed: of the fresh weights; the global generator is left as it was.

    Raises:
        ConfigError: any argument the network cannot honour.
    """
    if not 1 <= n_classes <= 254:
        raise ConfigError(f"a segmentation network has 1 to 254 classes (255 is no label), not {n_classes}")
    spec = {
        "backbone": backbone,
        "n_classes": n_classes,
        "output_stride": output_stride,
        "dilate": dilate,
        "width": width,
        "freeze_bn": freeze_bn,
        "last_relu": last_relu,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Cct(build_trunk(backbone, output_stride=output_stride, dilate=dilate, width=width), spec)
    load_weights(model, weights)
    return model.train()


def with_auxiliary(network: Cct, count: int, *, seed: int = 0) -> CctTraining:
    """Put ``count`` fresh auxiliary decoders beside a network, in training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CctTraining(network, count).train()


# --- files -----------------------------------------------------------------------------------------------------------


def save_cct(path: str | Path, model: Cct, *, class_names: Sequence[str], meta: dict[str, Any] | None = None) -> None:
    """Write a network without auxiliary decoders atomically; arguments as of ``save_classifier``."""
    save_network(path, model, kind=KIND, class_names=class_names, meta=meta)


def load_cct(path: str | Path, device: str | torch.device = "cpu") -> Cct:
    """Read a network in eval mode, with its ``class_names`` and ``meta``.

    Raises:
        StoreError: the file is missing, torn, altered or another's.
    """
    return load_network(path, build_cct, kind=KIND, device=device)
