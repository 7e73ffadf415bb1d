"""No refinement: the seed itself as a label map (the "Seed" column of IRN, AdvCAM and LPCAM)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from camflow.refine.driver import Refined, class_ids


@dataclass(frozen=True)
class ThresholdParams:
    """``none`` has no parameters beyond the common background threshold."""


def winners(maps: np.ndarray, threshold: float) -> np.ndarray:
    """Arg-max of [threshold, maps] over (K, H, W): 0 background, k the k-th map.

    The threshold is compared in the maps' own dtype, as when a constant channel is stacked in front of them. Ties go to
    the background, then to the earlier class.
    """
    stacked = np.concatenate([np.full((1, *maps.shape[1:]), threshold, maps.dtype), maps])
    return stacked.argmax(axis=0)


def threshold_labels(
    photo: Callable[[], np.ndarray], maps: np.ndarray, classes: np.ndarray, threshold: float, params: ThresholdParams
) -> Refined:
    """Refiner ``none``; the photo is not looked at."""
    best = np.maximum(maps.max(axis=0), maps.dtype.type(threshold))
    return Refined(class_ids(winners(maps, threshold), classes), best.astype(np.float32))
