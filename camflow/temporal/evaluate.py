"""Scores of temporal proposals: average precision at temporal intersection over union (tIoU), in the protocols in use.

They differ by several points on the same proposals, so a score names its own:

    activitynet           detections by falling score, each takes the unmatched segment of its video and class that it
                          overlaps best, if tIoU >= threshold; AP = area below the precision made monotone (VOC 2010).
                          Ambiguous segments are not known.
    activitynet_dropped   the same, without detections that overlap an ambiguous segment and no segment of their class.
    thumos14              the THUMOS14 toolkit: each segment, in the order of the file, takes the free detection that
                          overlaps it best, if tIoU > threshold; unmatched detections that overlap any ambiguous segment
                          are dropped; AP = mean over the recalls 0, .1 .. 1 of the best precision from there on.
    thumos14_precision    its later revision: AP = sum of the precisions at the true positives / number of segments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.store import Store

FORMAT = "camflow-score/1"
PROTOCOLS = ("activitynet", "activitynet_dropped", "thumos14", "thumos14_precision")
RECALL_SLACK = 1e-12  # a recall of 3/10 must count for the point .3


@dataclass(frozen=True)
class TemporalScoreParams:
    """How proposals are scored.

    Attributes:
        protocol: see the head of this file.
        tiou: thresholds in (0, 1].
        classes: names of the classes that the mean is over; None: those with a segment.
    """

    protocol: str = "activitynet"
    tiou: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5)
    classes: tuple[str, ...] | None = None

    def __post_init__(self):
        object.__setattr__(self, "tiou", tuple(float(t) for t in self.tiou))
        if self.protocol not in PROTOCOLS:
            raise ConfigError(f"protocol: unknown '{self.protocol}'{did_you_mean(self.protocol, PROTOCOLS)}")
        if not self.tiou or not all(0 < t <= 1 for t in self.tiou):
            raise ConfigError(f"tiou: needs thresholds above 0 and up to 1, not {list(self.tiou)}")


@dataclass(frozen=True)
class Detections:
    """Average precision of C classes at T thresholds, and what it was counted from.

    Attributes:
        average_precision: float64 (C, T); NaN for a class without a segment.
        true_positives, false_positives: int64 (C, T); dropped detections are neither.
        segments: int64 (C,).
    """

    average_precision: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray
    segments: np.ndarray

    def mean(self, classes: Sequence[int] | None = None) -> np.ndarray:
        """Mean average precision (T,) over the classes given, else over those with a segment; NaN without any."""
        rows = np.flatnonzero(self.segments) if classes is None else np.asarray(classes, np.int64)
        return (
            self.average_precision[rows].mean(axis=0) if len(rows) else np.full(self.average_precision.shape[1], np.nan)
        )


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Length in seconds that intervals (..., 2) have in common, at least 0; shapes broadcast."""
    return np.maximum(np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0]), 0)


