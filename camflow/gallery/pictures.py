"""Small pictures for the page: photos as JPEG, label maps and heat maps as PNG that are transparent where they say nothing."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
from PIL import Image

from camflow.data.palette import voc_palette

HEAT_LEVELS = 64  # steps that a heat map is drawn in; PNG halves its size for every halving of them, the eye sees none
JPEG_QUALITY = 85


def thumbnail_size(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Height and width of a photo of ``size`` (height, width) shrunk to a longest side; never enlarged."""
    scale = min(1.0, longest / max(size))
    height, width = (max(1, round(side * scale)) for side in size)
    return height, width


def photo_jpeg(photo: np.ndarray, size: tuple[int, int]) -> bytes:
    """A photo uint8 ``(H, W, 3)`` at ``size`` (height, width) as JPEG."""
    image = Image.fromarray(photo)
    if image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.LANCZOS)
    return _bytes(image, "JPEG", quality=JPEG_QUALITY)


def label_png(labels: np.ndarray, size: tuple[int, int]) -> bytes:
    """A label map uint8 ``(H, W)`` in the colours of all figures; background is transparent."""
    image = Image.fromarray(labels)
    image = image.resize(size[::-1], Image.Resampling.NEAREST)
    image.putpalette(voc_palette().ravel().tolist())
    return _bytes(image, "PNG", transparency=b"\x00" + b"\xff" * 255)


def heat_png(score: np.ndarray, size: tuple[int, int]) -> bytes:
    """A score map ``(H, W)`` in [0, 1], inferno from transparent at 0 to opaque at 1."""
    image = Image.fromarray(np.clip(score, 0, 1).astype(np.float32))
    image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    levels = np.rint(np.asarray(image) * (HEAT_LEVELS - 1)).astype(np.uint8)
    values = np.arange(HEAT_LEVELS) / (HEAT_LEVELS - 1)
    colours = np.rint(matplotlib.colormaps["inferno"](values)[:, :3] * 255).astype(np.uint8)
    picture = Image.fromarray(levels)
    picture.putpalette(colours.ravel().tolist())
    # The root of the score, as in the figures of seed maps, so that weak evidence is still seen.
    return _bytes(picture, "PNG", transparency=bytes(np.rint(values**0.5 * 255).astype(np.uint8)))


def _bytes(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
