"""What localizers need of a network: the one interface of all hosts, whatever they are made of.

A host turns pixels into a grid of features, class scores of its cells, and class scores of the image; the scores are
differentiable in the pixels. Nothing says that there is a convolution within: features may as well be the patch tokens
of a transformer, laid out as a grid. Beside that a host says how far its cells are apart, how pixels are normalised, and
which linear map turns features into scores, so that a vector of features can be scored by itself.

Some networks see the image's labels beside its pixels (``LabelConditioned``). Such a network becomes a host once it is
told them, which ``given_labels`` does; the drivers of localizers and studies call it for every image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from camflow.errors import ConfigError, did_you_mean

TAPS = ("sum", "mean", "centre")


class Head(Protocol):
    """The linear map from features to class scores.

    Attributes:
        weight: (C, D, 1, 1), or (C, D, k, k) when a cell's score also looks at its neighbours.

    It may have a ``bias`` (C,).
    """

    @property
    def weight(self) -> torch.Tensor: ...


@runtime_checkable
class Host(Protocol):
    """A network that localizers run on. B images of H x W pixels, C classes, D features, a grid of h x w cells.

    Attributes:
        stride: pixels of the image per cell, nominally: h = ceil(H / stride) up to the network's own padding.
        map_stride: what readers of its maps round the photo up to, ``SeedMaps.stride``: the stride, or 1 where rows and
            columns that do not fill a cell are lost.
        mean, std: normalisation of RGB/255, per channel.
        class_names: of the C classes, empty if it does not know them.
        head: see ``Head``.
    """

    stride: int
    map_stride: int
    mean: Sequence[float]
    std: Sequence[float]
    class_names: list[str]

    @property
    def head(self) -> Head: ...

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) normalised -> what the head reads, (B, D, h, w)."""
        ...

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """Pool features (B, D, h, w) to one vector an image, (B, D, 1, 1)."""
        ...

    def score_maps(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> signed class scores of every cell, (B, C, h, w), differentiable in x."""
        ...

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> class scores of the images, logits (B, C), differentiable in x."""
        ...


@runtime_checkable
class LabelConditioned(Protocol):
    """A network that is told which classes an image shows."""

    def given(self, classes: np.ndarray) -> Host:
        """The host for images that show these classes, (K,) 0-based indices; shares the network's weights."""
        ...


def given_labels(model: Any, classes: Sequence[np.ndarray]) -> Host:
    """The host for a batch of images with these present classes: any host as it is, a label-conditioned one told them.

    Raises:
        ValueError: a label-conditioned network gets images that differ in their classes; show them one by one.
    """
    if not isinstance(model, LabelConditioned):
        return model
    if any(not np.array_equal(classes[0], other) for other in classes[1:]):
        raise ValueError("images of different classes go through a label-conditioned network one by one")
    return model.given(classes[0])


def linear_scorer(head: Any, taps: str = "sum") -> tuple[torch.Tensor, torch.Tensor | None]:
    """How the head scores one vector of features: weights (C, D), and biases (C,) if it has any.

    Args:
        head: see ``Head``; with a 1x1 kernel ``taps`` makes no difference.
        taps: of a larger kernel: their ``sum``, which is the score within a patch of cells that all have these
            features; their ``mean``; or the ``centre`` one, which is the score of a cell among zeros.
    """
    if taps not in TAPS:
        raise ConfigError(f"scorer: unknown '{taps}'{did_you_mean(taps, TAPS)}")
    weight, bias = head.weight.detach(), getattr(head, "bias", None)
    if taps == "centre":
        weight = weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2]
    else:
        weight = weight.sum(dim=(2, 3)) if taps == "sum" else weight.mean(dim=(2, 3))
    return weight, None if bias is None else bias.detach()
