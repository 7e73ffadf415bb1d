"""Boxes cut from a score map at every threshold, and how well the best of them fits the true ones.

A map is quantised to 256 grey levels (Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR
2020, and its journal version), so a threshold t is the level g = int(t * largest level), its foreground is {q > g}, and
one *curve* of 256 values, the best IoU at each level, answers for all thresholds of any grid. Two rules:

V1, ``largest``: the box of the contour that encloses the largest polygon (through pixel centres, holes ignored);
V2, ``all``:     the best of the boxes of all contours, those of holes too.

V1 is found by OpenCV, once for each level that occurs. V2 needs no contours: the foreground's connected components at all
levels form a tree, and so do the holes (components of the background that do not touch the border). A component lives from
the level that made it to the level that joins it to another; so both trees, grown pixel by pixel with a union-find that
keeps a bounding box at each root, meet every box of every threshold once, in nearly linear time.

Boxes come in two conventions. *Inclusive* is WSOL's: corners (x, y, x + w, y + h) with the larger ones clipped to the last
pixel, areas (dx + 1)(dy + 1), so a predicted box is a pixel too wide. *Exclusive* is half-open boxes and areas dx dy.
Either way true boxes are taken as they come. Without any foreground the box is (0, 0, 0, 0).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import cv2
import numpy as np
from numba import njit

from camflow.errors import ConfigError, DataError, did_you_mean

LEVELS = 256
RULES = ("largest", "all")  # V1, V2
AROUND = ((-1, 0), (0, -1), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))  # dy, dx; across corners last


def quantise(scores: np.ndarray, image_id: str = "") -> np.ndarray:
    """Scores in [0, 1] of any shape as uint8, 255 s truncated. Raises ``DataError`` for NaN and values outside."""
    scores = np.asarray(scores)
    if not ((scores >= 0) & (scores <= 1)).all():  # false for NaN
        raise DataError(f"image '{image_id}': its score map holds NaN or values outside 0..1; normalise it first")
    return (255 * scores).astype(np.uint8)


def levels_of(thresholds: np.ndarray, peak: np.ndarray | int) -> np.ndarray:
    """Levels int64 (..., T) of thresholds (T,) on maps whose largest level is ``peak`` (...): int(t * peak)."""
    return (np.asarray(peak, np.float64)[..., None] * np.asarray(thresholds, np.float64)).astype(np.int64)


# --- boxes -----------------------------------------------------------------------------------------------------------


def box_iou(boxes: np.ndarray, truth: np.ndarray, *, inclusive: bool = True) -> np.ndarray:
    """IoU float64 (P, M) of boxes (P, 4) and (M, 4), integer ``x1, y1, x2, y2``; 0 where neither has an area."""
    boxes, truth = (np.asarray(b, np.int64).reshape(-1, 4) for b in (boxes, truth))
    extra = int(inclusive)
    areas = [np.prod(b[:, 2:] - b[:, :2] + extra, axis=1) for b in (boxes, truth)]
    common = np.ones((len(boxes), len(truth)), np.int64)
    for low, high in ((0, 2), (1, 3)):  # by axis: half the memory
        right = np.minimum.outer(boxes[:, high], truth[:, high])
        common *= np.maximum(right - np.maximum.outer(boxes[:, low], truth[:, low]) + extra, 0)
    union = areas[0][:, None] + areas[1] - common
    return np.divide(common, union, out=np.zeros(common.shape), where=union > 0)


def boxes_at(q: np.ndarray, level: int, rule: str = "largest", *, inclusive: bool = True) -> np.ndarray:
    """The boxes of one threshold, for drawing.

    Args:
        q: quantised map uint8 (H, W).
        level: the foreground is q > level; see ``levels_of``.
        rule: ``largest`` (V1) or ``all`` (V2).
        inclusive: the convention, see above.

    Returns:
        int64 (n, 4) in OpenCV's order, n >= 1; of equally large contours ``largest`` takes OpenCV's first.
    """
    if rule not in RULES:
        raise ConfigError(f"rule: unknown '{rule}'{did_you_mean(rule, RULES)}")
    mask = (q > level).view(np.uint8)
    # A hole, or an island in it, encloses less than the contour around it, so V1 needs the outermost contours only.
    mode = cv2.RETR_EXTERNAL if rule == "largest" else cv2.RETR_TREE
    contours, _ = cv2.findContours(mask, mode, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return np.zeros((1, 4), np.int64)
    if rule == "largest":
        contours = [_largest(contours)]
    rectangles = np.array([cv2.boundingRect(contour) for contour in contours], np.int64)
    corners = np.concatenate([rectangles[:, :2], rectangles[:, :2] + rectangles[:, 2:]], axis=1)
    if inclusive:
        height, width = q.shape
        corners[:, 2:] = np.minimum(corners[:, 2:], [width - 1, height - 1])
    return corners


def _largest(contours: tuple[np.ndarray, ...]) -> np.ndarray:
    """The contour of the largest area, the first of equals; fewer than three points enclose nothing."""
    areas = [cv2.contourArea(contour) if len(contour) > 2 else 0.0 for contour in contours]
    return contours[max(range(len(areas)), key=areas.__getitem__)]


def largest_boxes(q: np.ndarray, *, inclusive: bool = True) -> np.ndarray:
    """The box of V1 at every level, int64 (256, 4), of a quantised map uint8 (H, W)."""
    q = _checked(q)
    boxes = np.zeros((LEVELS, 4), np.int64)
    for low, high in _spans(q):
        boxes[low:high] = boxes_at(q, low, "largest", inclusive=inclusive)
    return boxes


def _spans(q: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of levels, half-open, that cut out one and the same foreground, as far as there is one."""
    present = np.flatnonzero(np.bincount(q.ravel(), minlength=LEVELS)).tolist()
    if present[0] > 0:
        yield 0, present[0]
    yield from itertools.pairwise(present)


