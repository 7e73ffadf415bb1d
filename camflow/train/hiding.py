"""Hide-and-Seek: Singh and Lee, "Hide-and-Seek: Forcing a Network to be Meticulous for Weakly-supervised Object and
Action Localization", ICCV 2017 (arXiv 1704.04232), and the extended version with Yu, Sarmasi, Pradeep and Lee, 2018
(arXiv 1811.02545).

Random cells of a grid are hidden in every training input, anew each time, so that a classifier cannot live on the most
telling part alone; test inputs are whole. Cells tile from the top left, the last row and column are cut by the border,
and all channels of a cell go together.

What a hidden pixel becomes. With weights w, inputs of mean mu and hidden pixels v, a window of the first layer has
the expectation sum w mu wherever nothing is hidden, and sum w v where everything is. With v = mu they agree, and so do
the statistics in training and testing. After normalisation mu is 0.

The WSOL benchmark (Choe et al. 2020) has the same under other names: its ``grid_size`` is the side of a cell in pixels,
hence one entry of ``sizes`` without 0 (4 by default), and its ``drop_rate`` is ``p``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from camflow.errors import ConfigError, did_you_mean

MIXED = (0, 16, 32, 44, 56)  # pixels; "HaS-Mixed" draws one of these per image
LAYER = "layer_hiding"  # name of the module that a network gets while it trains


# --- cells -----------------------------------------------------------------------------------------------------------


def grid_shape(shape: Sequence[int], size: int) -> tuple[int, int]:
    """Rows and columns of cells of side ``size`` that cover (H, W), the cut ones included."""
    height, width = shape
    return -(-height // size), -(-width // size)


def hidden_cells(draws: np.ndarray, size: int, p: float, shape: Sequence[int]) -> np.ndarray:
    """Which pixels of one image are hidden, bool (H, W).

    Args:
        draws: uniform numbers in [0, 1), one per cell, at least ``grid_shape(shape, size)``. A cell is hidden when its
            number is below ``p``, so ``p`` 0 hides nothing and 1 everything.
        size: side of a cell in pixels; 0 hides nothing.
        p: probability with which a cell is hidden.
        shape: (H, W).
    """
    if size == 0:
        return np.zeros(tuple(shape), bool)
    rows, columns = grid_shape(shape, size)
    hidden = draws[:rows, :columns] < p
    return hidden.repeat(size, axis=0).repeat(size, axis=1)[: shape[0], : shape[1]]


def hidden_cells_batch(draws: torch.Tensor, sizes: torch.Tensor, p: float, shape: Sequence[int]) -> torch.Tensor:
    """``hidden_cells`` of B images at once, each with its own size: bool (B, H, W) on the device of ``draws``.

    Args:
        draws: uniform numbers in [0, 1), (B, R, C); R and C suffice for the smallest size above 0.
        sizes: integers (B,) on the same device, sides of the cells; 0 hides nothing in that image.
        p: probability with which a cell is hidden.
        shape: (H, W).
    """
    height, width = shape
    # An image without cells looks up one cell that covers it, which the last line discards.
    side = torch.where(sizes > 0, sizes, max(height, width))[:, None]
    rows = torch.arange(height, device=draws.device) // side
    columns = torch.arange(width, device=draws.device) // side
    image = torch.arange(len(draws), device=draws.device)[:, None, None]
    return (draws < p)[image, rows[:, :, None], columns[:, None, :]] & (sizes > 0)[:, None, None]


@dataclasses.dataclass(frozen=True)
class HidingFacts:
    """Statistics of hiding.

    Attributes:
        cells: how many, the cut ones included.
        mean: expected share of the pixels that is hidden.
        std: standard deviation of that share.
        nothing: probability that no cell is hidden.
    """

    cells: int
    mean: float
    std: float
    nothing: float


def hiding_facts(shape: Sequence[int], size: int, p: float) -> HidingFacts:
    """Statistics of ``hidden_cells`` over its draws, in closed form; a share of cells of area a_i of A pixels.

    mean p, variance p (1 - p) sum a_i^2 / A^2, nothing (1 - p)^cells.
    """
    if size == 0:
        return HidingFacts(0, 0.0, 0.0, 1.0)
    rows, columns = grid_shape(shape, size)
    squares = 1.0
    for length, count in zip(shape, (rows, columns), strict=True):
        last = length - (count - 1) * size
        squares *= ((count - 1) * size**2 + last**2) / length**2
    cells = rows * columns
    return HidingFacts(cells, float(p), float(np.sqrt(p * (1 - p) * squares)), float((1 - p) ** cells))


# --- in images -------------------------------------------------------------------------------------------------------


def hide_and_seek(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    sizes: Sequence[int] = MIXED,
    p: float = 0.5,
    fill: str | float | Sequence[float] = "mean",
) -> np.ndarray:
    """Hide random cells of a normalised input, float32 (H, W, 3) -> the same.

    Args:
        image: normalised by mean and standard deviation.
        rng: of the sample, which makes its mask a function of (seed, epoch, sample).
        sizes: sides of cells in pixels, one of which is drawn per image; 0 leaves it whole.
        p: probability with which a cell is hidden.
        fill: ``mean``, which is 0; or a number or three, in units of the normalised input.
    """
    size = int(rng.choice(np.asarray(sizes)))
    if size == 0:
        return image
    mask = hidden_cells(rng.random(grid_shape(image.shape[:2], size)), size, p, image.shape[:2])
    return np.where(mask[..., None], fill_value(fill), image)


def pixel_dropout(
    image: np.ndarray, rng: np.random.Generator, *, p: float = 0.5, fill: str | float | Sequence[float] = "mean"
) -> np.ndarray:
    """Hide each pixel by itself, all channels together: what the paper compares hiding of cells with.

    The others keep their values: unlike in a dropout layer nothing is multiplied by 1 / (1 - p), as ``fill`` keeps the
    expectation. In training only, this is the augmentation ``pixel_dropout``; for testing alike, show photos through
    ``camflow.data.dropped.PixelDropout`` (localizer ``cam``, ``pixel_dropout``).

    Args:
        image, rng, fill: as of ``hide_and_seek``.
        p: probability with which a pixel is hidden.
    """
    return np.where((rng.random(image.shape[:2]) < p)[..., None], fill_value(fill), image)


def fill_value(fill: str | float | Sequence[float]) -> np.ndarray:
    """The value of a hidden pixel, float32 () or (3,). Raises ``ConfigError`` for what is none."""
    if fill == "mean":
        return np.float32(0)
    value = None if isinstance(fill, str) else np.asarray(fill, np.float32)
    if value is None or value.shape not in ((), (3,)):
        raise ConfigError(f"fill: must be mean, a number or three numbers, not '{fill}'")
    return value


# --- in a layer ------------------------------------------------------------------------------------------------------

FILLS = ("zero", "running_mean")


@dataclasses.dataclass(frozen=True)
class LayerHidingParams:
    """Hiding of cells in the maps of a convolution (the paper: conv1 of AlexNet, 55 x 55, cells of 5 or 11).

    Attributes:
        sizes: sides of cells on the layer's own grid, one of which is drawn per image; 0 leaves it whole.
        p: probability with which a cell is hidden.
        fill: ``zero``; or ``running_mean``, the mean of each channel over the training so far. The paper does not say
            which; the mean keeps the argument made for images.
        layer: dotted name of the convolution in the network; None: the first one.
        momentum: share of the newest batch in the running mean.
    """

    sizes: tuple[int, ...] = (5,)
    p: float = 0.5
    fill: str = "zero"
    layer: str | None = None
    momentum: float = 0.1

    def __post_init__(self):
        object.__setattr__(self, "sizes", tuple(self.sizes))
        if not self.sizes or min(self.sizes) < 0:
            raise ConfigError(f"hide_layer.sizes: needs sides of cells, 0 for none, not {list(self.sizes)}")
        for name in ("p", "momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"hide_layer.{name}: must be from 0 to 1, not {getattr(self, name)}")
        if self.fill not in FILLS:
            raise ConfigError(f"hide_layer.fill: unknown '{self.fill}'{did_you_mean(self.fill, FILLS)}")


class LayerHiding(nn.Module):
    """Hides cells of feature maps (B, D, H, W) while in training mode; in eval mode it changes nothing.

    Draws come from torch's global generator, which the training loop seeds before every step.

    Attributes:
        mean: float32 (D,), the running mean of each channel; only with ``fill: running_mean``.
        batches: how many it has seen; the first one is taken as it is.
    """

    def __init__(self, channels: int, params: LayerHidingParams):
        super().__init__()
        self.params = params
        if params.fill == "running_mean":
            self.register_buffer("mean", torch.zeros(channels))
            self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        positive = [size for size in self.params.sizes if size > 0]
        if not self.training or not positive:
            return maps
        choice = torch.randint(len(self.params.sizes), (len(maps),), device=maps.device)
        sizes = torch.tensor(self.params.sizes, device=maps.device)[choice]
        cells = grid_shape(maps.shape[2:], min(positive))
        draws = torch.rand(len(maps), *cells, device=maps.device)
        hidden = hidden_cells_batch(draws, sizes, self.params.p, maps.shape[2:])
        return torch.where(hidden[:, None], self._fill(maps), maps)

    def _fill(self, maps: torch.Tensor) -> torch.Tensor:
        if self.params.fill == "zero":
            return maps.new_zeros(())
        with torch.no_grad():
            now = maps.float().mean(dim=(0, 2, 3))
            share = torch.where(self.batches == 0, 1.0, self.params.momentum)
            self.mean.lerp_(now, share)
            self.batches += 1
        # A copy: the next forward pass of the same step may come before this one's backward pass.
        return self.mean.to(maps.dtype, copy=True)[None, :, None, None]


def hide_in_layer(model: nn.Module, params: LayerHidingParams) -> None:
    """Let a network hide cells behind one of its convolutions, in place, while it trains.

    The module ``layer_hiding`` joins the network, so that its running mean is in the checkpoints; ``stop_hiding`` takes
    it out again before the network is saved, which then is one like any other.

    Raises:
        ConfigError: there is no such layer, or it is no convolution.
    """
    convolutions = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    name = next(iter(convolutions)) if params.layer is None else params.layer
    if name not in convolutions:
        raise ConfigError(f"hide_layer.layer: no convolution '{name}'{did_you_mean(name, convolutions)}")
    hiding = LayerHiding(convolutions[name].out_channels, params)
    model.add_module(LAYER, hiding)
    hiding.hook = convolutions[name].register_forward_hook(lambda module, inputs, maps: hiding(maps))


def stop_hiding(model: nn.Module) -> None:
    """Undo ``hide_in_layer``; nothing happens to a network that hides nothing."""
    hiding = getattr(model, LAYER, None)
    if hiding is not None:
        hiding.hook.remove()
        delattr(model, LAYER)
