"""SEAM: Wang, Zhang, Kan, Shan and Chen, "Self-Supervised Equivariant Attention Mechanism for Weakly Supervised Semantic
Segmentation", CVPR 2020. A classifier with one more channel for the background and a pixel correlation module (PCM)
that refines its maps by self-attention (section 3.3).

    f_3, f_4   two levels of the trunk -> 1x1 convolutions to 64 and 128 channels, ReLU
    F          1x1 convolution of [RGB, f_3, f_4] (195 channels) to 192 channels, divided by its L2 norm per pixel
    A          ReLU(F^T F), every column divided by its sum
    refined    [background, foreground maps] times A

The maps that enter the product are constants: ReLU, divided by their maximum, only the strongest class of each pixel
kept, and 1 minus the strongest as background. Nor does the PCM send a gradient into the trunk: the refined maps train
its three small convolutions only.

On ``resnet38`` the two levels are the published ones (conv4, 512 channels, and conv5, 1024 channels). On any other
backbone they are likewise the two levels before the last, resized to the grid of the last one where their strides
differ (e.g. layer2 and layer3 of a ResNet).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from camflow.errors import ConfigError
from camflow.models.classifier import Classifier, build_classifier
from camflow.models.files import load_network, save_network

KIND = "seam"
EPSILON = 1e-5


# --- the parts as functions ------------------------------------------------------------------------------------------


def max_norm(maps: torch.Tensor, epsilon: float = EPSILON) -> torch.Tensor:
    """Min-max normalisation of every map of (B, C, h, w): relu(p - min - e) / (max - min + e) with p = relu(maps).

    In [0, 1); differentiable in the maps, their minimum and their maximum.
    """
    positive = functional.relu(maps)
    low = positive.amin(dim=(2, 3), keepdim=True)
    high = positive.amax(dim=(2, 3), keepdim=True)
    return functional.relu(positive - low - epsilon) / (high - low + epsilon)


def with_background(maps: torch.Tensor) -> torch.Tensor:
    """Replace channel 0 of (B, C+1, h, w) by 1 - max over the C foreground channels; differentiable."""
    foreground = maps[:, 1:]
    return torch.cat([1 - foreground.amax(dim=1, keepdim=True), foreground], dim=1)


def strongest_only(maps: torch.Tensor) -> torch.Tensor:
    """Zero every foreground value of (B, C+1, h, w) that is not the largest of its pixel; channel 0 stays."""
    foreground = maps[:, 1:]
    best = foreground.amax(dim=1, keepdim=True)
    return torch.cat([maps[:, :1], torch.where(foreground == best, foreground, 0)], dim=1)


@torch.no_grad()
def attention_input(maps: torch.Tensor) -> torch.Tensor:
    """Turn signed maps (B, C+1, h, w) into what the PCM averages, in [0, 1]; without gradient."""
    peak = functional.relu(maps.amax(dim=(2, 3), keepdim=True)) + EPSILON
    return strongest_only(with_background(functional.relu(maps - EPSILON) / peak))


def correlate(maps: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
    """Average maps by the affinity of their pixels: the PCM behind its convolutions.

    Args:
        maps: (B, C+1, h', w'); brought to the grid of ``embedding`` (bilinear, corners aligned).
        embedding: (B, D, h, w), any length per pixel.

    Returns:
        (B, C+1, h, w) of the embedding's dtype, at least float32. Memory grows with (h*w)^2.
    """
    size = embedding.shape[2:]
    # Thousands of weights per column must sum to one, which half precision cannot express.
    kind = torch.promote_types(embedding.dtype, torch.float32)
    with torch.autocast(embedding.device.type, enabled=False):
        maps = _resize(maps.to(kind), size).flatten(2)
        flat = embedding.to(kind).flatten(2)
        flat = flat / (flat.norm(dim=1, keepdim=True) + EPSILON)
        affinity = functional.relu(flat.transpose(1, 2) @ flat)
        affinity = affinity / (affinity.sum(dim=1, keepdim=True) + EPSILON)
        return (maps @ affinity).unflatten(2, size)


def _resize(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Bilinear, corners aligned; what already has the size comes back as it is."""
    if maps.shape[2:] == tuple(size):
        return maps
    return functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=True)


# --- the network -----------------------------------------------------------------------------------------------------


class ForegroundHead(nn.Module):
    """The rows of the classes of a 1x1 convolution whose row 0 is the background; shares its weights."""

    def __init__(self, full: nn.Conv2d):
        super().__init__()
        self._full = (full,)  # in a tuple, so that the weights are not registered a second time

    @property
    def weight(self) -> torch.Tensor:
        """(C, D, 1, 1)."""
        return self._full[0].weight[1:]

    @property
    def out_channels(self) -> int:
        return self._full[0].out_channels - 1

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(features, self.weight)