# --- curves ----------------------------------------------------------------------------------------------------------


def box_curves(q: np.ndarray, boxes: np.ndarray, *, connectivity: int = 8, inclusive: bool = True) -> np.ndarray:
    """Curves of V1 and V2, float64 (2, 256); see ``largest_curve`` and ``all_curve``."""
    return np.stack(
        [
            largest_curve(q, boxes, inclusive=inclusive),
            all_curve(q, boxes, connectivity=connectivity, inclusive=inclusive),
        ]
    )


def largest_curve(q: np.ndarray, boxes: np.ndarray, *, inclusive: bool = True) -> np.ndarray:
    """V1: the IoU of the largest contour's box with the true box that it fits best, at every level.

    Contours are OpenCV's, whose foreground is 8-connected.

    Args:
        q: quantised map uint8 (H, W).
        boxes: true boxes (M, 4) of the frame, M >= 1.
        inclusive: the convention, see above.

    Returns:
        float64 (256,) in [0, 1].
    """
    found, level = np.unique(largest_boxes(q, inclusive=inclusive), axis=0, return_inverse=True)
    return box_iou(found, _true_boxes(boxes), inclusive=inclusive).max(axis=1)[level.ravel()]


def all_curve(q: np.ndarray, boxes: np.ndarray, *, connectivity: int = 8, inclusive: bool = True) -> np.ndarray:
    """V2: the best IoU over all contours and true boxes, at every level, by two component trees.

    Args:
        q: quantised map uint8 (H, W).
        boxes: true boxes (M, 4) of the frame, M >= 1.
        connectivity: of the foreground, 8 (the contours of OpenCV) or 4; the holes have the other one.
        inclusive: the convention, see above.

    Returns:
        float64 (256,) in [0, 1].
    """
    if connectivity not in (4, 8):
        raise ConfigError(f"connectivity: should be 4 or 8, not {connectivity}")
    q, boxes = _checked(q), _true_boxes(boxes)
    curve = np.zeros(LEVELS)
    _grow(q, boxes, connectivity == 8, False, inclusive, curve)
    _grow(255 - q, boxes, connectivity == 4, True, inclusive, curve)
    curve[int(q.max()) :] = box_iou(np.zeros((1, 4)), boxes, inclusive=inclusive).max()
    return curve


def _checked(q: np.ndarray) -> np.ndarray:
    q = np.asarray(q)
    if q.dtype != np.uint8 or q.ndim != 2 or not q.size:
        raise DataError(f"a quantised map is uint8 (H, W), not {q.dtype} {q.shape}; see quantise()")
    return np.array(q, order="C")  # a copy, writable: for numba a read-only array is another type to compile for


def _true_boxes(boxes: np.ndarray) -> np.ndarray:
    boxes = np.array(boxes, np.int64, order="C").reshape(-1, 4)
    if not len(boxes):
        raise DataError("there is no true box to compare with; leave out what has none")
    return boxes


def _compiled(function: Callable) -> Callable:
    """The function as machine code, kept beside this file, else in the user's cache, else not at all."""
    try:
        return njit(cache=True)(function)
    except RuntimeError:  # no folder can be written
        return njit(function)


