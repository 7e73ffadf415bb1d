"""Networks of timm (https://github.com/huggingface/pytorch-image-models) by name, an optional extra of this project.

A backbone ``timm:NAME`` is any network of timm whose features come out of a sequence of steps: convolutional ones serve
every classifier with a convolutional trunk, plain vision transformers serve MCTformer. Whether a network is such a
sequence is not looked up in a list but tried: its children are run one after the other and must give what the network
itself calls its features, on photos of several shapes.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import nn

from camflow.errors import ConfigError, did_you_mean

PREFIX = "timm:"
PRETRAINED = "pretrained"  # the value of ``weights`` that means timm's own release
PROBES = ((64, 64), (96, 72))  # pixels
_PLAIN_TRANSFORMER = re.compile(
    r"cls_token|pos_embed|patch_embed\.proj\.(weight|bias)|norm\.(weight|bias)|head\.(weight|bias)"
    r"|blocks\.\d+\.(norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.(weight|bias)"
)
_NEEDED = ("cls_token", "pos_embed", "patch_embed.proj.bias", "norm.bias", "blocks.0.attn.qkv.bias")


def is_timm(backbone: str) -> bool:
    """Whether a backbone is one of timm."""
    return backbone.startswith(PREFIX)


def create(backbone: str, *, pretrained: bool = False) -> nn.Module:
    """Create a network of timm with weights drawn from torch's global generator, or with its released ones.

    Raises:
        ConfigError: timm is not installed, does not know the name, or cannot fetch the weights.
    """
    timm, name = _timm(backbone), backbone.removeprefix(PREFIX)
    if not timm.is_model(name):
        hint = did_you_mean(name.split(".")[0], timm.list_models())
        raise ConfigError(f"backbone '{backbone}': timm {timm.__version__} has no network of this name{hint}")
    try:
        return timm.create_model(name, pretrained=pretrained).eval()
    except Exception as error:  # of the network, the hub, or a release that does not exist
        if not pretrained:
            raise ConfigError(f"backbone '{backbone}': timm cannot make it ({error})") from error
        raise ConfigError(
            f"could not fetch the weights of '{backbone}' ({error}); download them and give the file's path as weights, "
            "or weights: none"
        ) from error


def timm_weights(backbone: str, weights: str) -> Mapping[str, torch.Tensor]:
    """The state dict of timm's release. Raises ``ConfigError`` for another word than ``pretrained``, and as ``create``."""
    if weights != PRETRAINED:
        raise ConfigError(
            f"unknown weights '{weights}' for backbone '{backbone}' (nor is there such a file); use {PRETRAINED} (timm's "
            "release; others by the name, as in timm:resnet50.a1_in1k), none, or the path of a state dict"
        )
    return create(backbone, pretrained=True).state_dict()


def input_statistics(net: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the input that a network's released weights expect, RGB/255."""
    given = net.pretrained_cfg
    return tuple(given["mean"]), tuple(given["std"])


# --- convolutional networks ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Steps:
    """A network taken apart.

    Attributes:
        modules: the root children by name.
        names: dotted names of the steps, in order.
        whole_cells: rows and columns that do not fill a cell are lost, as in ConvNeXt, whose kernels do not overlap.
        mean, std: of the input that the released weights expect, RGB/255.
    """

    modules: dict[str, nn.Module]
    names: list[str]
    whole_cells: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]


def timm_steps(backbone: str) -> Steps:
    """Take a network apart into steps.

    Raises:
        ConfigError: its features are not (B, D, h, w), or not what its children give one after the other.
    """
    net = create(backbone)
    found = {_sequence(net, size) for size in PROBES}
    if None in found or len({names for names, _ in found}) > 1:
        raise ConfigError(_no_steps(backbone, net))
    ((names, _), *_), children = found, dict(net.named_children())
    steps = [step for name in names for step in _members(children[name], name)]
    if isinstance(net.get_submodule(steps[-1]), nn.MaxPool2d):
        steps.pop()  # CAM reads the last convolution, as of torchvision's VGG
    whole = any(loses for _, loses in found)
    return Steps({name: children[name] for name in names}, steps, whole, *input_statistics(net))


