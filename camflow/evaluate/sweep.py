"""Confusion matrices at every background threshold from one pass over the data.

A seed at threshold t is the arg-max of [t, map_1 .. map_K]. The winner among the classes does not depend on t; whether
it beats the background depends only on how its score s compares with t. So one joint histogram

    count[truth, winner, n],     n = number of thresholds below s

holds every threshold's confusion matrix exactly: at the j-th threshold a pixel is foreground if and only if t_j < s,
that is j < n. The usual loop over thresholds reads all maps once per threshold for the same result.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from camflow.errors import ConfigError
from camflow.evaluate.confusion import IGNORE, check_labels, check_shape


def threshold_grid(start: float, stop: float, step: float) -> list[float]:
    """Thresholds start, start + step, .. up to and with stop, rounded to 10 digits so that .15 + 2*.01 is .17."""
    if step <= 0 or stop < start:
        raise ConfigError(f"thresholds: cannot go from {start} to {stop} in steps of {step}")
    count = int(np.floor((stop - start) / step + 1e-6)) + 1
    return [round(start + i * step, 10) for i in range(count)]


class SeedSweep:
    """Accumulates seeds of many images; ``result`` gives the confusion matrix at each threshold.

    Comparisons happen in the dtype of the maps, as when numpy stacks a constant channel on them: a float32 score of
    .15f does not beat the threshold .15 although .15f > .15. Ties go to the background, then to the earlier class.

    Args:
        n_classes: number of labels, background included.
        thresholds: background scores, ascending.
        ignore: truth label that is not counted.
    """

    def __init__(self, n_classes: int, thresholds: Sequence[float], *, ignore: int = IGNORE):
        self.thresholds = np.asarray(thresholds, np.float64)
        if self.thresholds.ndim != 1 or not self.thresholds.size or (np.diff(self.thresholds) < 0).any():
            raise ConfigError(f"thresholds: need at least one, in ascending order, not {list(thresholds)}")
        self.n_classes, self.ignore = n_classes, ignore
        self.counts = np.zeros((n_classes, n_classes, self.thresholds.size + 1), np.int64)

    def update(self, maps: np.ndarray, classes: np.ndarray, truth: np.ndarray, image_id: str = "") -> None:
        """Add one image.

        Args:
            maps: floating point (K, H, W), K may be 0.
            classes: (K,) 0-based class indices.
            truth: label map (H, W).
            image_id: for messages.

        Raises:
            DataError: shapes differ or a label is out of range; names the image.
        """
        check_shape(truth, maps.shape[1:], image_id)
        if len(classes):
            winner = np.asarray(classes, np.intp)[maps.argmax(axis=0)] + 1
            # Casting keeps the order, so ascending stays ascending and "number below s" keeps its meaning.
            bins = np.searchsorted(self.thresholds.astype(maps.dtype), maps.max(axis=0).ravel(), side="left")
        else:
            winner = np.zeros(truth.shape, np.intp)
            bins = np.zeros(truth.size, np.intp)
        bins = bins[truth.ravel() != self.ignore]
        truth, winner = check_labels(truth, winner, self.n_classes, self.ignore, image_id)
        flat = (truth.astype(np.intp) * self.n_classes + winner) * self.counts.shape[2] + bins
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)

    def merge(self, other: SeedSweep) -> SeedSweep:
        """Add another sweep's counts, made with the same thresholds and classes, and return self."""
        same = self.n_classes == other.n_classes and np.array_equal(self.thresholds, other.thresholds)
        if not same or self.ignore != other.ignore:
            raise ValueError("only sweeps over the same classes and thresholds can be added")
        self.counts += other.counts
        return self

    def result(self) -> np.ndarray:
        """Confusion matrices (T, n, n) int64, [threshold, truth, prediction]."""
        # Foreground at threshold j: all bins n > j, the reversed cumulative sum; the rest of the row is background.
        foreground = self.counts[:, :, ::-1].cumsum(axis=2)[:, :, ::-1][:, :, 1:]
        confusion = np.moveaxis(foreground, 2, 0).copy()
        confusion[:, :, 0] = 0
        confusion[:, :, 0] = self.counts.sum(axis=(1, 2)) - confusion.sum(axis=2)
        return confusion
