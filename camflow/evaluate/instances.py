"""Average precision of instance masks, as PASCAL VOC scores boxes (Hariharan et al., "Simultaneous Detection and
Segmentation", ECCV 2014): AP50 and AP75 of IRN's tables.

Per class, the predictions of all images are ordered by score. A prediction is assigned to the object of its class and
image that it overlaps most; it is right when their intersection over union reaches the threshold and no prediction of
a higher score took the object. AP is the area under the curve of precision over recall after precision has been made
non-increasing (VOC 2010 and later).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from camflow.errors import DataError


def mask_ious(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersections over union (n, m) float64 of masks (n, H, W) and (m, H, W) bool; 0 for two empty masks."""
    if not len(predicted) or not len(truth):
        return np.zeros((len(predicted), len(truth)))
    a = predicted.reshape(len(predicted), -1)
    b = truth.reshape(len(truth), -1)
    # Counts up to 2^24 are exact in float32, and its product is the fast one; larger photos need float64.
    kind = np.float32 if a.shape[1] < 2**24 else np.float64
    common = (a.astype(kind) @ b.astype(kind).T).astype(np.float64)
    union = a.sum(axis=1, dtype=np.float64)[:, None] + b.sum(axis=1, dtype=np.float64)[None] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


class InstanceScore:
    """Collect predictions image by image; parts of a split are joined with ``merge``.

    Args:
        n_classes: number of foreground classes C.
        thresholds: intersections over union to score at.
    """

    def __init__(self, n_classes: int, thresholds: Sequence[float] = (0.5, 0.75)):
        self.thresholds = tuple(float(t) for t in thresholds)
        self.objects = np.zeros(n_classes, np.int64)
        self._scores: list[list[np.ndarray]] = [[] for _ in range(n_classes)]
        self._right: list[list[np.ndarray]] = [[] for _ in range(n_classes)]

    def update(
        self,
        masks: np.ndarray,
        classes: np.ndarray,
        scores: np.ndarray,
        true_masks: np.ndarray,
        true_classes: np.ndarray,
        *,
        image_id: str = "",
    ) -> None:
        """Add one image.

        Args:
            masks: (n, H, W) bool predictions; may overlap.
            classes: (n,) 0-based class indices.
            scores: (n,) float.
            true_masks: (m, H, W) bool objects.
            true_classes: (m,) 0-based class indices.
            image_id: for messages.

        Raises:
            DataError: sizes, lengths or classes do not fit; names the image.
        """
        masks, true_masks = np.asarray(masks, bool), np.asarray(true_masks, bool)
        if len(masks) and len(true_masks) and masks.shape[1:] != true_masks.shape[1:]:
            raise DataError(
                f"image '{image_id}': its instance masks are {true_masks.shape[1:]} pixels, "
                f"the predictions {masks.shape[1:]}; make the predictions again"
            )
        if not (len(masks) == len(classes) == len(scores) and len(true_masks) == len(true_classes)):
            raise DataError(f"image '{image_id}': masks, classes and scores differ in number; make them again")
        for name, labels in (("predictions", classes), ("instance masks", true_classes)):
            if len(labels) and not (np.min(labels) >= 0 and np.max(labels) < len(self.objects)):
                raise DataError(
                    f"image '{image_id}': its {name} have a class outside 0 to {len(self.objects) - 1}; "
                    "mend them or the class list"
                )
        classes, true_classes, scores = (np.asarray(a) for a in (classes, true_classes, scores))
        for label in np.union1d(classes, true_classes).astype(int):
            mine, theirs = np.flatnonzero(classes == label), true_masks[true_classes == label]
            self.objects[label] += len(theirs)
            if len(mine):
                order = mine[np.argsort(-scores[mine].astype(np.float64), kind="stable")]
                self._scores[label].append(scores[order].astype(np.float64))
                self._right[label].append(_assign(mask_ious(masks[order], theirs), self.thresholds))

    def merge(self, other: InstanceScore) -> None:
        """Add what another collected."""
        self.objects += other.objects
        for own, theirs in zip((*self._scores, *self._right), (*other._scores, *other._right), strict=True):
            own.extend(theirs)

    def result(self) -> dict[str, Any]:
        """Return ``thresholds``, ``ap`` (T, C), NaN for a class without objects, and ``map`` (T,), the mean over the
        others, NaN when there is no object at all."""
        ap = np.full((len(self.thresholds), len(self.objects)), np.nan)
        for label in np.flatnonzero(self.objects):
            scores = np.concatenate([np.zeros(0), *self._scores[label]])
            right = np.concatenate([np.zeros((len(self.thresholds), 0), bool), *self._right[label]], axis=1)
            order = np.argsort(-scores, kind="stable")
            for row, hits in enumerate(right[:, order]):
                ap[row, label] = average_precision(hits, int(self.objects[label]))
        known = self.objects > 0
        mean = ap[:, known].mean(axis=1) if known.any() else np.full(len(ap), np.nan)
        return {"thresholds": self.thresholds, "ap": ap, "map": mean}


def _assign(ious: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Which of n predictions, best first, are right: (T, n) bool from their ious (n, m) with the image's objects."""
    right = np.zeros((len(thresholds), len(ious)), bool)
    if not ious.size:  # no object to take
        return right
    nearest, overlap = ious.argmax(axis=1), ious.max(axis=1)
    for row, threshold in enumerate(thresholds):
        close = np.flatnonzero(overlap >= threshold)
        _, first = np.unique(nearest[close], return_index=True)
        right[row, close[first]] = True
    return right


def average_precision(right: np.ndarray, objects: int) -> float:
    """Area under the precision-recall curve of predictions in order of falling score.

    Args:
        right: (n,) bool.
        objects: number of objects to be found, at least 1.
    """
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[np.asarray(right, bool)].sum() / objects)  # recall rises by 1/objects at every hit
