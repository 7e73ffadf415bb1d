"""Pixel average precision (PxAP): the area under precision and recall of all pixels of a split.

Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020. The scores of true foreground
and of true background are counted into bins with the edges 0, step, .. below 1, and 1, 2, 3; from the top down the counts
give precision P and recall R at each edge, and PxAP is the sum of P_k (R_k - R_{k-1}). Pixels of the label 255 are left
out. Pixels are pooled over the images, so a large object weighs more than a small one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from camflow.data.catalog import Catalog
from camflow.errors import ConfigError, DataError
from camflow.evaluate.confusion import IGNORE
from camflow.evaluate.frames import Frame, MapParams, frame_mask, score_maps
from camflow.evaluate.scores import FORMAT, plain
from camflow.localize.maps import checked_seed
from camflow.store import Store


@dataclass(frozen=True)
class PxapParams:
    """How maps and masks are compared; WSOL's by default.

    Attributes:
        frame, size: see ``camflow.evaluate.frames.Frame``; masks are resized by nearest neighbour.
        resize, normalise: see ``camflow.evaluate.frames.MapParams``.
        interval: step of the score's bins, .001 or .01.
    """

    frame: str = "squash"
    size: int = 224
    resize: str = "bicubic"
    normalise: str = "minmax"
    interval: float = 0.001

    def __post_init__(self):
        _ = self.where, self.maps  # they check their own values
        if not 0 < self.interval <= 1:
            raise ConfigError(f"interval: should be above 0 and at most 1, not {self.interval}")

    @property
    def where(self) -> Frame:
        return Frame(self.frame, self.size)

    @property
    def maps(self) -> MapParams:
        return MapParams(self.resize, self.normalise)


def bin_edges(interval: float) -> np.ndarray:
    """Edges float64 (B + 1,): 0, interval, .. below 1, then 1, 2, 3."""
    return np.append(np.arange(0, 1, interval), [1.0, 2.0, 3.0])


class PxapHistogram:
    """Counts of scores, of true foreground and true background apart, that add up over images.

    Attributes:
        edges: float64 (B + 1,), see ``bin_edges``.
        counts: int64 (2, B), background and foreground.
    """

    def __init__(self, interval: float = 0.001):
        self.interval, self.edges = interval, bin_edges(interval)
        self.counts = np.zeros((2, len(self.edges) - 1), np.int64)

    def update(self, scores: np.ndarray, truth: np.ndarray, image_id: str = "") -> None:
        """Add one map.

        Args:
            scores: float (H, W) in [0, 1].
            truth: uint8 (H, W): 1 foreground, 0 background, 255 not counted.
            image_id: for messages.

        Raises:
            DataError: shapes differ, a score is out of range or NaN; names the image.
        """
        if scores.shape != truth.shape:
            raise DataError(f"image '{image_id}': its score map is {scores.shape} pixels, its mask {truth.shape}")
        if not ((scores >= 0) & (scores <= 1)).all():  # false for NaN
            raise DataError(f"image '{image_id}': its score map holds NaN or values outside 0..1; normalise it first")
        counted = truth != IGNORE
        values = np.asarray(scores[counted], np.float64)
        # The quotient may round across an edge; a look at the edges to both sides puts that right.
        found = np.minimum((values / self.interval).astype(np.int64), len(self.edges) - 3)
        found -= values < self.edges[found]
        found += values >= self.edges[found + 1]
        flat = (truth[counted] > 0) * self.counts.shape[1] + found
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)

    def merge(self, other: PxapHistogram) -> PxapHistogram:
        """Add another histogram's counts, made with the same interval, and return self."""
        if self.interval != other.interval:
            raise ValueError("only histograms over the same bins can be added")
        self.counts += other.counts
        return self

    def pxap(self) -> float:
        """PxAP in [0, 1]. Raises ``DataError`` when there is no foreground at all."""
        false, true = np.cumsum(self.counts[:, ::-1], axis=1)
        if not true[-1]:
            raise DataError("no pixel of the masks is foreground, so there is no recall; check masks and classes")
        precision = np.divide(true, true + false, out=np.zeros(len(true)), where=true + false > 0)
        return float((precision * np.diff(true / true[-1], prepend=0)).sum())


def score_pxap(
    maps_store: Store, catalog: Catalog, params: PxapParams, progress: Callable[[int], Any] | None = None
) -> dict[str, Any]:
    """PxAP of a split's seed maps against its masks: each present class's map, with that class as foreground.

    Args:
        maps_store: seed maps, at least of the catalog's images that have a mask.
        catalog: images, masks and class names.
        params: of the comparison.
        progress: called with 1 after every image.

    Returns:
        ``pxap`` over the maps of all classes, ``per_class`` with each class's own, ``conditions``.

    Raises:
        StoreError: an image is missing in the store.
        DataError: no image has a mask, or no mask a foreground; maps that are not finite or of another photo.
    """
    by_class = [PxapHistogram(params.interval) for _ in catalog.class_names]
    maps = np.zeros(len(by_class), np.int64)
    images = 0
    for image_id in catalog.ids:
        mask = catalog.mask(image_id)
        if progress is not None:
            progress(1)
        if mask is None:
            continue
        seed, labels = checked_seed(maps_store, image_id, mask.shape), frame_mask(mask, params.where)
        found = score_maps(seed, params.where, params.maps, image_id)
        for k, scores in zip(seed.classes.tolist(), found, strict=True):
            truth = np.where(labels == IGNORE, IGNORE, labels == k + 1).astype(np.uint8)
            by_class[k].update(scores, truth, image_id)
            maps[k] += 1
        images += 1
    if not images:
        raise DataError(
            f"split '{catalog.split}' of '{catalog.dataset}' has no masks to score against; "
            "score a split that has them, or add masks to the dataset"
        )
    total = PxapHistogram(params.interval)
    for histogram in by_class:
        total.merge(histogram)
    return plain(
        {
            "format": FORMAT,
            "kind": "pxap",
            "pxap": total.pxap(),
            "per_class": {
                name: {"pxap": histogram.pxap() if histogram.counts[1].any() else None, "n_maps": count}
                for name, histogram, count in zip(catalog.class_names, by_class, maps.tolist(), strict=True)
            },
            "conditions": {
                "dataset": catalog.dataset,
                "split": catalog.split,
                "n_images": images,
                "n_images_without_mask": len(catalog.ids) - images,
                "n_maps": int(maps.sum()),
                "n_pixels": int(total.counts.sum()),
                "ignore": IGNORE,
                **asdict(params),
                "class_names": list(catalog.class_names),
            },
        }
    )
