"""Scores of seeds, masks and classifiers as plain dictionaries, ready for JSON.

Every score says under ``conditions`` what it was measured on and how, because small protocol choices move results by
more than methods do: grid, thresholds and where they came from, the rule of the mean, the number of images, the ignored
label, the classes. There are no times or paths in a score, so equal results are equal bytes.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.evaluate.confusion import (
    IGNORE,
    MIOU_RULES,
    class_scores,
    confusion_matrix,
    miou,
    noise_ratio,
    object_precision,
    object_recall,
    summary,
)
from camflow.evaluate.sweep import SeedSweep, threshold_grid
from camflow.localize.maps import checked_seed, full_size_maps
from camflow.store import Store

FORMAT = "camflow-score/1"


class Masks(Protocol):
    """What the scores read from a catalog."""

    class_names: Sequence[str]
    split: str
    dataset: str
    ids: Sequence[str]

    def mask(self, image_id: str) -> np.ndarray | None: ...


@dataclass(frozen=True)
class ScoreParams:
    """How segmentations are scored.

    Attributes:
        thresholds: of the sweep, ascending; a list, or a mapping {start, stop, step}. The published sweeps: AdvCAM
            .15 to .34, SEAM 0 to .59, in steps of .01.
        threshold: background score that ``miou`` is reported at (IRN .15, LPCAM .3); None takes it from another split's
            score, or else the best of this split, marked as such.
        miou: the rule of the mean, see ``camflow.evaluate.confusion.miou``.
        ignored_prediction: what a predicted 255 counts as: ``background`` (IRN scores its labels that way), ``error``.
    """

    thresholds: tuple[float, ...] = field(default_factory=lambda: tuple(threshold_grid(0, 0.99, 0.01)))
    threshold: float | None = None
    miou: str = "present"
    ignored_prediction: str = "background"

    def __post_init__(self):
        grid = self.thresholds
        values = threshold_grid(**grid) if isinstance(grid, Mapping) else [float(t) for t in grid]
        object.__setattr__(self, "thresholds", tuple(values))
        if not values or sorted(values) != values:
            raise ConfigError(f"thresholds: need at least one, in ascending order, not {values}")
        if self.miou not in MIOU_RULES:
            raise ConfigError(f"miou: unknown rule '{self.miou}'{did_you_mean(self.miou, MIOU_RULES)}")
        if self.ignored_prediction not in ("background", "error"):
            raise ConfigError(f"ignored_prediction: '{self.ignored_prediction}' is neither background nor error")


# --- seeds -----------------------------------------------------------------------------------------------------------


def score_seed(
    maps_store: Store,
    catalog: Masks,
    params: ScoreParams,
    *,
    jobs: int = 1,
    threshold_from: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Score seed maps against the masks of a catalog, on the full-size grid, at every threshold in one pass.

    Args:
        maps_store: seed maps, at least of the catalog's images that have a mask.
        catalog: images, masks and class names.
        params: thresholds and rules.
        jobs: worker processes (spawned: a calling script needs ``if __name__ == "__main__":``); the result does not
            depend on their number.
        threshold_from: the seed score of another split, whose best threshold is then applied here.

    Returns:
        ``miou`` and the other scalars at the reported threshold, ``threshold_source``, ``per_class`` at that threshold,
        ``best`` (tuned on this very split), ``curve`` over the thresholds, ``confusion``, ``conditions``.

    Raises:
        StoreError: an image is missing in the store.
        DataError: no image has a mask; a mask does not fit; names the image.
    """
    threshold, source = _threshold(params, threshold_from)
    edges = sorted({*params.thresholds, *([] if threshold is None else [threshold])})
    lots = [list(catalog.ids)[k :: max(1, jobs)] for k in range(max(1, jobs))]
    task = _SeedTask(maps_store, catalog, edges)
    sweep, images, skipped = task.run(lots[0]) if jobs <= 1 else _parallel(task, lots)
    _require_masks(images, catalog)

    confusions = sweep.result()
    on_grid = confusions[[edges.index(t) for t in params.thresholds]]
    curve = miou(on_grid, params.miou)
    best = first_best(curve)
    chosen = on_grid[best] if threshold is None else confusions[edges.index(threshold)]
    if threshold is None:
        threshold, source = params.thresholds[best], {"kind": "best on this split"}
    return plain(
        {
            "format": FORMAT,
            "kind": "seed",
            "threshold": threshold,
            "threshold_source": source,
            **summary(chosen, params.miou),
            "per_class": _by_name(class_scores(chosen), catalog.class_names),
            "best": {
                "threshold": params.thresholds[best],
                "note": "tuned on this split",
                **summary(on_grid[best], params.miou),
            },
            "curve": {
                "threshold": list(params.thresholds),
                "miou": curve,
                "noise_ratio": noise_ratio(on_grid),
                "object_precision": object_precision(on_grid),
                "object_recall": object_recall(on_grid),
            },
            "confusion": chosen,
            "conditions": {**_conditions(catalog, params, images, skipped), "grid": "full size of the photo"},
        }
    )


