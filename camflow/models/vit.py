"""A vision transformer whose attention can be read: Dosovitskiy et al., ICLR 2021, in the variants of DeiT (Touvron et
al., ICML 2021), with any number of class tokens.

    tokens    [class tokens, patch tokens] + position embedding
    block     x + attention(norm1(x)), then x + mlp(norm2(x))        pre-norm

Names of parameters are those of the public DeiT checkpoints. The position embedding belongs to a square grid; for
another one its patch part is resized (bicubic), the class part stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from torchvision.ops import StochasticDepth

from camflow.errors import ConfigError
from camflow.models.backbones import IMAGENET_MEAN, IMAGENET_STD

Observer = Callable[[int, torch.Tensor], None]


@dataclass(frozen=True)
class Architecture:
    """The shape of a network.

    Attributes:
        patch: pixels per cell.
        width: channels D of a token.
        depth: number of blocks.
        heads: of the attention; divides the width.
        size: side of the square image that the position embedding belongs to, a multiple of the patch.
        stem: ``patch`` is one convolution, with kernel and stride of the patch; rows and columns that do not fill a
            patch are lost. ``conv`` is several of stride 2 (Xiao et al., NeurIPS 2021), easier to train on few images;
            the last cells may hang over the border.
        mlp_ratio: hidden channels of the MLP by width.
        eps: of the layer norms.
        mean, std: of the input.
    """

    patch: int
    width: int
    depth: int
    heads: int
    size: int = 224
    stem: str = "patch"
    mlp_ratio: float = 4.0
    eps: float = 1e-6
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD

    def __post_init__(self):
        if min(self.patch, self.width, self.depth, self.heads, self.size) < 1:
            raise ConfigError(f"a transformer needs patch, width, depth, heads and size of at least 1, not {self}")
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} cannot be shared by {self.heads} heads; give a multiple of them")
        if self.size % self.patch:
            raise ConfigError(f"image size {self.size} is no multiple of the patch of {self.patch} pixels")
        if self.stem == "conv" and self.patch & (self.patch - 1):
            raise ConfigError(f"stem conv halves the image, so the patch is a power of two, not {self.patch}")

    @property
    def cells(self) -> int:
        """Cells of the position embedding along each side."""
        return self.size // self.patch


class Attention(nn.Module):
    """Multi-head self-attention (B, T, D) -> (B, T, D)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, observe: Callable[[torch.Tensor], None] | None = None) -> torch.Tensor:
        """Attend; ``observe`` is shown the attention (B, heads, T, T), rows are queries.

        Where nobody looks and no gradient is wanted the attention is never stored, which is faster. (The gradients of
        that fused kernel are not reproducible on a GPU.)
        """
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if observe is None and not torch.is_grad_enabled():
            out = functional.scaled_dot_product_attention(query, key, value)
        else:
            weights = (query @ key.transpose(2, 3) / math.sqrt(query.shape[3])).softmax(dim=3)
            if observe is not None:
                observe(weights)
            out = weights @ value
        return self.proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """Attention and MLP, each left out of a sample with probability ``drop`` while training."""

    def __init__(self, shape: Architecture, drop: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.width, eps=shape.eps)
        self.attn = Attention(shape.width, shape.heads)
        self.norm2 = nn.LayerNorm(shape.width, eps=shape.eps)
        self.mlp = Mlp(shape.width, round(shape.width * shape.mlp_ratio))
        self.drop = StochasticDepth(drop, mode="row")

    def forward(self, x: torch.Tensor, observe: Callable[[torch.Tensor], None] | None = None) -> torch.Tensor:
        x = x + self.drop(self.attn(self.norm1(x), observe))
        return x + self.drop(self.mlp(self.norm2(x)))


