"""The seven perturbations of cross-consistency training (Ouali, Hudelot and Tami, CVPR 2020, section 3.2.1, as the
released code runs). Each is a function of the encoder's output and of what was drawn for it; a ``draw_`` function beside
it draws that, so that a perturbation can be repeated.

Features are (B, D, h, w). Draws come from torch's global generator unless one is given; they lie on the device of the
features, except the places of cut-outs, which are found on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from torch.nn import functional

from camflow.models.dtypes import at_least_single

EPSILON = 1e-8  # added to norms
MIN_POINTS = 50  # a contour is cut when it has more points than this
ERASE = 0.4  # sides of a cut-out as a share of the box's


# --- virtual adversarial training ------------------------------------------------------------------------------------


def draw_start(features: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Uniform numbers in [0, 1) like ``features``: where ``vat_direction`` starts."""
    return torch.rand(features.shape, generator=generator, dtype=features.dtype, device=features.device)


def vat_direction(
    features: torch.Tensor,
    decoder: Callable[[torch.Tensor], torch.Tensor],
    start: torch.Tensor,
    *,
    xi: float = 1e-6,
    eps: float = 2.0,
    iterations: int = 1,
) -> torch.Tensor:
    """The perturbation r (B, D, h, w) of length ``eps`` per image that changes a decoder's prediction the most.

    Power iteration: d is ``start`` - 0.5 made unit length, then ``iterations`` times the unit gradient at d of the
    divergence KL(softmax D(x), softmax D(x + xi d)), summed over classes and pixels and averaged over images; r is
    eps d. Constant: no gradient flows through it, and none reaches the decoder's parameters.

    The released xi of 1e-6 hardly perturbs. Its gradient is so short (some 1e-11) that the 1e-8 in the normaliser
    outweighs it, so r is a thousandth of eps long; and in float32 x + xi d is x but for its last bits, so what is
    left is mostly rounding noise. With xi = 0.1 the length is eps and float32 gives the direction of float64.

    Args:
        features: x.
        decoder: D, features -> logits.
        start: of ``draw_start``.
        xi: length of the step at whose end the gradient is taken.
        eps: length of r.
        iterations: of the power method.
    """
    x = features.detach()
    # Half precision has no use here: see above.
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        x = at_least_single(x)
        with torch.no_grad():
            fixed = functional.softmax(decoder(x), dim=1)
        d = _unit(start.to(x) - 0.5)
        for _ in range(iterations):
            d.requires_grad_()
            moved = functional.log_softmax(decoder(x + xi * d), dim=1)
            divergence = functional.kl_div(moved, fixed, reduction="batchmean")
            d = _unit(torch.autograd.grad(divergence, d)[0])
    return (eps * d).to(features.dtype)


def _unit(d: torch.Tensor) -> torch.Tensor:
    """Divide every image's values by their Euclidean norm + 1e-8."""
    return d / (d.flatten(1).norm(dim=1)[:, None, None, None] + EPSILON)


# --- features --------------------------------------------------------------------------------------------------------


