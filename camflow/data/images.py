"""Decoding of photos and label maps, as real folders contain them.

``open_image`` turns any photo into uint8 RGB; ``open_label_map`` reads class indices without touching the palette.
Both raise ``DataError`` naming the file and the remedy.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from camflow.errors import DataError

_ORIENTATION = 0x0112  # EXIF tag
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


def open_image(path: str | Path) -> np.ndarray:
    """Decode a photo file to uint8 RGB ``(H, W, 3)``; see ``decode_image``."""
    return decode_image(_read_bytes(path), path)


def decode_image(data: bytes, name: str | Path) -> np.ndarray:
    """Decode the bytes of a photo to uint8 RGB ``(H, W, 3)``, upright.

    The EXIF orientation is applied, grey is repeated over the channels, 16-bit grey keeps its high byte, transparent
    pixels are laid over white (what a viewer shows; ``convert("RGB")`` would reveal arbitrary hidden colours), CMYK is
    converted, of an animation the first frame is taken. Colour profiles are not applied.

    Args:
        data: the file's bytes.
        name: how to call the file in messages.

    Raises:
        DataError: truncated, not an image, or of a pixel type with no agreed 8-bit meaning (32-bit, LAB).
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return np.array(_rgb(_upright(image), name), dtype=np.uint8)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # on damaged bytes decoders raise anything, from struct.error to SyntaxError
        raise DataError(f"{name}: cannot be decoded as an image ({_reason(error, data)}); {_REMEDY}") from error


def open_label_map(path: str | Path) -> np.ndarray:
    """Decode a label map to uint8 ``(H, W)``: the stored indices of a palette or grey PNG, never its colours.

    A 1-bit image gives 0 and 1. The EXIF orientation is not applied.

    Raises:
        DataError: unreadable, colour-coded (RGB), with an alpha channel, or with indices above 255.
    """
    data = _read_bytes(path)
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            mode, array = image.mode, np.array(image)
    except MemoryError:
        raise
    except Exception as error:
        raise DataError(f"{path}: cannot be decoded as a label map ({_reason(error, data)}); {_REMEDY}") from error
    if mode not in ("P", "L", "1", "I", *_SIXTEEN_BIT):
        raise DataError(
            f"{path}: a label map stores one class index per pixel, but this file has mode {mode} (colours); "
            "convert it to a palette or 8-bit grey PNG of indices"
        )
    if array.size and (array.max() > 255 or array.min() < 0):
        raise DataError(f"{path}: label {array.max()} does not fit 0..255; convert it to an 8-bit PNG of indices")
    return array.astype(np.uint8)


_REMEDY = "replace the file, or take it out of the split's list"


def _read_bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: does not exist; restore the file, or take it out of the split's list") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error


def _reason(error: Exception, data: bytes) -> str:
    if not data:
        return "the file is empty"
    # PIL's message ends in the repr of our BytesIO, which says nothing.
    return "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error) or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return image
    if orientation not in range(2, 9):
        return image
    return ImageOps.exif_transpose(image)


def _rgb(image: Image.Image, name: str | Path) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        return Image.fromarray((np.array(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F", "LAB"):
        raise DataError(f"{name}: pixel type {image.mode} has no agreed 8-bit range; convert the file to 8-bit RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