@_compiled
def _grow(values, boxes, eight, holes, inclusive, curve):
    """Add pixels from the largest value down, and raise the curve (256,) to the best IoU of every component in its span.

    A component made at value b that changes at value a < b is one of {values > g} for a <= g < b. With ``holes`` the
    values are 255 - q: their components are the background's, and those that stay off the border are holes. Of these, the
    contour runs through the foreground around them, a pixel further out on each side.
    """
    height, width = values.shape
    start = np.zeros(257, np.int64)  # counting sort
    for v in values.flat:
        start[v + 1] += 1
    for v in range(256):
        start[v + 1] += start[v]
    stride = width + 2  # around the map lies a frame of pixels that are never added: no neighbour is out of bounds
    order, place = np.empty(values.size, np.int32), start.copy()
    for y in range(height):
        for x in range(width):
            order[place[values[y, x]]] = (y + 1) * stride + x + 1
            place[values[y, x]] += 1

    parent = np.full((height + 2) * stride, -1, np.int32)
    made = np.empty(len(parent), np.int32)  # value at which a root's box became what it is
    extent = np.empty((len(parent), 4), np.int32)  # its first and last column and row: x1, y1, x2, y2
    # The value 0 adds nothing to any foreground, but as 255 - q it is the largest level, which ends the last holes.
    for v in range(255, -1 if holes else 0, -1):
        for position in range(start[v], start[v + 1]):
            p = order[position]
            y, x = p // stride - 1, p % stride - 1
            root = -1
            for dy, dx in AROUND:
                n = p + dy * stride + dx
                if parent[n] < 0:
                    continue
                # What lies across a corner is joined to a pixel beside both already, if that is there.
                if dy != 0 and dx != 0 and (not eight or parent[p + dy * stride] >= 0 or parent[p + dx] >= 0):
                    continue
                while parent[n] != n:
                    parent[n] = parent[parent[n]]
                    n = parent[n]
                if n == root:
                    continue
                if root < 0:
                    x1, y1 = min(extent[n, 0], x), min(extent[n, 1], y)
                    x2, y2 = max(extent[n, 2], x), max(extent[n, 3], y)
                else:
                    x1, y1 = min(extent[n, 0], extent[root, 0]), min(extent[n, 1], extent[root, 1])
                    x2, y2 = max(extent[n, 2], extent[root, 2]), max(extent[n, 3], extent[root, 3])
                since = v
                for r in (n, root):
                    if r < 0:
                        continue
                    if extent[r, 0] == x1 and extent[r, 1] == y1 and extent[r, 2] == x2 and extent[r, 3] == y2:
                        since = max(since, made[r])  # the box lives on
                    elif made[r] > v:
                        span = np.int64(v), np.int64(made[r])
                        _raise(curve, extent[r], span, boxes, holes, inclusive, height, width)
                parent[p if root < 0 else root] = n
                root = n
                extent[n, 0], extent[n, 1], extent[n, 2], extent[n, 3] = x1, y1, x2, y2
                made[n] = since
            if root < 0:
                parent[p], made[p] = p, v
                extent[p, 0], extent[p, 1], extent[p, 2], extent[p, 3] = x, y, x, y
    for p in order:
        if parent[p] == p:
            span = np.int64(0), np.int64(made[p])
            _raise(curve, extent[p], span, boxes, holes, inclusive, height, width)


@_compiled
def _raise(curve, extent, span, boxes, holes, inclusive, height, width):
    """Raise the curve to a component's best IoU at the levels of its span of values, low and high."""
    low, high = span
    x1, y1, x2, y2 = np.int64(extent[0]), np.int64(extent[1]), np.int64(extent[2]), np.int64(extent[3])
    if holes:
        if x1 == 0 or y1 == 0 or x2 == width - 1 or y2 == height - 1:
            return
        x1, y1, x2, y2 = x1 - 1, y1 - 1, x2 + 1, y2 + 1
        low, high = 255 - high, 255 - low
    x2, y2 = x2 + 1, y2 + 1
    extra = 0
    if inclusive:
        extra, x2, y2 = 1, min(x2, width - 1), min(y2, height - 1)
    area = (x2 - x1 + extra) * (y2 - y1 + extra)
    best = 0.0
    for m in range(boxes.shape[0]):
        across = min(x2, boxes[m, 2]) - max(x1, boxes[m, 0]) + extra
        down = min(y2, boxes[m, 3]) - max(y1, boxes[m, 1]) + extra
        if across > 0 and down > 0:
            true = (boxes[m, 2] - boxes[m, 0] + extra) * (boxes[m, 3] - boxes[m, 1] + extra)
            best = max(best, across * down / (area + true - across * down))
    for level in range(low, high):
        curve[level] = max(curve[level], best)


# --- one map for all images ------------------------------------------------------------------------------------------


def centre_gaussian(size: int = 224, sigma: float | None = None) -> np.ndarray:
    """The score map that looks at no image: float64 (size, size) in [0, 1], highest in the middle.

    ``sigma`` in pixels, half the size by default: with 224 and 112 the "centre" rows of the WSOL benchmark come out.
    """
    sigma = size / 2 if sigma is None else sigma
    squares = (np.arange(size) - (size - 1) / 2) ** 2
    heights = np.exp(-(squares[:, None] + squares) / (2 * sigma**2))
    return (heights - heights.min()) / (heights.max() - heights.min())


def same_map_curves(q: np.ndarray, boxes: np.ndarray, offset: np.ndarray, *, inclusive: bool = True) -> np.ndarray:
    """Curves of V1 for many images that all have the same map: float64 (N, 256).

    Args:
        q: quantised map uint8 (H, W).
        boxes: true boxes (M, 4) of all images in the frame, one image after the other.
        offset: (N + 1,), boxes of image i are offset[i] to offset[i + 1]; each has at least one.
        inclusive: the convention, see above.
    """
    if (np.diff(offset) < 1).any():
        raise DataError("an image has no true box; leave it out")
    found, level = np.unique(largest_boxes(q, inclusive=inclusive), axis=0, return_inverse=True)
    best = [np.maximum.reduceat(box_iou(box, boxes, inclusive=inclusive)[0], offset[:-1]) for box in found]
    return np.stack(best, axis=1)[:, level.ravel()]
