"""AMN: Lee, Kim and Shim, "Threshold Matters in WSSS: Manipulating the Activation for the Robust and Accurate
Segmentation Model Against Thresholds", CVPR 2022. A second network that learns from the confident labels of a seed and,
as it is told which classes an image shows, spreads its activation over whole objects.

    f          features of a trunk, (D, h, w)
    e          W y + b, one embedding of the image's labels y (0/1) of length D
    logits     sum of four 3x3 convolutions of dropout(f * e), dilation 6, 12, 18, 24; channel 0 is the background

Features are multiplied by the embedding cell by cell. Published on ResNet-50 of stride 16, without dilation.

As a host (``camflow.models.host``) the network is told the labels first (``given``). Its features are then f * e, its score
maps the logits of the classes, its class scores their means over the cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from camflow.errors import ConfigError
from camflow.models.classifier import Classifier, build_classifier
from camflow.models.deeplab import RATES, Aspp
from camflow.models.files import load_network, save_network

KIND = "amn"


class ForegroundAspp:
    """The rows of the classes of an ``Aspp`` whose row 0 is the background, its branches added tap by tap.

    Near the border of the grid a branch's outer taps fall into the padding, each at its own distance, so this is not the
    map itself but what ``camflow.models.host.linear_scorer`` reads of it.
    """

    def __init__(self, aspp: Aspp):
        self._aspp = aspp

    @property
    def weight(self) -> torch.Tensor:
        """(C, D, 3, 3)."""
        return torch.stack([conv.weight[1:] for conv in self._aspp.children()]).sum(0)

    @property
    def bias(self) -> torch.Tensor:
        """(C,)."""
        return torch.stack([conv.bias[1:] for conv in self._aspp.children()]).sum(0)


class Amn(nn.Module):
    """The network; see ``build_amn`` for the arguments' meaning. C classes, D features.

    Input is float ``(B, 3, H, W)``, RGB/255 normalised by ``mean`` and ``std``, and the labels ``(B, C)`` of 0/1.

    Attributes:
        net: the classifier whose trunk is used; its own head is not.
        label_enc: the embedding of the labels.
        aspp: the convolutions.
        dropout: probability with which a feature is dropped in training.
        stride, map_stride, mean, std: as of ``Classifier``.
        class_names, meta, spec: as of ``Classifier``.
    """

    def __init__(self, net: Classifier, *, rates: Sequence[int], dropout: float, spec: dict[str, Any]):
        super().__init__()
        self.net = net
        net.head.requires_grad_(False)
        width = net.level_channels[-1]
        self.label_enc = nn.Linear(net.n_classes, width)
        self.aspp = Aspp(width, net.n_classes + 1, rates)
        self.dropout = dropout
        self.stride, self.map_stride = net.stride, net.map_stride
        self.mean, self.std = net.mean, net.std
        self.spec = spec
        self.class_names: list[str] = []
        self.meta: dict[str, Any] = {}

    @property
    def n_classes(self) -> int:
        return self.label_enc.in_features

    @property
    def head(self) -> ForegroundAspp:
        return ForegroundAspp(self.aspp)

    def conditioned(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the features times the embedding of the labels, ``(B, D, h, w)``; labels ``(B or 1, C)``."""
        embedding = self.label_enc(labels.to(self.label_enc.weight.dtype))
        return self.net.features(x) * embedding[:, :, None, None]

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the logits of background and classes, ``(B, C+1, h, w)``; in training some features are dropped."""
        return self.aspp(functional.dropout(self.conditioned(x, labels), self.dropout, self.training))

    def given(self, classes: np.ndarray) -> AmnHost:
        """The host for images that show these classes, (K,) 0-based indices."""
        return AmnHost(self, classes)

    def trunk_parameters(self) -> list[nn.Parameter]:
        """Return the trunk's trainable parameters."""
        return self.net.trunk_parameters()

    def new_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that start without initial weights."""
        return [*self.label_enc.parameters(), *self.aspp.parameters()]


class AmnHost:
    """An ``Amn`` that was told the labels of the images it is going to see: a ``camflow.models.host.Host``.

    It shares the network's weights, and nothing is ever dropped.
    """

    def __init__(self, model: Amn, classes: np.ndarray):
        self.model = model
        self.head, self.mean, self.std = model.head, model.mean, model.std
        self.stride, self.map_stride = model.stride, model.map_stride
        self.class_names, self.meta = model.class_names, model.meta
        labels = torch.zeros(1, model.n_classes, device=model.label_enc.weight.device)
        labels[0, torch.as_tensor(np.asarray(classes, np.int64))] = 1
        self.labels = labels

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features times the embedding, ``(B, D, h, w)``, signed."""
        return self.model.conditioned(x, self.labels)

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """Return the mean of each channel, ``(B, D, 1, 1)``."""
        return features.mean(dim=(2, 3), keepdim=True)

    def logits(self, x: torch.Tensor, keep: Callable[[torch.Tensor], torch.Tensor] | None = None) -> torch.Tensor:
        """Return the logits of background and classes, ``(B, C+1, h, w)``.

        Args:
            x: images.
            keep: says of features ``(B, D, h, w)`` which are not dropped, bool of that shape; the others become 0 as in
                training. None keeps all.
        """
        features = self.features(x)
        if keep is not None:
            features = features * keep(features) / (1 - self.model.dropout)
        return self.model.aspp(features)

    def score_maps(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of the classes, ``(B, C, h, w)``."""
        return self.logits(x)[:, 1:]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the means of the score maps, ``(B, C)``."""
        return self.score_maps(x).mean(dim=(2, 3))


def build_amn(
    backbone: str,
    n_classes: int,
    *,
    weights: str = "none",
    output_stride: int | None = None,
    dilate: bool = False,
    width: int = 24,
    rates: Sequence[int] = RATES,
    dropout: float = 0.1,
    freeze_bn: bool = True,
    freeze_stem: bool = False,
    detach: str = "none",
    seed: int = 0,
) -> Amn:
    """Build an AMN in training mode on the CPU.

    Args:
        backbone, weights, output_stride, dilate, width, freeze_bn, freeze_stem, detach, seed: see
            ``camflow.models.classifier.build_classifier``.
        n_classes: number of foreground classes C.
        rates: dilations of the convolutions.
        dropout: probability with which a feature is dropped in training, from 0 to below 1.

    Raises:
        ConfigError: any argument the network cannot honour.
    """
    if not rates or min(rates) < 1 or not 0 <= dropout < 1:
        raise ConfigError(f"amn: rates are at least 1, dropout lies in [0, 1), not {list(rates)} and {dropout}")
    of_trunk = {
        "output_stride": output_stride,
        "dilate": dilate,
        "width": width,
        "freeze_bn": freeze_bn,
        "freeze_stem": freeze_stem,
        "detach": detach,
    }
    spec = {"backbone": backbone, "n_classes": n_classes, "rates": list(rates), "dropout": dropout, **of_trunk}
    net = build_classifier(backbone, n_classes, weights=weights, seed=seed, **of_trunk)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Amn(net, rates=rates, dropout=dropout, spec=spec).train()


def save_amn(path: str | Path, model: Amn, *, class_names: Sequence[str], meta: dict[str, Any] | None = None) -> None:
    """Write an AMN atomically; arguments as of ``save_classifier``."""
    save_network(path, model, kind=KIND, class_names=class_names, meta=meta)


def load_amn(path: str | Path, device: str | torch.device = "cpu") -> Amn:
    """Read an AMN in eval mode. Raises ``StoreError`` for a file that is missing, torn, altered or another's."""
    return load_network(path, build_amn, kind=KIND, device=device)
