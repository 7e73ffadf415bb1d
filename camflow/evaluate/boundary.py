"""Where a label map errs: kinds of wrong pixels by their distance to the nearest true boundary.

A score says how many pixels are wrong. Whether they lie along the outlines, where a refiner should mend them, or deep
inside an object that was missed, says what to change. Bands around the true boundaries are those of the "trimap" plots
(Kohli, Ladicky and Torr, "Robust Higher Order Potentials for Enforcing Label Consistency", IJCV 2009, section 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy import ndimage

from camflow.errors import ConfigError
from camflow.evaluate.confusion import IGNORE, check_shape

BANDS = (2.0, 4.0, 8.0)  # pixels; right for photos of about 100 px
KINDS = ("right", "missed object", "false object", "wrong class")


def boundary_distance(truth: np.ndarray) -> np.ndarray:
    """Distance of every pixel to the nearest pixel of another label.

    Args:
        truth: uint8 (H, W), 255 ignored: such pixels are no other label, so where a rim of them separates two labels
            (VOC) the distances begin behind it.

    Returns:
        float64 (H, W) in pixels, at least 1; infinite where there is no other label, NaN where ``truth`` is ignored.
    """
    found = np.full(truth.shape, np.nan)
    valid = truth != IGNORE
    for label in np.unique(truth[valid]):
        own = truth == label
        others = valid & ~own
        found[own] = ndimage.distance_transform_edt(~others)[own] if others.any() else np.inf
    return found


def band_names(bands: Sequence[float]) -> list[str]:
    """``0-2``, ``2-4``, .. and ``8+`` for the bands that end at 2, 4, .. and 8 pixels, the last one open.

    Raises ``ConfigError`` for ends that are not above 0 and ascending, or when there are none.
    """
    ends = [0.0, *(float(end) for end in bands)]
    if len(ends) < 2 or not all(low < high for low, high in pairwise(ends)):
        raise ConfigError(f"bands: need at least one distance in pixels, above 0 and ascending, not {list(bands)}")
    return [*(f"{low:g}-{high:g}" for low, high in pairwise(ends)), f"{ends[-1]:g}+"]


def error_table(
    truth: np.ndarray, predictions: Sequence[np.ndarray], bands: Sequence[float] = BANDS, *, image_id: str = ""
) -> np.ndarray:
    """Count the pixels of an image by what each of several label maps makes of them; counts add up over images.

    Args:
        truth: uint8 (H, W), 255 is not counted.
        predictions: L label maps uint8 (H, W); a predicted 255 counts as background, as in the scores.
        bands: where the bands of the distance to the nearest boundary end, in pixels; a pixel at such a distance
            belongs to the nearer band, and one in an image of a single label to the last.
        image_id: for messages.

    Returns:
        int64 (L, 4, B + 1): label maps, ``KINDS``, bands. *Missed object*: true class, predicted background; *false
        object*: background, predicted class; *wrong class*: another class than the true one.

    Raises:
        ConfigError: see ``band_names``.
        DataError: shapes differ; names the image.
    """
    count = len(band_names(bands))
    valid = truth != IGNORE
    band = np.searchsorted(np.asarray(bands, np.float64), boundary_distance(truth)[valid], side="left")
    true, tables = truth[valid], np.zeros((len(predictions), len(KINDS), count), np.int64)
    for table, prediction in zip(tables, predictions, strict=True):
        check_shape(truth, prediction.shape, image_id)
        predicted = np.where(prediction == IGNORE, 0, prediction)[valid]
        kind = np.select([predicted == true, predicted == 0, true == 0], [0, 1, 2], default=3)
        table += np.bincount(kind * count + band, minlength=table.size).reshape(table.shape)
    return tables
