"""MCTformer-V2: Xu, Ouyang, Bennamoun, Boussaid and Xu, "Multi-class Token Transformer for Weakly Supervised Semantic
Segmentation", CVPR 2022. A vision transformer with one class token per class, and a 3x3 convolution on its patch tokens.

    class logit c    mean over the channels of class token c
    patch logit c    mean over the cells of the convolution's map c
    A_c              attention from class token c to the patches: mean over heads, sum over the last blocks (3)
    P                attention from patch to patch: mean over heads, sum over all blocks
    fused            A_c * relu(map c)                          PatchCAM, weighed by the attention
    refined          P fused                                    row p of P holds what patch p attends to

As a host for localizers the patch tokens are the features and the convolution is the head; the score of an image is the
class logit. Every published number comes from a DeiT-S (patch 16, width 384, 12 blocks, 6 heads); ``small`` is a
network for images of about 100 px that learns on a CPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from camflow.errors import ConfigError, did_you_mean
from camflow.models.files import load_network, save_network
from camflow.models.timm_backbones import is_timm, timm_transformer
from camflow.models.vit import Architecture, VisionTransformer
from camflow.models.vit_weights import load_transformer_weights

KIND = "mctformer"
LAST_BLOCKS = 3  # whose attention from class to patch is summed
MAPS = ("refined", "fused", "attention")
ARCHITECTURES = {
    "deit_tiny": Architecture(patch=16, width=192, depth=12, heads=3),
    "deit_small": Architecture(patch=16, width=384, depth=12, heads=6),
    "deit_base": Architecture(patch=16, width=768, depth=12, heads=12),
    "small": Architecture(patch=8, width=64, depth=3, heads=2, size=96, stem="conv", mlp_ratio=2.0),
}


@dataclass(frozen=True)
class AttentionMaps:
    """What the maps of a photo read of the attention.

    Attributes:
        class_to_patch: (B, C, h, w), A.
        affinity: (B, h*w, h*w), P; rows are the patches that attend.
    """

    class_to_patch: torch.Tensor
    affinity: torch.Tensor

    def apply(self, maps: torch.Tensor, kind: str = "refined") -> torch.Tensor:
        """Weigh maps (B, C, h, w), >= 0, by the attention (``fused``) and average them by the affinity (``refined``);
        ``attention`` is the averaged attention alone, MCTformer-V1's map."""
        if kind not in MAPS:
            raise ConfigError(f"maps: unknown '{kind}'{did_you_mean(kind, MAPS)}")
        fused = self.class_to_patch if kind == "attention" else self.class_to_patch * maps
        if kind == "fused":
            return fused
        return (fused.flatten(2) @ self.affinity.transpose(1, 2)).unflatten(2, maps.shape[2:])


