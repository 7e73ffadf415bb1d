"""A classification network whose last layer is a class activation map: trunk, pooling, bias-free 1x1 head.

With global average pooling the logits are the mean of the score maps, so the maps explain the logits exactly (Zhou et
al. 2016, eq. 2); the head has no bias so that nothing else contributes.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from camflow.errors import ConfigError, StoreError, did_you_mean
from camflow.models.backbones import IMAGENET_MEAN, IMAGENET_STD, Trunk, build_trunk
from camflow.models.files import format_of, read_content, save_network
from camflow.models.weights import load_initial_weights

KIND = "classifier"
FORMAT = format_of(KIND)
# Formats of other hosts -> module and function that builds them. Imported only when such a file comes, so that this code
# is in the keys of their own recipes alone: everything made from a host lies below its classifier's key, which covers it.
HOSTS = {
    "camflow-seam/1": ("camflow.models.seam", "build_seam"),
    "camflow-masker/1": ("camflow.models.masker", "rebuild_masker"),
    "camflow-amn/1": ("camflow.models.amn", "build_amn"),
    "camflow-mctformer/1": ("camflow.models.mctformer", "build_mctformer"),
}
POOLINGS = ("gap", "gmp")
DETACHES = ("none", "layer2")


class Classifier(nn.Module):
    """Trunk -> global pooling -> 1x1 convolution; see ``build_classifier`` for the arguments' meaning.

    Input is float ``(B, 3, H, W)``, RGB/255 normalised by ``mean`` and ``std``.

    Attributes:
        stride: nominal stride of the features.
        map_stride: what readers of the maps round a photo up to, see ``camflow.localize.maps``.
        mean, std: normalisation constants of the input, per channel.
        levels, level_strides, level_channels: the trunk's levels, see ``camflow.models.backbones``.
        class_names, meta: facts carried by saved files; empty until set.
        spec: the arguments that rebuild this network.
    """

    mean = IMAGENET_MEAN
    std = IMAGENET_STD

    def __init__(self, trunk: Trunk, n_classes: int, *, pooling: str, freeze_bn: bool, spec: dict[str, Any]):
        super().__init__()
        for name, module in trunk.modules.items():
            self.add_module(name, module)
        self.classifier = nn.Conv2d(trunk.channels[-1], n_classes, 1, bias=False)
        self.steps = trunk.steps
        self.levels = trunk.levels
        self.level_strides = trunk.strides
        self.level_channels = trunk.channels
        self.published_strides = trunk.published_strides
        self.stride = trunk.strides[-1]
        self.map_stride = 1 if trunk.whole_cells else self.stride
        self.pooling = pooling
        self.freeze_bn = freeze_bn
        self.spec = spec
        self.class_names: list[str] = []
        self.meta: dict[str, Any] = {}

    @property
    def head(self) -> nn.Conv2d:
        """The 1x1 convolution ``(C, D, 1, 1)`` that turns features into score maps."""
        return self.classifier

    @property
    def n_classes(self) -> int:
        return self.classifier.out_channels

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last features ``(B, D, h, w)``."""
        for step in self.steps:
            x = self.get_submodule(step)(x)
        return x

    def level_features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the output of every level, in order; for a ResNet IRN's x1..x5."""
        outputs = []
        for step in self.steps:
            x = self.get_submodule(step)(x)
            if step in self.levels:
                outputs.append(x)
        return outputs

    def taps(self, x: torch.Tensor) -> dict[int, torch.Tensor]:
        """Return {stride: the deepest features at that stride} for strides 4 to 16."""
        levels = zip(self.level_strides, self.level_features(x), strict=True)
        return {stride: features for stride, features in levels if 4 <= stride <= 16}

    def tap_channels(self) -> dict[int, int]:
        """Return {stride: channels} of ``taps``."""
        levels = zip(self.level_strides, self.level_channels, strict=True)
        return {stride: channels for stride, channels in levels if 4 <= stride <= 16}

    def score_maps(self, x: torch.Tensor) -> torch.Tensor:
        """Return the signed class scores before pooling, ``(B, C, h, w)``."""
        return self.classifier(self.features(x))

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """Pool ``(B, D, h, w)`` to ``(B, D, 1, 1)``: mean (gap) or maximum (gmp, Zhou et al. 2016) of each channel."""
        reduce = torch.mean if self.pooling == "gap" else torch.amax
        return reduce(features, dim=(2, 3), keepdim=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits ``(B, C)``."""
        return self.classifier(self.pool(self.features(x))).flatten(1)

    def train(self, mode: bool = True) -> Classifier:
        """Switch the mode; with ``freeze_bn`` batch norms go on using their running statistics."""
        super().train(mode)
        if self.freeze_bn:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def trunk_parameters(self) -> list[nn.Parameter]:
        """Return the trunk's trainable parameters."""
        head = set(map(id, self.classifier.parameters()))
        return [p for p in self.parameters() if p.requires_grad and id(p) not in head]

    def freeze_stem(self) -> None:
        """Stop training the first convolution and the norm behind it (IRN: conv1 and the affine part of bn1)."""
        for step in self.steps[: self._stem_length()]:
            self.get_submodule(step).requires_grad_(False)

    def _stem_length(self) -> int:
        has_conv = [any(isinstance(m, nn.Conv2d) for m in self.get_submodule(s).modules()) for s in self.steps]
        last = has_conv.index(True) + 1
        return last + isinstance(self.get_submodule(self.steps[last]), _BatchNorm)

    def detach_at_layer2(self) -> None:
        """Stop training everything up to published stride 8 (IRN detaches the features of layer2 while training).

        Freezing these parameters is the same as detaching, and keeps the gradient with respect to the image, which
        climbing methods need.
        """
        ends = [i for i, s in enumerate(self.published_strides) if s <= 8]
        last = self.steps.index(self.levels[ends[-1]]) + 1
        if last == len(self.steps):
            raise ConfigError(f"detach: layer2 leaves nothing to train in backbone '{self.spec['backbone']}'; use none")
        for step in self.steps[:last]:
            self.get_submodule(step).requires_grad_(False)


def build_classifier(
    backbone: str,
    n_classes: int,
    *,
    weights: str = "none",
    output_stride: int | None = None,
    dilate: bool = False,
    pooling: str = "gap",
    width: int = 24,
    freeze_bn: bool = False,
    freeze_stem: bool = False,
    detach: str = "none",
    seed: int = 0,
) -> Classifier:
    """Build a classifier in training mode on the CPU.

    Args:
        backbone: see ``camflow.models.backbones.build_trunk``.
        n_classes: number of foreground classes C.
        weights: initial trunk weights, see ``load_initial_weights``.
        output_stride: stride of the features; None keeps the published one.
        dilate: replace removed strides by dilation.
        pooling: ``gap`` or ``gmp``.
        width: first channels of ``tiny``.
        freeze_bn: batch norms always use their running statistics (their affine parameters still train).
        freeze_stem: the first convolution and its norm do not train.
        detach: ``layer2`` trains only what lies behind published stride 8; ``none`` trains all.
        seed: of the fresh weights; the global generator is left as it was.

    Raises:
        ConfigError: any argument the network cannot honour.
    """
    for value, options, what in ((pooling, POOLINGS, "pooling"), (detach, DETACHES, "detach")):
        if value not in options:
            raise ConfigError(f"unknown {what} '{value}'{did_you_mean(value, options)}")
    if n_classes < 1:
        raise ConfigError(f"a classifier needs at least one class, not {n_classes}")
    spec = {
        "backbone": backbone,
        "n_classes": n_classes,
        "output_stride": output_stride,
        "dilate": dilate,
        "pooling": pooling,
        "width": width,
        "freeze_bn": freeze_bn,
        "freeze_stem": freeze_stem,
        "detach": detach,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = build_trunk(backbone, output_stride=output_stride, dilate=dilate, width=width)
        model = Classifier(trunk, n_classes, pooling=pooling, freeze_bn=freeze_bn, spec=spec)
    _load_weights(model, trunk, backbone, weights)
    if freeze_stem:
        model.freeze_stem()
    if detach == "layer2":
        model.detach_at_layer2()
    return model.train()


def _load_weights(model: Classifier, trunk: Trunk, backbone: str, weights: str) -> None:
    """Fill the trunk; what was added to a torchvision network only from a file that has it."""
    if not trunk.added:
        load_initial_weights(model, backbone, weights)
        return
    shared = nn.ModuleDict({name: module for name, module in trunk.modules.items() if name not in trunk.added})
    load_initial_weights(shared, trunk.release or backbone, weights)  # also checks that a file is a state dict
    path = Path(weights).expanduser()
    if path.is_file():
        state = torch.load(path, map_location="cpu", weights_only=True)
        if any(name.split(".")[0] in trunk.added for name in state.get("state_dict", state)):
            load_initial_weights(model, backbone, weights)


# --- files -----------------------------------------------------------------------------------------------------------


def save_classifier(
    path: str | Path, model: Classifier, *, class_names: Sequence[str], meta: dict[str, Any] | None = None
) -> None:
    """Write a classifier atomically; equal weights and facts give equal bytes.

    Args:
        path: the target, by convention ``classifier.pt``.
        model: any device, any memory format.
        class_names: foreground classes in the order of the head's rows.
        meta: JSON-able facts (parameters, metrics).
    """
    save_network(path, model, kind=KIND, class_names=class_names, meta=meta)


def load_classifier(path: str | Path, device: str | torch.device = "cpu") -> Classifier:
    """Read a classifier in eval mode, with its ``class_names`` and ``meta``; or another host with its interface.

    Raises:
        StoreError: the file is missing, torn, altered or no classifier.
    """
    content = read_content(path, "classifier")
    if content.format == FORMAT:
        return content.rebuild(build_classifier, device)
    if content.format in HOSTS:
        module, function = HOSTS[content.format]
        return content.rebuild(getattr(importlib.import_module(module), function), device)
    raise StoreError(content.path, f"is no classifier of format {' or '.join([FORMAT, *HOSTS])}")
