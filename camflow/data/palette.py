"""The PASCAL VOC colour map, and label maps as palette PNGs."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def voc_palette() -> np.ndarray:
    """VOC's colours, uint8 ``(256, 3)``: the bits of the index dealt out to red, green and blue, from the top bit down."""
    index = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for step in range(8):
        for channel in range(3):
            palette[:, channel] |= ((index >> (3 * step + channel) & 1) << (7 - step)).astype(np.uint8)
    return palette


def write_label_map(path: str | Path, labels: np.ndarray, **options) -> None:
    """Write uint8 ``(H, W)`` as a palette PNG in VOC's colours; ``options`` go to Pillow's ``save``."""
    from PIL import Image

    image = Image.fromarray(labels)  # mode L; a palette turns it into P with the same indices
    image.putpalette(voc_palette().ravel().tolist())
    image.save(path, **options)