class PatchEmbedding(nn.Module):
    """Photo (B, 3, H, W) -> (B, D, h, w)."""

    def __init__(self, shape: Architecture):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        if shape.stem == "conv":
            halvings = int(math.log2(shape.patch))
            for k in range(halvings):
                out = max(1, shape.width // 2 ** (halvings - 1 - k))
                layers += [nn.Conv2d(channels, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
                channels = out
            self.proj: nn.Module = nn.Sequential(*layers, nn.Conv2d(channels, shape.width, 1))
        elif shape.stem == "patch":
            self.proj = nn.Conv2d(3, shape.width, shape.patch, shape.patch)
        else:
            raise ConfigError(f"unknown stem '{shape.stem}'; the options are patch and conv")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x)


class VisionTransformer(nn.Module):
    """Trunk of class tokens and patch tokens.

    Args:
        shape: of the network.
        n_tokens: number of class tokens C.
        drop_path: probability with which the last block leaves out a branch; it grows linearly from 0 at the first.
    """

    def __init__(self, shape: Architecture, n_tokens: int, drop_path: float = 0.0):
        super().__init__()
        self.shape, self.n_tokens = shape, n_tokens
        self.cls_token = nn.Parameter(torch.zeros(1, n_tokens, shape.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, n_tokens + shape.cells**2, shape.width))
        self.patch_embed = PatchEmbedding(shape)
        rates = [drop_path * n / max(1, shape.depth - 1) for n in range(shape.depth)]
        self.blocks = nn.ModuleList(Block(shape, rate) for rate in rates)
        # The public checkpoints have it, and MCTformer-V2 never applies it.
        self.norm = nn.LayerNorm(shape.width, eps=shape.eps).requires_grad_(False)
        for token in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def tokens(self, x: torch.Tensor, observe: Observer | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the trunk.

        Args:
            x: normalised photos (B, 3, H, W), each side at least one patch.
            observe: called after every block's attention with the block's number and the attention (B, heads, T, T);
                class tokens come first.

        Returns:
            Class tokens (B, C, D) and patch tokens (B, D, h, w) behind the last block.
        """
        if min(x.shape[2:]) < self.shape.patch:
            raise ConfigError(f"photos of {tuple(x.shape[2:])} pixels are smaller than a patch of {self.shape.patch}")
        cells = self.patch_embed(x)
        grid = cells.shape[2:]
        both = torch.cat([self.cls_token.expand(len(x), -1, -1), cells.flatten(2).transpose(1, 2)], dim=1)
        both = both + self.positions(grid, x.shape[2] == x.shape[3])
        for number, block in enumerate(self.blocks):
            both = block(both, None if observe is None else lambda weights, n=number: observe(n, weights))
        own, patches = both[:, : self.n_tokens], both[:, self.n_tokens :]
        return own, patches.transpose(1, 2).unflatten(2, grid)

    def positions(self, grid: Sequence[int], square: bool = True) -> torch.Tensor:
        """The position embedding (1, C + h*w, D) of a grid (h, w), of a photo that is square or not."""
        own, patches = self.pos_embed[:, : self.n_tokens], self.pos_embed[:, self.n_tokens :]
        return torch.cat([own, resize_positions(patches, grid, square)], dim=1)


def resize_positions(patches: torch.Tensor, grid: Sequence[int], square: bool = True) -> torch.Tensor:
    """Resize the patch part (1, n*n, D) of a position embedding to a grid (h, w): (1, h*w, D).

    Bicubic, with the scale (h + .1)/n of the published code, whose tenth keeps the rounded size from falling short;
    the samples lie where that scale puts them. The embedding's own grid comes back as it is, but for a photo that is not
    ``square`` and has it after its last cells were cut off: the published code resizes that one too.
    """
    side = math.isqrt(patches.shape[1])
    if square and (side, side) == tuple(grid):
        return patches
    scale = tuple((n + 0.1) / side for n in grid)
    table = patches.transpose(1, 2).unflatten(2, (side, side))
    resized = functional.interpolate(table, scale_factor=scale, mode="bicubic", align_corners=False)
    return resized.flatten(2).transpose(1, 2)
