"""One box from a map by the first published rule: cut at a share of the maximum, keep the largest component, box it.

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, and Singh & Lee, "Hide-and-Seek", ICCV
2017: on the map enlarged to the photo's own pixels, 20 % of the maximum for AlexNet-GAP, 30 % for GoogLeNet-GAP. Neither
names a connectivity. A hit is an IoU of more than 50 %, in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from camflow.errors import ConfigError, DataError
from camflow.evaluate.box_curves import box_iou
from camflow.evaluate.frames import Frame, MapParams, score_maps
from camflow.localize.maps import SeedMaps

FRAME, MAPS = Frame("image"), MapParams("bilinear", "max")  # of both papers
HIT = 0.5  # IoU that a hit exceeds


def cam_box(scores: np.ndarray, fraction: float, connectivity: int = 8) -> np.ndarray:
    """The half-open box, int64 (4,) ``x1, y1, x2, y2``, of the largest component of {scores > fraction * maximum}.

    Args:
        scores: map (H, W) of any scale.
        fraction: of the maximum, in [0, 1).
        connectivity: 8 or 4. Of components with equally many pixels the first from the top left.

    Returns:
        the box; all zeros when the map has no positive value.

    Raises:
        DataError: the map holds NaN.
    """
    if connectivity not in (4, 8):
        raise ConfigError(f"connectivity: should be 4 or 8, not {connectivity}")
    if not 0 <= fraction < 1:
        raise ConfigError(f"fractions: should be at least 0 and below 1, not {fraction}")
    peak = scores.max()
    if np.isnan(peak):
        raise DataError("a score map holds NaN; make it again")
    if peak <= 0:
        return np.zeros(4, np.int64)
    structure = ndimage.generate_binary_structure(2, 1 if connectivity == 4 else 2)
    components, _ = ndimage.label(scores > fraction * peak, structure)
    largest = np.bincount(components.ravel())[1:].argmax() + 1
    rows, columns = ndimage.find_objects(components, largest)[-1]
    return np.array([columns.start, rows.start, columns.stop, rows.stop], np.int64)


def cam_boxes(seed: SeedMaps, fractions: Sequence[float], connectivity: int = 8, image_id: str = "") -> np.ndarray:
    """The box of every class at every fraction in the photo's own pixels: int64 (F, K, 4), half-open.

    Raises:
        DataError: a value of the maps is not finite; names the image.
    """
    maps = score_maps(seed, FRAME, MAPS, image_id)
    found = [cam_box(scores, fraction, connectivity) for fraction in fractions for scores in maps]
    return np.array(found, np.int64).reshape(len(fractions), len(maps), 4)


def best_ious(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Best IoU float64 (F,) of the boxes (F, 4) of one map with the true ones (M, 4), all half-open, M >= 1."""
    return box_iou(boxes, truth, inclusive=False).max(axis=1)