def tiou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of real intervals (..., 2) in seconds; 0 where both are empty."""
    common = overlap(a, b)
    union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - common
    return np.divide(common, union, out=np.zeros(np.broadcast(common, union).shape), where=union > 0)


def detection_scores(
    truth: np.ndarray,
    detections: np.ndarray,
    *,
    n_classes: int,
    thresholds: Sequence[float],
    protocol: str = "activitynet",
    ambiguous: np.ndarray | None = None,
) -> Detections:
    """Match detections to segments and score them.

    Args:
        truth: float64 (G, 4): video number, class index, start, end in seconds, in the order of the file.
        detections: float64 (D, 5): video number, class index, start, end, score. Equal scores count in their order.
        n_classes: C.
        thresholds: T values of tIoU.
        protocol: one of ``PROTOCOLS``.
        ambiguous: float64 (A, 3): video number, start, end.
    """
    truth, detections = np.asarray(truth, np.float64), np.asarray(detections, np.float64)
    ambiguous = np.zeros((0, 3)) if ambiguous is None else np.asarray(ambiguous, np.float64)
    detections = detections[np.argsort(-detections[:, 4], kind="stable")]
    if protocol == "activitynet_dropped":
        detections = detections[~(_touches(detections, ambiguous, False) & ~_touches(detections, truth, True))]
    levels = np.asarray(thresholds, np.float64)
    toolkit = protocol.startswith("thumos14")
    positive = _matches(truth, detections, levels, by_segment=toolkit)
    counted = np.ones_like(positive)
    if toolkit:
        counted = positive | ~_touches(detections, ambiguous, False)[:, None]
    area = {"thumos14": _eleven_points, "thumos14_precision": _mean_precision}.get(protocol, _interpolated)
    shape = (n_classes, len(levels))
    precision = np.full(shape, np.nan)
    hits, misses = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    segments = np.bincount(truth[:, 1].astype(np.int64), minlength=n_classes)[:n_classes]
    for c in range(n_classes):
        own = detections[:, 1] == c
        hits[c] = positive[own].sum(axis=0)
        misses[c] = (counted & ~positive)[own].sum(axis=0)
        if segments[c]:
            precision[c] = area(positive[own], counted[own], int(segments[c]))
    return Detections(precision, hits, misses, segments)


# --- matching --------------------------------------------------------------------------------------------------------


def _touches(detections: np.ndarray, segments: np.ndarray, of_class: bool) -> np.ndarray:
    """Whether each detection overlaps a segment of its video (and class) at all, bool (D,).

    Args:
        segments: (S, 4) with the class in the second column, or (S, 3) without.
    """
    found = np.zeros(len(detections), bool)
    order = np.argsort(segments[:, 0], kind="stable")
    segments = segments[order]
    for video in np.unique(segments[:, 0]):
        low, high = np.searchsorted(segments[:, 0], [video, video + 1])
        rows = np.flatnonzero(detections[:, 0] == video)
        own = segments[low:high]
        common = overlap(detections[rows, None, 2:4], own[None, :, -2:]) > 0
        if of_class:
            common &= detections[rows, None, 1] == own[None, :, 1]
        found[rows] = common.any(axis=1)
    return found


def _matches(truth: np.ndarray, detections: np.ndarray, levels: np.ndarray, *, by_segment: bool) -> np.ndarray:
    """Which detections are true positives, bool (D, T); detections come by falling score.

    The tIoU of a video and class is computed once; the greedy choice then runs for all thresholds, and for all videos
    and classes, together: its n-th step is the n-th detection (or segment) of each.
    """
    positive = np.zeros((len(detections), len(levels)), bool)
    groups = [
        (rows, tiou(detections[rows, None, 2:4], truth[own][None, :, 2:4]))
        for rows, own in _groups(detections[:, :2], truth[:, :2])
    ]
    if not groups:
        return positive
    # Padded with -1, which no threshold lets through: choosers along axis 1, what is chosen from along axis 2.
    tables = [values.T if by_segment else values for _, values in groups]
    height, width = (max(table.shape[axis] for table in tables) for axis in (0, 1))
    values = np.full((len(groups), height, width), -1.0)
    for table, padded in zip(tables, values, strict=True):
        padded[: table.shape[0], : table.shape[1]] = table
    free = np.ones((len(groups), len(levels), width), bool)
    group, level = np.ogrid[: len(groups), : len(levels)]
    names = np.full((len(groups), max(len(rows) for rows, _ in groups)), -1)
    for (rows, _), padded in zip(groups, names, strict=True):
        padded[: len(rows)] = rows
    for step in range(height):
        offered = np.where(free, values[:, None, step], -1.0)
        best = offered.argmax(axis=2)
        value = offered[group, level, best]
        taken = value > levels if by_segment else value >= levels
        free[group, level, best] &= ~taken
        chosen = names[group, best] if by_segment else np.broadcast_to(names[:, step, None], taken.shape)
        at, of = np.nonzero(taken)
        positive[chosen[at, of], of] = True
    return positive


def _groups(left: np.ndarray, right: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows of both arrays (N, 2) and (M, 2) for every pair of values that occurs in both, each in its own order."""
    _, codes = np.unique(np.concatenate([left, right]), axis=0, return_inverse=True)
    parts = []
    for code in (codes.ravel()[: len(left)], codes.ravel()[len(left) :]):
        order = np.argsort(code, kind="stable")
        found, starts = np.unique(code[order], return_index=True)
        parts.append(dict(zip(found.tolist(), np.split(order, starts[1:]), strict=False)))
    return [(parts[0][code], parts[1][code]) for code in sorted(parts[0].keys() & parts[1].keys())]


# --- average precision: positive, counted bool (N, T) by falling score; number of segments -> (T,) -------------------