def _sequence(net: nn.Module, size: tuple[int, int]) -> tuple[tuple[str, ...], bool] | None:
    """Names of the first children that, one after the other, give the network's features of a photo of a size, and
    whether the cells leave some of it out; None if no children do, or the cells are not of 2^k pixels."""
    probe = torch.linspace(-2, 2, 3 * size[0] * size[1]).reshape(1, 3, *size).sin()
    try:
        with torch.no_grad():
            features = net.forward_features(probe)
            names = _prefix(net, probe, features)
    except Exception:  # networks of one input size raise all kinds of errors for another
        return None
    if names is None:
        return None
    grid = tuple(features.shape[2:])
    stride = 2 ** round(math.log2(size[0] / grid[0]))
    if grid == tuple(-(-n // stride) for n in size):
        return tuple(names), False
    return (tuple(names), True) if grid == tuple(n // stride for n in size) else None


def _prefix(net: nn.Module, x: torch.Tensor, wanted: Any) -> list[str] | None:
    if not isinstance(wanted, torch.Tensor) or wanted.ndim != 4:
        return None
    names = []
    for name, child in net.named_children():
        try:
            x = child(x)
        except Exception:  # a child that takes something else is no step
            return None
        names.append(name)
        if not isinstance(x, torch.Tensor):
            return None
        if x.shape == wanted.shape and torch.equal(x, wanted):
            return names
    return None


def _members(module: nn.Module, name: str) -> Iterator[str]:
    """A module as steps: a plain sequence as those of its members."""
    if type(module).forward is nn.Sequential.forward and len(module):
        for child, member in module.named_children():
            yield from _members(member, f"{name}.{child}")
    else:
        yield name


def _no_steps(backbone: str, net: nn.Module) -> str:
    if hasattr(net, "cls_token") or type(net).__name__ == "VisionTransformer":
        return (
            f"backbone '{backbone}' is a vision transformer, which has no convolutional trunk; "
            "train it with method mctformer"
        )
    return (
        f"backbone '{backbone}' has no plain convolutional trunk: its features are not a grid of cells that its layers "
        "give one after the other for photos of any size. Take a ResNet, RegNet, EfficientNet, MobileNet, DenseNet, VGG, "
        "DarkNet or ConvNeXt of timm"
    )


# --- vision transformers ---------------------------------------------------------------------------------------------


def timm_transformer(backbone: str) -> dict[str, Any]:
    """The values of ``camflow.models.vit.Architecture`` of a plain vision transformer.

    Raises:
        ConfigError: the network is something else, or has parts that MCTformer does not know.
    """
    net = create(backbone)
    if type(net).__name__ != "VisionTransformer" or not hasattr(net, "blocks"):
        raise ConfigError(
            f"backbone '{backbone}' is a {type(net).__name__}; MCTformer needs a plain vision transformer, such as "
            "timm:deit_small_patch16_224. Convolutional networks go with the other classifiers"
        )
    state, block = net.state_dict(), net.blocks[0]
    odd = [name for name in state if not _PLAIN_TRANSFORMER.fullmatch(name)]
    missing = [name for name in _NEEDED if name not in state]
    if odd or missing or type(block.mlp.act) is not nn.GELU or block.mlp.act.approximate != "none":
        what = f"has {odd[0]}" if odd else f"lacks {missing[0]}" if missing else f"uses {block.mlp.act} in its blocks"
        raise ConfigError(
            f"backbone '{backbone}' {what}, which MCTformer does not know; take a plain vision transformer with one class "
            "token, such as timm:deit_small_patch16_224"
        )
    patch, size = net.patch_embed.patch_size, net.patch_embed.img_size
    positions = (size[0] // patch[0]) * (size[1] // patch[1])
    if patch[0] != patch[1] or size[0] != size[1] or state["pos_embed"].shape[1] != 1 + positions:
        raise ConfigError(f"backbone '{backbone}' has no square grid of square patches behind one class position")
    mean, std = input_statistics(net)
    return {
        "patch": patch[0],
        "width": net.embed_dim,
        "depth": len(net.blocks),
        "heads": block.attn.num_heads,
        "size": size[0],
        "mlp_ratio": block.mlp.fc1.out_features / net.embed_dim,
        "eps": block.norm1.eps,
        "mean": mean,
        "std": std,
    }


def _timm(backbone: str) -> ModuleType:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ConfigError(
            f"backbone '{backbone}' needs timm, which is not installed; install it into this environment: "
            "pip install timm (or, from a checkout of camflow, pip install -e '.[timm]')"
        ) from error