class MctFormer(VisionTransformer):
    """A host for localizers, see ``camflow.models.classifier``; C classes, D channels.

    Input is float ``(B, 3, H, W)``, RGB/255 normalised by ``mean`` and ``std``, of any size from one patch on.

    Attributes:
        head: the 3x3 convolution ``(C, D, 3, 3)``, with bias.
        stride: pixels per cell.
        map_stride: what readers of its maps round the photo up to, see ``camflow.localize.maps``. 1 where the patches
            cut off what does not fill one: such maps are stretched over the photo, as published.
        mean, std, class_names, meta, spec: as of ``Classifier``.
    """

    def __init__(self, shape: Architecture, n_classes: int, *, drop_path: float, spec: dict[str, Any]):
        super().__init__(shape, n_classes, drop_path)
        self.head = nn.Conv2d(shape.width, n_classes, 3, padding=1)
        self.stride = shape.patch
        self.map_stride = 1 if shape.stem == "patch" else shape.patch
        self.mean, self.std = tuple(shape.mean), tuple(shape.std)
        self.spec = spec
        self.class_names: list[str] = []
        self.meta: dict[str, Any] = {}

    @property
    def n_classes(self) -> int:
        return self.n_tokens

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the patch tokens ``(B, D, h, w)``."""
        return self.tokens(x)[1]

    def score_maps(self, x: torch.Tensor) -> torch.Tensor:
        """Return the signed maps of the patch tokens ``(B, C, h, w)``."""
        return self.head(self.features(x))

    def score_maps_and_logits(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``score_maps`` and the class logits ``(B, C)`` of one pass."""
        own, patches = self.tokens(x)
        return self.head(patches), own.mean(dim=2)

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """Pool ``(B, D, h, w)`` to ``(B, D, 1, 1)``."""
        return features.mean(dim=(2, 3), keepdim=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the class logits ``(B, C)``."""
        return self.tokens(x)[0].mean(dim=2)

    def features_and_attention(self, x: torch.Tensor, last: int | None = None) -> tuple[torch.Tensor, AttentionMaps]:
        """Return the patch tokens and their attention.

        Args:
            x: photos.
            last: number of blocks, counted from the end, whose attention from class to patch is summed. None: three, as
                published, or all of a network of fewer.
        """
        last = min(LAST_BLOCKS, len(self.blocks)) if last is None else last
        if not 1 <= last <= len(self.blocks):
            raise ConfigError(f"last_blocks: the network has {len(self.blocks)} blocks, so 1 to that many, not {last}")
        first, sums = len(self.blocks) - last, [torch.zeros(()), torch.zeros(())]

        def observe(number: int, weights: torch.Tensor) -> None:
            mean = weights.to(torch.promote_types(weights.dtype, torch.float32)).mean(dim=1)[..., self.n_tokens :]
            sums[1] = sums[1].to(mean.device) + mean[:, self.n_tokens :]
            if number >= first:
                sums[0] = sums[0].to(mean.device) + mean[:, : self.n_tokens]

        patches = self.tokens(x, observe)[1]
        return patches, AttentionMaps(sums[0].unflatten(2, patches.shape[2:]), sums[1])

    def attention_maps(self, x: torch.Tensor, *, last: int | None = None, kind: str = "refined") -> torch.Tensor:
        """Return the class maps ``(B, C, h, w)`` >= 0: ``refined``, ``fused`` or of the ``attention`` alone."""
        patches, attention = self.features_and_attention(x, last)
        return attention.apply(self.head(patches).relu().to(attention.affinity.dtype), kind)

    def refined_maps(self, x: torch.Tensor) -> torch.Tensor:
        """Return the refined maps as published; what AdvCAM accumulates."""
        return self.attention_maps(x)

    def new_layers(self) -> list[nn.Module]:
        """Return the layers that start without initial weights."""
        return [self.head]


# --- building --------------------------------------------------------------------------------------------------------


def architecture_of(backbone: str, **changes: Any) -> Architecture:
    """The shape of a named network; changes that are not None replace single values.

    Args:
        backbone: one of ``ARCHITECTURES``, or ``timm:`` and the name of a plain vision transformer of timm.

    Raises:
        ConfigError: an unknown name, one that MCTformer cannot work on, or values that do not fit.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    if is_timm(backbone):
        fixed = set(given) - {"size"}
        if fixed:
            raise ConfigError(f"{', '.join(sorted(fixed))}: a transformer of timm has its own; leave it out")
        return Architecture(**{**timm_transformer(backbone), **given})
    if backbone not in ARCHITECTURES:
        raise ConfigError(
            f"mctformer: unknown backbone '{backbone}'{did_you_mean(backbone, ARCHITECTURES)}. It needs a vision "
            "transformer: one of these, or timm:NAME, e.g. timm:deit_small_patch16_224"
        )
    return dataclasses.replace(ARCHITECTURES[backbone], **given)


def build_mctformer(
    n_classes: int,
    architecture: Architecture | Mapping[str, Any],
    *,
    backbone: str = "deit_small",
    weights: str = "none",
    drop_path: float = 0.0,
    seed: int = 0,
) -> MctFormer:
    """Build a network in training mode on the CPU.

    Args:
        n_classes: number of foreground classes C.
        architecture: the shape of the network.
        backbone: its name, for messages and released weights.
        weights: initial weights, see ``camflow.models.vit_weights``.
        drop_path: see ``VisionTransformer``.
        seed: of the fresh weights; the global generator is left as it was.

    Raises:
        ConfigError: any argument the network cannot honour.
    """
    if n_classes < 1:
        raise ConfigError(f"a classifier needs at least one class, not {n_classes}")
    if not 0 <= drop_path < 1:
        raise ConfigError(f"drop_path: needs a probability from 0 to below 1, not {drop_path}")
    shape = architecture if isinstance(architecture, Architecture) else Architecture(**architecture)
    spec = {
        "n_classes": n_classes,
        "architecture": dataclasses.asdict(shape),
        "backbone": backbone,
        "drop_path": drop_path,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MctFormer(shape, n_classes, drop_path=drop_path, spec=spec)
    load_transformer_weights(model, backbone, weights)
    return model.train()


def save_mctformer(
    path: str | Path, model: MctFormer, *, class_names: Sequence[str], meta: dict[str, Any] | None = None
) -> None:
    """Write a network atomically; arguments as of ``save_classifier``."""
    save_network(path, model, kind=KIND, class_names=class_names, meta=meta)


def load_mctformer(path: str | Path, device: str | torch.device = "cpu") -> MctFormer:
    """Read a network in eval mode. Raises ``StoreError`` for a file that is missing, torn, altered or another's."""
    return load_network(path, build_mctformer, kind=KIND, device=device)
