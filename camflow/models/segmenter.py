"""Segmentation networks: a trunk and a head that scores background and classes on a coarse grid.

Architectures, each with its published trunk or with any of ``camflow.models.backbones``:

``deeplab_v2``  ASPP (``camflow.models.deeplab``), published on ``resnet101_caffe``.
``large_fov``   DeepLab-LargeFOV (``camflow.models.large_fov``), published on ``vgg16_large_fov``.

Test and training with several scales ("MSC") are the functions ``scale_logits`` and ``fuse_max``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from camflow.errors import ConfigError, did_you_mean
from camflow.models.backbones import IMAGENET_MEAN, IMAGENET_STD, Trunk, build_trunk
from camflow.models.classifier import load_classifier
from camflow.models.deeplab import CAFFE_MEAN, CAFFE_RESNETS, CAFFE_STD, RATES, Aspp, caffe_resnet
from camflow.models.files import load_network, save_network
from camflow.models.large_fov import RATE, VGG16_LARGE_FOV, WIDTH, LargeFovHead, take_vgg16, vgg16_large_fov
from camflow.models.weights import load_initial_weights

KIND = "segmenter"
ARCHITECTURES = ("deeplab_v2", "large_fov")
PUBLISHED_TRUNKS = (*CAFFE_RESNETS, VGG16_LARGE_FOV)
PUBLISHED_RATES = {"deeplab_v2": RATES, "large_fov": (RATE,)}


# --- scales ----------------------------------------------------------------------------------------------------------


def scale_logits(model: nn.Module, x: torch.Tensor, scales: Sequence[float] = (1.0, 0.75, 0.5)) -> list[torch.Tensor]:
    """Logits of an input at several scales, each (B, n_labels, h_s, w_s) on its own grid, in the order of ``scales``.

    The input (B, 3, H, W) is resized to floor(H s) x floor(W s), bilinear without aligned corners, at sampling steps
    of exactly 1/s.
    """
    return [model(x if scale == 1 else _rescale(x, scale)) for scale in scales]


def _rescale(x: torch.Tensor, scale: float) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)


def resize_logits(logits: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Bring (B, K, h, w) to ``size`` (height, width), bilinear without aligned corners."""
    if logits.shape[2:] == tuple(size):
        return logits
    return functional.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def fuse_max(logits: Sequence[torch.Tensor], size: Sequence[int] | None = None) -> torch.Tensor:
    """Element-wise maximum of logits (B, K, h_s, w_s) on one grid.

    Args:
        logits: at any scales.
        size: of the grid; None: that of the first, which is scale 1 as published.
    """
    size = logits[0].shape[2:] if size is None else size
    return torch.stack([resize_logits(one, size) for one in logits]).amax(dim=0)


# --- the network -----------------------------------------------------------------------------------------------------


class _TrunkNet(nn.Module):
    """A trunk as a module; parameter names are the trunk's."""

    def __init__(self, trunk: Trunk):
        super().__init__()
        for name, module in trunk.modules.items():
            self.add_module(name, module)
        self.steps = trunk.steps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for step in self.steps:
            x = self.get_submodule(step)(x)
        return x