def _curve(positive: np.ndarray, counted: np.ndarray, segments: int) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision (N, T) after each detection; a dropped one repeats what was there before it."""
    hits, all_ = positive.cumsum(axis=0), counted.cumsum(axis=0)
    return hits / segments, np.divide(hits, all_, out=np.zeros(hits.shape), where=all_ > 0)


def _interpolated(positive: np.ndarray, counted: np.ndarray, segments: int) -> np.ndarray:
    recall, precision = _curve(positive, counted, segments)
    best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    return (np.diff(recall, axis=0, prepend=0) * best).sum(axis=0)


def _eleven_points(positive: np.ndarray, counted: np.ndarray, segments: int) -> np.ndarray:
    recall, precision = _curve(positive, counted, segments)
    points = np.arange(11)[:, None, None] / 10
    return np.where(recall >= points - RECALL_SLACK, precision, 0).max(axis=1, initial=0).mean(axis=0)


def _mean_precision(positive: np.ndarray, counted: np.ndarray, segments: int) -> np.ndarray:
    return np.where(positive, _curve(positive, counted, segments)[1], 0).sum(axis=0) / segments


# --- the stage -------------------------------------------------------------------------------------------------------


def score_proposals(
    sequences: Store,
    proposals: Store,
    params: TemporalScoreParams,
    *,
    conditions: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Score the proposals of a split.

    Args:
        sequences: ``Store(stage="sequences")`` with the segments, see ``camflow.temporal.data``.
        proposals: ``Store(stage="proposals")``, see ``camflow.temporal.cam``.
        params: protocol, thresholds, classes.
        conditions: further facts to keep with the score (dataset, split ...).

    Returns:
        ``map`` (mean over the thresholds), ``map_at`` (threshold -> value), ``per_class``, ``conditions`` with the
        protocol and the videos that were left out.

    Raises:
        DataError: other classes, no segment to find, or a class that is asked for has none.
        StoreError: a video has no proposals entry.
    """
    names = sequences.class_names
    if proposals.class_names != names:
        raise DataError(f"{proposals.path}: proposals of other classes than {sequences.path}; localise again")
    truth, ambiguous, detections = [np.zeros((0, 4))], [np.zeros((0, 3))], [np.zeros((0, 5))]
    for number, video in enumerate(sequences.ids):
        attrs, found = sequences.attrs(video), proposals.read(video)
        for rows, values in ((truth, attrs["segments"]), (ambiguous, attrs["ambiguous"]), (detections, found)):
            rows.append(np.insert(np.asarray(values, np.float64), 0, number, axis=1))
    scores = detection_scores(
        np.concatenate(truth),
        np.concatenate(detections),
        n_classes=len(names),
        thresholds=params.tiou,
        protocol=params.protocol,
        ambiguous=np.concatenate(ambiguous),
    )
    chosen = _chosen(params, names, scores.segments, sequences)
    means = scores.mean(chosen)
    keys = [f"{level:g}" for level in params.tiou]
    return {
        "format": FORMAT,
        "kind": "temporal",
        "map": float(means.mean()),
        "map_at": dict(zip(keys, means.tolist(), strict=True)),
        "per_class": {
            names[c]: {
                "average_precision": dict(zip(keys, scores.average_precision[c].tolist(), strict=True)),
                "n_segments": int(scores.segments[c]),
            }
            for c in chosen
        },
        "conditions": {
            **(conditions or {}),
            "protocol": params.protocol,
            "n_videos": len(sequences),
            "n_proposals": sum(len(rows) for rows in detections),
            "excluded": sequences.meta.get("excluded", []),
            "class_names": [names[c] for c in chosen],
        },
    }


def _chosen(params: TemporalScoreParams, names: Sequence[str], segments: np.ndarray, sequences: Store) -> list[int]:
    if params.classes is None:
        chosen = np.flatnonzero(segments).tolist()
        if not chosen:
            raise DataError(f"{sequences.path}: no video has a segment, so nothing can be scored; use another split")
        return chosen
    unknown = [name for name in params.classes if name not in names]
    if unknown:
        raise ConfigError(f"classes: unknown '{unknown[0]}'{did_you_mean(unknown[0], names)}")
    chosen = [names.index(name) for name in params.classes]
    without = [names[c] for c in chosen if not segments[c]]
    if without:
        raise DataError(f"{sequences.path}: class '{without[0]}' has no segment; take it out of `classes`")
    return chosen