class Seam(nn.Module):
    """A host for localizers with the interface of ``Classifier``, plus maps refined by the PCM.

    Input is float ``(B, 3, H, W)``, RGB/255 normalised by ``mean`` and ``std``; C classes, D features.

    Attributes:
        net: the classifier, whose own head has C+1 rows, row 0 the background.
        f8_3, f8_4, f9: the convolutions of the PCM.
        head: the C foreground rows of the net's head.
        stride, mean, std: as of ``Classifier``.
        class_names, meta, spec: as of ``Classifier``.
    """

    def __init__(self, net: Classifier, spec: dict[str, Any]):
        super().__init__()
        if len(net.levels) < 3:
            raise ConfigError(f"seam: backbone '{spec['backbone']}' has fewer than the three levels that it needs")
        shallow, deep = net.level_channels[-3:-1]
        self.net = net
        self.f8_3 = nn.Conv2d(shallow, 64, 1, bias=False)
        self.f8_4 = nn.Conv2d(deep, 128, 1, bias=False)
        self.f9 = nn.Conv2d(64 + 128 + 3, 192, 1, bias=False)
        nn.init.kaiming_normal_(self.f8_3.weight)
        nn.init.kaiming_normal_(self.f8_4.weight)
        nn.init.xavier_uniform_(self.f9.weight, gain=4)
        nn.init.xavier_uniform_(net.head.weight)
        self.head = ForegroundHead(net.head)
        self.stride, self.map_stride = net.stride, net.map_stride
        self.mean, self.std = net.mean, net.std
        self.spec = spec
        self.class_names: list[str] = []
        self.meta: dict[str, Any] = {}

    @property
    def n_classes(self) -> int:
        return self.head.out_channels

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last features ``(B, D, h, w)``."""
        return self.net.features(x)

    def taps(self, x: torch.Tensor) -> dict[int, torch.Tensor]:
        """Return {stride: the deepest features at that stride}, see ``Classifier.taps``."""
        return self.net.taps(x)

    def tap_channels(self) -> dict[int, int]:
        """Return {stride: channels} of ``taps``."""
        return self.net.tap_channels()

    def score_maps(self, x: torch.Tensor) -> torch.Tensor:
        """Return the signed class scores before pooling and before the PCM, ``(B, C, h, w)``; AdvCAM climbs on them."""
        return self.head(self.features(x))

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """Pool ``(B, D, h, w)`` to ``(B, D, 1, 1)``."""
        return self.net.pool(features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits ``(B, C)``: the means of the score maps."""
        return self.score_maps(x).mean(dim=(2, 3))

    def both_maps(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the maps of background and classes before and after the PCM, ``(B, C+1, h, w)`` each.

        The first are signed, the second lie in [0, 1].
        """
        *_, shallow, deep, last = self.net.level_features(x)
        # The dropout that a trunk may have behind its last level belongs in front of the head.
        for step in self.net.steps[self.net.steps.index(self.net.levels[-1]) + 1 :]:
            last = self.net.get_submodule(step)(last)
        maps = self.net.head(last)
        size = maps.shape[2:]
        shallow = functional.relu(self.f8_3(shallow.detach()))
        deep = functional.relu(self.f8_4(deep.detach()))
        image = functional.interpolate(x, size=size, mode="bilinear", align_corners=True)
        embedding = self.f9(torch.cat([image, _resize(shallow, size), _resize(deep, size)], dim=1))
        return maps, correlate(attention_input(maps), embedding)

    def refined_maps(self, x: torch.Tensor) -> torch.Tensor:
        """Return the class maps after the PCM, ``(B, C, h, w)`` in [0, 1]; AdvCAM accumulates these."""
        return self.both_maps(x)[1][:, 1:]

    def image_size_maps(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``both_maps`` resized to the image (bilinear, corners aligned), as the losses and the inference read them."""
        before, after = self.both_maps(x)
        return _resize(before, x.shape[2:]), _resize(after, x.shape[2:])

    def new_layers(self) -> list[nn.Conv2d]:
        """Return the layers that start without initial weights."""
        return [self.net.head, self.f8_3, self.f8_4, self.f9]


def build_seam(
    backbone: str,
    n_classes: int,
    *,
    weights: str = "none",
    output_stride: int | None = None,
    dilate: bool = False,
    width: int = 24,
    seed: int = 0,
) -> Seam:
    """Build a SEAM network in training mode on the CPU; batch norms always use their running statistics.

    Args:
        backbone, weights, output_stride, dilate, width, seed: see ``camflow.models.classifier.build_classifier``.
        n_classes: number of foreground classes C.

    Raises:
        ConfigError: any argument the network cannot honour.
    """
    if n_classes < 1:
        raise ConfigError(f"a classifier needs at least one class, not {n_classes}")
    spec = {
        "backbone": backbone,
        "n_classes": n_classes,
        "output_stride": output_stride,
        "dilate": dilate,
        "width": width,
    }
    net = build_classifier(
        backbone,
        n_classes + 1,
        weights=weights,
        output_stride=output_stride,
        dilate=dilate,
        width=width,
        freeze_bn=True,
        seed=seed,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Seam(net, spec).train()


def save_seam(path: str | Path, model: Seam, *, class_names: Sequence[str], meta: dict[str, Any] | None = None) -> None:
    """Write a SEAM network atomically; arguments as of ``save_classifier``."""
    save_network(path, model, kind=KIND, class_names=class_names, meta=meta)


def load_seam(path: str | Path, device: str | torch.device = "cpu") -> Seam:
    """Read a SEAM network in eval mode. Raises ``StoreError`` for a file that is missing, torn, altered or another's."""
    return load_network(path, build_seam, kind=KIND, device=device)
