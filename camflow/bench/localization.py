"""Comparison of the localisation scores: boxes of all thresholds by component trees, or contours at each threshold."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage

from camflow.bench.compare import Comparison, Row, agree, compare
from camflow.evaluate.box_curves import all_curve, box_iou, levels_of, quantise
from camflow.evaluate.frames import Frame, normalised, score_maps
from camflow.evaluate.localization import LocalizationParams, thresholds_of
from camflow.localize.maps import SeedMaps

CELLS = 14  # side of the smooth maps: a CAM at stride 16
SIDE = 224  # of WSOL's frame
MAPS = {"smooth": 3, "noisy": 1}  # in one call; a call with noisy ones takes seconds


def box_curves_smooth(size: tuple[int, int], budget: float, folder: Path) -> list[Row]:
    """V2 of CAMs, enlarged from 14x14 cells."""
    return _box_curves("smooth", size, budget)


def box_curves_noisy(size: tuple[int, int], budget: float, folder: Path) -> list[Row]:
    """V2 of maps that are noise from pixel to pixel, as gradients are."""
    return _box_curves("noisy", size, budget)


def _box_curves(kind: str, size: tuple[int, int], budget: float) -> list[Row]:
    name, thresholds = f"box-curves-{kind}", thresholds_of(LocalizationParams().interval)
    maps, boxes = _maps(kind, min(SIDE, *size))

    def contours() -> list[np.ndarray]:
        return [contour_curve(q, boxes, thresholds) for q in maps]

    def trees() -> list[np.ndarray]:
        return [all_curve(q, boxes)[levels_of(thresholds, q.max())] for q in maps]

    same = agree(name, contours(), trees())  # also the call that compiles
    sides = (f"contours at {len(thresholds)} thresholds", contours), ("two component trees", trees)
    return [compare(name, *sides, images=len(maps), same=same, budget=budget)]


def contour_curve(q: np.ndarray, boxes: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Best IoU float64 (T,) over all contours of a map (H, W) uint8, threshold by threshold, as the field's code has it."""
    height, width = q.shape
    peak, found, starts = q.max(), [], []
    for threshold in thresholds:
        starts.append(len(found))
        _, mask = cv2.threshold(q, int(threshold * peak), 255, cv2.THRESH_BINARY)
        contours, _ = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        for x, y, w, h in map(cv2.boundingRect, contours):
            found.append((x, y, min(x + w, width - 1), min(y + h, height - 1)))
        if not contours:
            found.append((0, 0, 0, 0))
    return np.maximum.reduceat(box_iou(np.array(found), boxes).max(axis=1), starts)


def _maps(kind: str, side: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Quantised maps (side, side) and two true boxes."""
    rng = np.random.default_rng(0)
    if kind == "smooth":
        cells = ndimage.gaussian_filter(rng.random((MAPS[kind], CELLS, CELLS)), (0, 1, 1))
        seed = SeedMaps(np.arange(MAPS[kind]), [cells], (side, side))
        scores = score_maps(seed, Frame("squash", side))
    else:
        scores = normalised(rng.standard_normal((MAPS[kind], side, side)), "minmax")
    boxes = np.array([[side // 8, side // 6, side // 2, side // 3], [side // 3, side // 4, side - 9, side - 5]])
    return [quantise(one) for one in scores], boxes


LOCALIZATION: dict[str, Comparison] = {
    "box-curves-smooth": box_curves_smooth,
    "box-curves-noisy": box_curves_noisy,
}
