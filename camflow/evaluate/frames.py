"""The frame in which score maps and true boxes meet, and how each gets there.

The codes of the field compare boxes in different frames, and the choice alone moves a score by points:

``squash``  the whole image resized to a square, whatever its shape (Choe et al., "Evaluating Weakly Supervised Object
            Localization Methods Right", CVPR 2020);
``crop``    the short side resized, then a centred square cut out (Zolna et al., "Classifier-agnostic saliency map
            extraction", CVIU 2020);
``image``   the photo's own pixels (Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016).

Corners are those of half-open boxes, as catalogs hold them: x2 - x1 is the width. A frame's corner is the image's, scaled
and truncated, so the metadata files of those codes go in as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.localize.maps import SeedMaps

KINDS = ("squash", "crop", "image")
RESIZES = ("bicubic", "bilinear")
NORMALISATIONS = ("minmax", "max")


@dataclass(frozen=True)
class Frame:
    """Where maps and boxes are compared.

    Attributes:
        kind: ``squash``, ``crop`` or ``image``, see above.
        size: side of the square in pixels; published 224. Not used by ``image``.
        clip: cut true boxes off at the frame's border. The published crop does not, so what lies outside counts into the
            area of a box: for large boxes that is a switch of 20 points.
    """

    kind: str = "squash"
    size: int = 224
    clip: bool = False

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ConfigError(f"frame: unknown kind '{self.kind}'{did_you_mean(self.kind, KINDS)}")
        if self.size < 1:
            raise ConfigError(f"frame: size should be at least 1 pixel, not {self.size}")


@dataclass(frozen=True)
class MapParams:
    """How the maps of several scales become one score map.

    Attributes:
        resize: ``bicubic`` (WSOL; torch's and OpenCV's, a = -.75, half-pixel centres) or ``bilinear`` (CAM, HaS).
        normalise: ``minmax``, (s - min) / (max - min), a constant map being 0 (WSOL); ``max``, s / max with what is
            negative set to 0, a map without positive values being 0 (CAM).
    """

    resize: str = "bicubic"
    normalise: str = "minmax"

    def __post_init__(self):
        for name, value, known in (
            ("resize", self.resize, RESIZES),
            ("normalise", self.normalise, NORMALISATIONS),
        ):
            if value not in known:
                raise ConfigError(f"{name}: unknown rule '{value}'{did_you_mean(value, known)}")


def frame_shape(frame: Frame, size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the frame for an image of ``size`` (H, W)."""
    return (int(size[0]), int(size[1])) if frame.kind == "image" else (frame.size, frame.size)


def whole_shape(frame: Frame, size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the whole image at the frame's scale, before a crop: the long side truncated, as torchvision resizes."""
    height, width = (int(n) for n in size)
    if frame.kind != "crop":
        return frame_shape(frame, size)
    short = min(height, width)
    return height * frame.size // short, width * frame.size // short


def cut_out(pixels: np.ndarray, frame: Frame) -> np.ndarray:
    """The frame's part (..., h, w) of a whole image at its scale; all of it except for ``crop``."""
    if frame.kind != "crop":
        return pixels
    # Python rounds halves to even, and so does torchvision's CenterCrop, which this follows.
    top, left = (round((n - frame.size) / 2) for n in pixels.shape[-2:])
    return pixels[..., top : top + frame.size, left : left + frame.size]


def frame_boxes(boxes: np.ndarray, size: np.ndarray | tuple[int, int], frame: Frame) -> np.ndarray:
    """True boxes in the frame.

    Args:
        boxes: (M, 4) ``x1, y1, x2, y2`` in pixels of the image.
        size: (H, W) of the image, or (M, 2), one for each box.
        frame: ``squash`` takes x * s / W, ``crop`` x * s / min(W, H) less half of what sticks out (not rounded), both
            truncated toward zero; ``image`` leaves them.

    Returns:
        int64 (M, 4). Without ``clip`` those of ``crop`` may reach beyond the frame; with it, they may be empty.
    """
    boxes = np.asarray(boxes, np.int64).reshape(-1, 4)
    sides = np.broadcast_to(np.asarray(size, np.int64), (len(boxes), 2))[:, ::-1]  # W, H
    if frame.kind == "squash":
        found = boxes * frame.size // np.tile(sides, 2)  # integers: exact, and the truncation of what is not negative
    elif frame.kind == "crop":
        short = sides.min(axis=1, keepdims=True)
        cut = (sides * frame.size / short - frame.size) / 2
        found = np.trunc(boxes * frame.size / short - np.tile(cut, 2)).astype(np.int64)
    else:
        found = boxes
    if not frame.clip:
        return found
    limit = sides if frame.kind == "image" else np.full_like(sides, frame.size)
    return np.clip(found, 0, np.tile(limit, 2))


def frame_mask(mask: np.ndarray, frame: Frame) -> np.ndarray:
    """A label map (H, W) in the frame (h, w), by nearest neighbour: pixel i comes from floor(i * H / h).

    OpenCV works the index out in floating point and is one lower at some exact multiples.
    """
    height, width = whole_shape(frame, mask.shape)
    rows = np.arange(height) * mask.shape[0] // height
    columns = np.arange(width) * mask.shape[1] // width
    return cut_out(mask[np.ix_(rows, columns)], frame)


def score_maps(seed: SeedMaps, frame: Frame, params: MapParams | None = None, image_id: str = "") -> np.ndarray:
    """Score maps of one image: its seed maps in the frame, one for each class.

    Every scale is resized to the whole image at the frame's scale (for ``squash`` straight to the square), the scales are
    summed, the crop is cut out, and the rest is normalised. All in float64: WSOL's thresholds fall between values that
    float32 does not tell apart.

    Returns:
        float64 (K, h, w) in [0, 1].

    Raises:
        DataError: a value is not finite; names the image.
    """
    params = params or MapParams()
    whole = whole_shape(frame, seed.size)
    total = np.zeros((len(seed.classes), *whole))
    for maps in seed.maps:
        if not len(maps):
            continue
        if not np.isfinite(maps).all():
            raise DataError(f"image '{image_id}': its seed maps hold NaN or infinity; make them again")
        cells = torch.from_numpy(np.ascontiguousarray(maps, np.float64))[None]
        total += functional.interpolate(cells, size=whole, mode=params.resize, align_corners=False)[0].numpy()
    return normalised(cut_out(total, frame), params.normalise)


def normalised(maps: np.ndarray, rule: str) -> np.ndarray:
    """Maps (K, h, w) of any range as float64 in [0, 1]; ``rule`` is ``MapParams.normalise``.

    ``minmax`` stretches whatever is not exactly constant, rounding noise too, as the published code does.
    """
    maps = np.asarray(maps, np.float64)
    if rule == "minmax":
        maps = maps - maps.min(axis=(1, 2), keepdims=True)
    peak = maps.max(axis=(1, 2), keepdims=True, initial=0)
    return np.where(peak > 0, np.maximum(maps, 0) / np.where(peak > 0, peak, 1), 0)
