"""One photo through a trained segmentation network.

A network here is a module with ``mean`` and ``std`` (normalisation of RGB/255), ``n_labels`` (background included) and
``forward(x (B, 3, H, W)) -> logits (B, n_labels, h, w)``.

DeepLab-v2 (Chen et al., TPAMI 2018) takes the element-wise maximum of the logits at scales 1, .75 and .5; other
published test protocols differ in scales, mirroring and reduction, and their scores are not comparable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from camflow.errors import ConfigError, did_you_mean
from camflow.localize.extract import normalisation_table, to_views
from camflow.models.dtypes import at_least_single

# How a stack of views' logits (V, n_labels, h, w) becomes one score map (n_labels, h, w).
REDUCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "max_logit": lambda views: views.amax(dim=0),
    "mean_logit": lambda views: views.mean(dim=0),
    "mean_prob": lambda views: views.log_softmax(dim=1).logsumexp(dim=0) - math.log(len(views)),
    "max_prob": lambda views: views.log_softmax(dim=1).amax(dim=0),
}
FILLS = ("mean", "reflect")


@dataclass(frozen=True)
class TestParams:
    """How a photo is shown to the network at test time.

    Attributes:
        scales: of the views; 1 is among them, since its logit grid is the base grid.
        flip: also show the mirror image of every view.
        reduce: of the views' scores, cell by cell: ``max_logit`` and ``mean_logit`` give logits; ``mean_prob`` and
            ``max_prob`` give logarithms of the reduced probabilities (those of ``max_prob`` do not sum to one).
        pad: smallest side of what the network sees, pixels: smaller photos are padded on the right and at the bottom
            (DeepLab-LargeFOV: 513); None pads nothing.
        multiple_of: sides of every view are multiples of this. The photo is padded, and the sides of the views at other
            scales are rounded to the nearest multiple, so that all views cover the same area.
        fill: what the padding shows: ``mean``, which the network sees as zeros, or ``reflect``, the mirrored photo.
        align_corners: of the bilinear resizing of logits (DeepLab-LargeFOV: true); photos are always resized without.
    """

    __test__ = False  # pytest: the name only looks like a test

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    reduce: str = "max_logit"
    pad: int | None = None
    multiple_of: int | None = None
    fill: str = "mean"
    align_corners: bool = False

    def __post_init__(self):
        object.__setattr__(self, "scales", tuple(float(s) for s in self.scales))
        if 1.0 not in self.scales or min(self.scales) <= 0:
            raise ConfigError(f"scales: are above 0, with 1 among them, not {list(self.scales)}; add 1")
        if self.reduce not in REDUCTIONS:
            raise ConfigError(f"reduce: unknown '{self.reduce}'{did_you_mean(self.reduce, REDUCTIONS)}")
        if self.fill not in FILLS:
            raise ConfigError(f"fill: unknown '{self.fill}'{did_you_mean(self.fill, FILLS)}")
        for key in ("pad", "multiple_of"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConfigError(f"{key}: needs at least one pixel, not {value}; give null for none")

    def canvas(self, size: Sequence[int]) -> tuple[int, int]:
        """(H, W) in pixels of what the network sees at scale 1 of a photo of ``size``: the photo and its padding."""
        unit = self.multiple_of or 1
        height, width = (-(-max(int(n), self.pad or 0) // unit) * unit for n in size)
        return height, width


def predict_photo(model: nn.Module, photo: np.ndarray, params: TestParams) -> np.ndarray:
    """Scores (n_labels, h, w) of a photo on the base grid, the grid of the logits at scale 1.

    The logits of every view are resized bilinearly to the base grid and reduced there. This is DeepLab-v2's protocol,
    whose scales end at 1. For larger scales it is our choice: it keeps one small array per photo, where codes that
    resize every view's logits to the photo before they reduce keep details finer than a base cell. Without such scales
    the two differ too, by the order of maximum (or softmax) and interpolation; ``mean_logit`` at scales up to 1 is
    affected least.

    Args:
        model: in eval mode; works on the device and in the dtype of its weights.
        photo: uint8 RGB (H, W, 3).
        params: the views.

    Returns:
        Logits or log-probabilities, see ``TestParams.reduce``; float32, or float64 for a float64 network. They cover
        ``params.canvas((H, W))``.
    """
    with torch.inference_mode():
        image = _on_canvas(model, photo, params)
        per_scale = [
            _view_logits(model, _rescaled(image, scale, params.multiple_of), params) for scale in params.scales
        ]
        grid = per_scale[params.scales.index(1.0)].shape[2:]
        views = torch.cat([resized(logits, grid, params.align_corners) for logits in per_scale])
        return REDUCTIONS[params.reduce](views).cpu().numpy()


def _on_canvas(model: nn.Module, photo: np.ndarray, params: TestParams) -> torch.Tensor:
    """The normalised photo (1, 3, H', W') with its padding."""
    weight = next(model.parameters())
    table = normalisation_table(model.mean, model.std).to(weight.device, weight.dtype)
    height, width = (side - n for side, n in zip(params.canvas(photo.shape[:2]), photo.shape[:2], strict=True))
    if params.fill == "reflect":
        photo, height, width = np.pad(photo, ((0, height), (0, width), (0, 0)), mode="reflect"), 0, 0
    pixels = torch.from_numpy(np.array(photo)[None]).to(weight.device)
    return functional.pad(to_views(pixels, table, False)[:, 0], (0, width, 0, height))


def _rescaled(image: torch.Tensor, scale: float, multiple_of: int | None) -> torch.Tensor:
    if scale == 1:
        return image
    if multiple_of is not None:
        given: dict = {"size": [max(1, round(n * scale / multiple_of)) * multiple_of for n in image.shape[2:]]}
    elif min(image.shape[2:]) * scale < 1:
        given = {"size": [max(1, math.floor(n * scale)) for n in image.shape[2:]]}
    else:  # floor(H*s) rows, sampled exactly 1/s apart, as published: what is left over at the end is not seen
        given = {"scale_factor": scale}
    return functional.interpolate(image, **given, mode="bilinear", align_corners=False)


def _view_logits(model: nn.Module, view: torch.Tensor, params: TestParams) -> torch.Tensor:
    """Logits (V, n_labels, h, w), V = 2 with the mirror image, turned back."""
    if not params.flip:
        return at_least_single(model(view))
    plain, mirrored = at_least_single(model(torch.cat([view, view.flip(-1)])))
    return torch.stack([plain, mirrored.flip(-1)])


def resized(maps: torch.Tensor, size: Sequence[int], align_corners: bool) -> torch.Tensor:
    """Bring (B, K, h, w) to ``size`` (height, width), bilinear."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=align_corners)