def draw_kept(features: torch.Tensor, rate: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Which channels spatial dropout leaves, bool (B, D): each stays with probability 1 - ``rate``."""
    return torch.rand(features.shape[:2], generator=generator, device=features.device) >= rate


def spatial_dropout(features: torch.Tensor, kept: torch.Tensor, rate: float) -> torch.Tensor:
    """Zero whole channels and multiply the others by 1 / (1 - rate).

    Args:
        features: (B, D, h, w).
        kept: bool (B, D).
        rate: the probability with which a channel was dropped, in [0, 1).
    """
    return features * kept.to(features)[:, :, None, None] / (1 - rate)


def draw_share(
    features: torch.Tensor, bounds: tuple[float, float] = (0.7, 0.9), generator: torch.Generator | None = None
) -> torch.Tensor:
    """The threshold of ``feature_drop``: one number for the whole batch, uniform over ``bounds``."""
    low, high = bounds
    return low + (high - low) * torch.rand((), generator=generator, dtype=features.dtype, device=features.device)


def feature_drop(features: torch.Tensor, share: torch.Tensor | float) -> torch.Tensor:
    """Zero the cells whose mean over channels reaches ``share`` of the largest such mean of the image."""
    attention = features.mean(dim=1, keepdim=True)
    return features * (attention < share * attention.amax(dim=(2, 3), keepdim=True))


def draw_noise(features: torch.Tensor, bound: float = 0.3, generator: torch.Generator | None = None) -> torch.Tensor:
    """Noise (D, h, w), uniform over (-bound, bound); one tensor for all images of the batch."""
    uniform = torch.rand(features.shape[1:], generator=generator, dtype=features.dtype, device=features.device)
    return (2 * uniform - 1) * bound


def feature_noise(features: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """x + x n: multiplicative noise."""
    return features * noise + features


# --- guided by the prediction ----------------------------------------------------------------------------------------


def foreground(logits: torch.Tensor) -> torch.Tensor:
    """Where the prediction is no background, bool (B, H, W), of logits (B, C+1, H, W)."""
    return logits.argmax(dim=1) > 0


def on_grid(mask: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """A mask bool (B, H, W) on the grid of ``features``: factors 0 and 1, (B, 1, h, w).

    A cell takes the value of the pixel floor(i H/h), its top left corner, as torch's ``nearest`` does.
    """
    return functional.interpolate(mask[:, None].to(features), size=features.shape[2:], mode="nearest")


def context_mask(features: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Zero what is not foreground; ``found`` of ``foreground``."""
    return features * on_grid(found, features)


def object_mask(features: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Zero what is foreground; ``found`` of ``foreground``."""
    return features * on_grid(~found, features)


def object_boxes(found: torch.Tensor, min_points: int = MIN_POINTS) -> np.ndarray:
    """Boxes of the outer contours of the foreground, int64 (M, 5): image, smallest and largest x, and y, inclusive.

    Only contours with more than ``min_points`` points count, where straight stretches have a point at each end alone:
    a rectangle has four points whatever its size, and is never cut.

    Args:
        found: bool (B, H, W) of ``foreground``.
        min_points: as of the released code.
    """
    boxes = []
    for image, mask in enumerate(found.cpu().numpy().astype(np.uint8)):
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        for contour in contours:
            points = contour.reshape(-1, 2)
            if len(points) > min_points:
                (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
                boxes.append((image, x0, x1, y0, y1))
    return np.array(boxes, np.int64).reshape(-1, 5)


def draw_offsets(boxes: np.ndarray, erase: float = ERASE, generator: torch.Generator | None = None) -> np.ndarray:
    """Where in its box each cut-out starts, int64 (M, 2): x, then y, uniform over 0 .. int((1 - erase) side)."""
    ends = _room(boxes, erase) + 1
    uniform = torch.rand(ends.shape, generator=generator, dtype=torch.float64).numpy()
    return np.floor(uniform * ends).astype(np.int64)


def cutout_rectangles(boxes: np.ndarray, offsets: np.ndarray, erase: float = ERASE) -> np.ndarray:
    """Rectangles to erase, int64 (M, 5): image, x0, x1, y0, y1, ends exclusive.

    Args:
        boxes: (M, 5) of ``object_boxes``; the side of a box is largest minus smallest coordinate.
        offsets: (M, 2) of ``draw_offsets``.
        erase: sides of a rectangle as a share of the box's, rounded down.
    """
    start = boxes[:, [1, 3]] + offsets
    end = start + (_sides(boxes) * erase).astype(np.int64)
    return np.stack([boxes[:, 0], start[:, 0], end[:, 0], start[:, 1], end[:, 1]], axis=1)


def cutout_mask(rectangles: np.ndarray, shape: Sequence[int]) -> torch.Tensor:
    """What is left, bool (B, H, W) on the CPU."""
    left = torch.ones(tuple(shape), dtype=torch.bool)
    for image, x0, x1, y0, y1 in rectangles.tolist():
        left[image, y0:y1, x0:x1] = False
    return left


def guided_cutout(features: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
    """Zero a rectangle within each object; ``left`` of ``cutout_mask``."""
    return features * on_grid(left.to(features.device), features)


def _sides(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, [2, 4]] - boxes[:, [1, 3]]


def _room(boxes: np.ndarray, erase: float) -> np.ndarray:
    return (_sides(boxes) * (1 - erase)).astype(np.int64)