class Segmenter(nn.Module):
    """Trunk -> head; see ``build_segmenter`` for the arguments' meaning.

    Input is float ``(B, 3, H, W)``, RGB/255 normalised by ``mean`` and ``std``. Trunks after Caffe see BGR grey levels
    less their mean: their ``std`` is 1/255 and they change the order of the channels themselves.

    Attributes:
        stride: nominal stride of the network's grid.
        n_labels: background and classes; label 0 is the background.
        mean, std: normalisation of the input, per channel.
        trunk, head: the two parts.
        class_names, meta: facts carried by saved files; empty until set.
        spec: the arguments that rebuild this network.
    """

    def __init__(self, trunk: Trunk, head: nn.Module, spec: dict[str, Any]):
        super().__init__()
        self.trunk = _TrunkNet(trunk)
        self.head = head
        self.stride = trunk.strides[-1]
        self.n_labels = spec["n_classes"] + 1
        caffe = spec["backbone"] in PUBLISHED_TRUNKS
        self.mean, self.std = (CAFFE_MEAN, CAFFE_STD) if caffe else (IMAGENET_MEAN, IMAGENET_STD)
        self.freeze_bn = spec["freeze_bn"]
        self.spec = spec
        self.class_names: list[str] = []
        self.meta: dict[str, Any] = {}
        if self.freeze_bn:
            for norm in self._norms():
                norm.requires_grad_(False)

    @property
    def n_classes(self) -> int:
        return self.n_labels - 1

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the trunk's features ``(B, D, h, w)``."""
        return self.trunk(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits ``(B, n_labels, h, w)`` on the network's grid."""
        return self.head(self.features(x))

    def trunk_parameters(self) -> list[nn.Parameter]:
        """Return the trunk's trainable parameters."""
        return [p for p in self.trunk.parameters() if p.requires_grad]

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the head's trainable parameters."""
        return [p for p in self.head.parameters() if p.requires_grad]

    def new_layers(self) -> list[nn.Module]:
        """Return the layers that learn ten times as fast: the whole ASPP, fc8 of LargeFOV."""
        return self.head.new_layers()

    def train(self, mode: bool = True) -> Segmenter:
        """Switch the mode; with ``freeze_bn`` batch norms go on using their running statistics."""
        super().train(mode)
        if self.freeze_bn:
            for norm in self._norms():
                norm.eval()
        return self

    def _norms(self) -> list[nn.Module]:
        return [module for module in self.modules() if isinstance(module, _BatchNorm)]


def build_segmenter(
    architecture: str,
    backbone: str,
    n_classes: int,
    *,
    weights: str = "none",
    output_stride: int | None = 8,
    dilate: bool = True,
    width: int = 24,
    rates: Sequence[int] | None = None,
    head_width: int = WIDTH,
    freeze_bn: bool = True,
    seed: int = 0,
) -> Segmenter:
    """Build a segmentation network in training mode on the CPU.

    Args:
        architecture: ``deeplab_v2`` or ``large_fov``.
        backbone: ``resnet101_caffe``, ``resnet50_caffe``, ``vgg16_large_fov``, or a name of
            ``camflow.models.backbones.build_trunk``.
        n_classes: number of foreground classes C; the network has C + 1 labels.
        weights: initial weights of the trunk: ``none``, a torchvision release, the path of a state dict (see
            ``load_initial_weights``), or the path of a trained classifier of the same backbone. For ``vgg16_large_fov``
            a file may have ``fc6`` and ``fc7``, which the head then takes; a release is one of torchvision's ``vgg16``,
            and a classifier one of ``vgg16`` or ``vgg16_psa``.
        output_stride: stride of the grid; None keeps the published one. The three trunks named first have 8.
        dilate: replace removed strides by dilation.
        width: first channels of ``tiny``.
        rates: dilations of the head's 3x3 convolutions, any number for ``deeplab_v2``, one for ``large_fov``; None:
            the published 6, 12, 18, 24 and 12. Small inputs need smaller ones.
        head_width: channels of fc6 and fc7 of ``large_fov``.
        freeze_bn: batch norms use their running statistics and do not train, as published. Set false to train from
            scratch.
        seed: of the fresh weights; the global generator is left as it was.

    Raises:
        ConfigError: any argument the network cannot honour.
    """
    if architecture not in ARCHITECTURES:
        raise ConfigError(f"unknown architecture '{architecture}'{did_you_mean(architecture, ARCHITECTURES)}")
    if not 1 <= n_classes <= 254:
        raise ConfigError(f"a segmentation network has 1 to 254 classes (255 is no label), not {n_classes}")
    rates = PUBLISHED_RATES[architecture] if rates is None else tuple(int(rate) for rate in rates)
    if not rates or min(rates) < 1 or (architecture == "large_fov" and len(rates) > 1):
        count = "one whole number" if architecture == "large_fov" else "whole numbers"
        raise ConfigError(f"{architecture}: rates needs {count} from 1, not {list(rates)}")
    if head_width < 1:
        raise ConfigError(f"{architecture}: head_width must be positive, not {head_width}")
    spec = {
        "architecture": architecture,
        "backbone": backbone,
        "n_classes": n_classes,
        "output_stride": output_stride,
        "dilate": dilate,
        "width": width,
        "rates": list(rates),
        "head_width": head_width,
        "freeze_bn": freeze_bn,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = _trunk(backbone, output_stride, dilate, width)
        if architecture == "deeplab_v2":
            head: nn.Module = Aspp(trunk.channels[-1], n_classes + 1, rates)
        else:
            head = LargeFovHead(trunk.channels[-1], n_classes + 1, rates[0], head_width)
        model = Segmenter(trunk, head, spec)
    load_weights(model, weights)
    return model.train()


def _trunk(backbone: str, output_stride: int | None, dilate: bool, width: int) -> Trunk:
    if backbone not in PUBLISHED_TRUNKS:
        return build_trunk(backbone, output_stride=output_stride, dilate=dilate, width=width)
    if output_stride not in (None, 8) or not dilate:
        raise ConfigError(f"backbone '{backbone}' has output_stride 8 and dilate: true, as published, and nothing else")
    return vgg16_large_fov() if backbone == VGG16_LARGE_FOV else caffe_resnet(backbone)


# --- initial weights -------------------------------------------------------------------------------------------------


def load_weights(model: Segmenter, weights: str) -> None:
    """Fill the trunk of a network in place; ``weights`` as of ``build_segmenter``, with its errors."""
    if weights == "none":
        return
    backbone, path = model.spec["backbone"], Path(weights).expanduser()
    content = _peek(path)
    if str(content.get("format", "")).startswith("camflow-"):
        _take_classifier(model, path)
        return
    state = content.get("state_dict", content)
    if backbone == VGG16_LARGE_FOV and (not path.is_file() or "features.0.weight" in state):
        donor = _TrunkNet(build_trunk("vgg16"))
        load_initial_weights(donor, "vgg16", weights)
        take_vgg16(model.trunk, donor, *_normalisation(weights))
        return
    target: nn.Module = model.trunk
    if backbone == VGG16_LARGE_FOV and isinstance(model.head, LargeFovHead) and "fc6.weight" in state:
        target = _joined(model.trunk, model.head)
    load_initial_weights(target, backbone, weights)


def _peek(path: Path) -> Mapping[str, Any]:
    """The content of a file of weights; empty when there is none that can be read, which others report."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many types for a bad file
        return {}
    return content if isinstance(content, Mapping) else {}


def _joined(trunk: nn.Module, head: LargeFovHead) -> nn.Module:
    """A module with the trunk's children and fc6 and fc7 of the head, under the names of converted weights."""
    both = nn.Module()
    for name, child in (*trunk.named_children(), ("fc6", head.fc6), ("fc7", head.fc7)):
        both.add_module(name, child)
    return both


def _normalisation(weights: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and std of the input of torchvision's VGG-16 with these weights; those of ImageNet for a file."""
    releases = torchvision.models.VGG16_Weights.__members__
    if weights not in releases:
        return IMAGENET_MEAN, IMAGENET_STD
    transforms = releases[weights].transforms()
    return transforms.mean, transforms.std


def _take_classifier(model: Segmenter, path: Path) -> None:
    """Copy the trunk of a trained classifier, or of the one within another host, in place."""
    host = load_classifier(path)
    host = getattr(host, "net", host)
    backbone, theirs = model.spec["backbone"], host.spec["backbone"]
    if (backbone, theirs) == (VGG16_LARGE_FOV, "vgg16"):
        take_vgg16(model.trunk, host, host.mean, host.std)
        return
    own, given = model.trunk.state_dict(), host.state_dict()
    same = theirs == backbone or (backbone, theirs) == (VGG16_LARGE_FOV, "vgg16_psa")
    if not same or any(name not in given or given[name].shape != value.shape for name, value in own.items()):
        raise ConfigError(
            f"{path}: a classifier with backbone '{theirs}' and width {host.spec.get('width')} does not fit "
            f"'{backbone}' of width {model.spec['width']}; give both the same, or other weights"
        )
    model.trunk.load_state_dict({name: given[name] for name in own})


# --- files -----------------------------------------------------------------------------------------------------------


def save_segmenter(
    path: str | Path, model: Segmenter, *, class_names: Sequence[str], meta: dict[str, Any] | None = None
) -> None:
    """Write a segmentation network atomically; arguments as of ``save_classifier``."""
    save_network(path, model, kind=KIND, class_names=class_names, meta=meta)


def load_segmenter(path: str | Path, device: str | torch.device = "cpu") -> Segmenter:
    """Read a segmentation network in eval mode, with its ``class_names`` and ``meta``.

    Raises:
        StoreError: the file is missing, torn, altered or another's.
    """
    return load_network(path, build_segmenter, kind=KIND, device=device)