def _threshold(params: ScoreParams, other: Mapping[str, Any] | None) -> tuple[float | None, dict[str, Any]]:
    if params.threshold is not None:
        return float(params.threshold), {"kind": "fixed in the configuration"}
    if other is None:
        return None, {}
    try:
        source = {
            "kind": "best on another split",
            "split": other["conditions"]["split"],
            "dataset": other["conditions"]["dataset"],
            "miou_there": other["best"]["miou"],
        }
        return float(other["best"]["threshold"]), source
    except (KeyError, TypeError) as error:
        raise DataError(
            f"the score to take the threshold from has no {error}; it must be the score of a seed"
        ) from error


def first_best(curve: np.ndarray) -> int:
    """Position of the first maximum; 0 when no pixel was counted."""
    return int(np.nanargmax(curve)) if not np.isnan(curve).all() else 0


@dataclass(frozen=True)
class _SeedTask:
    store: Store
    catalog: Masks
    edges: list[float]

    def run(self, ids: Sequence[str]) -> tuple[SeedSweep, int, int]:
        """Sweep, number of images with a mask, number without."""
        sweep, skipped = SeedSweep(len(self.catalog.class_names) + 1, self.edges), 0
        for image_id in ids:
            truth = self.catalog.mask(image_id)
            if truth is None:
                skipped += 1
                continue
            seed = checked_seed(self.store, image_id, truth.shape)
            sweep.update(full_size_maps(seed), seed.classes, truth, image_id)
        return sweep, len(ids) - skipped, skipped


def _parallel(task: _SeedTask, lots: list[list[str]]) -> tuple[SeedSweep, int, int]:
    context = multiprocessing.get_context("spawn")  # forking a process that runs torch threads can hang
    with ProcessPoolExecutor(len(lots), mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        parts = list(pool.map(task.run, lots))
    sweep = parts[0][0]
    for other, _, _ in parts[1:]:
        sweep.merge(other)
    return sweep, sum(p[1] for p in parts), sum(p[2] for p in parts)


# --- masks -----------------------------------------------------------------------------------------------------------


def score_masks(
    masks_store: Store,
    catalog: Masks,
    params: ScoreParams,
    *,
    progress: Callable[[int], Any] | None = None,
) -> dict[str, Any]:
    """Score label maps (pseudo-masks or a network's predictions) against the masks of a catalog.

    Args:
        masks_store: uint8 label maps, at least of the catalog's images that have a mask.
        catalog: images, masks and class names.
        params: rules; the thresholds are not used.
        progress: called with 1 after every image.

    Returns:
        the scalars, ``per_class``, ``confusion`` and ``conditions``.

    Raises:
        StoreError: an image is missing in the store.
        DataError: no image has a mask; a label map does not fit; names the image.
    """
    count = len(catalog.class_names) + 1
    total, images, skipped, undecided = np.zeros((count, count), np.int64), 0, 0, 0
    for image_id in catalog.ids:
        truth = catalog.mask(image_id)
        if progress is not None:
            progress(1)
        if truth is None:
            skipped += 1
            continue
        prediction = masks_store.read(image_id)
        if params.ignored_prediction == "background":
            undecided += (
                int(((prediction == IGNORE) & (truth != IGNORE)).sum()) if prediction.shape == truth.shape else 0
            )
            prediction = np.where(prediction == IGNORE, 0, prediction)
        total += confusion_matrix(truth, prediction, count, image_id=image_id)
        images += 1
    _require_masks(images, catalog)
    conditions = _conditions(catalog, params, images, skipped)
    return plain(
        {
            "format": FORMAT,
            "kind": "masks",
            **summary(total, params.miou),
            "per_class": _by_name(class_scores(total), catalog.class_names),
            "confusion": total,
            "conditions": {
                **conditions,
                "ignored_prediction": params.ignored_prediction,
                "ignored_prediction_pixels": undecided,
            },
        }
    )


# --- shared ----------------------------------------------------------------------------------------------------------


def _require_masks(images: int, catalog: Masks) -> None:
    if not images:
        raise DataError(
            f"split '{catalog.split}' of '{catalog.dataset}' has no masks to score against; "
            "score a split that has them, or add masks to the dataset"
        )


def _conditions(catalog: Masks, params: ScoreParams, images: int, skipped: int) -> dict[str, Any]:
    return {
        "dataset": catalog.dataset,
        "split": catalog.split,
        "n_images": images,
        "n_images_without_mask": skipped,
        "ignore": IGNORE,
        "miou_rule": params.miou,
        "class_names": ["background", *catalog.class_names],
    }


def _by_name(scores: Mapping[str, np.ndarray], class_names: Sequence[str]) -> dict[str, dict[str, float]]:
    """{class: {score: value}}, background first."""
    names = ["background", *class_names]
    return {name: {key: float(values[k]) for key, values in scores.items()} for k, name in enumerate(names)}


def plain(value: Any) -> Any:
    """Turn arrays and numpy numbers into JSON values; NaN (undefined) becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
