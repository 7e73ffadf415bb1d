"""Localisation scores from curves of best IoU: every metric and threshold is a reduction, no map is read again.

``box_curves_of`` makes one entry an image: for each class that is present and has a box, the curves of V1 and V2
(``camflow.evaluate.box_curves``), the largest level of its map, and the boxes of the fixed-fraction rule
(``camflow.evaluate.cam_boxes``). ``score_curves`` makes of them, as fractions in [0, 1]:

BoxAcc(t, d)     share of pairs (image, class) whose curve at threshold t is at least d (Choe et al., CVPR 2020, eq. 1);
MaxBoxAcc(d)     its maximum over t: a bound, since t is chosen on the scored split, as its authors mean it to be;
MaxBoxAccV2      the mean over d = .3, .5, .7 of MaxBoxAcc(d) of V2 (journal version);
GT-known Loc     share of pairs that hit at d = .5, at the best or at a fixed threshold;
Top-k Loc        share of images that have a hit by a class which is both present and among the k highest scores. With one
                 label an image that is the published "class among the k best, and its box hits"; with several, one is
                 enough.

The class of a map is the true one throughout: for Top-k Loc a predicted class counts only if it is true, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from camflow.data.catalog import Catalog
from camflow.errors import ConfigError, DataError, StoreError
from camflow.evaluate.box_curves import LEVELS, box_curves, levels_of, quantise
from camflow.evaluate.cam_boxes import HIT, best_ious, cam_boxes
from camflow.evaluate.frames import Frame, MapParams, frame_boxes, score_maps
from camflow.evaluate.scores import FORMAT, plain
from camflow.localize.maps import checked_seed
from camflow.store import Store, StoreWriter

V1, V2 = 0, 1  # rows of an image's curves
RULES = ("v1", "v2")


@dataclass(frozen=True)
class CurveParams:
    """What decides the curves. The defaults are WSOL's.

    Attributes:
        frame, size, clip: see ``camflow.evaluate.frames.Frame``.
        resize, normalise: see ``camflow.evaluate.frames.MapParams``.
        connectivity: 8 or 4, of V2's foreground and of the fixed-fraction rule's components. V1 goes by OpenCV's
            contours, which are 8-connected.
        inclusive: WSOL's convention of boxes and areas, or half-open boxes; see ``camflow.evaluate.box_curves``.
        fractions: of the maximum, at which the fixed-fraction rule makes a box. It has its own frame, the photo's pixels.
    """

    frame: str = "squash"
    size: int = 224
    clip: bool = False
    resize: str = "bicubic"
    normalise: str = "minmax"
    connectivity: int = 8
    inclusive: bool = True
    fractions: tuple[float, ...] = (0.2, 0.3)

    def __post_init__(self):
        _ = self.where, self.maps  # they check their own values
        if self.connectivity not in (4, 8):
            raise ConfigError(f"connectivity: should be 4 or 8, not {self.connectivity}")
        _check_fractions("fractions", self.fractions)

    @property
    def where(self) -> Frame:
        return Frame(self.frame, self.size, self.clip)

    @property
    def maps(self) -> MapParams:
        return MapParams(self.resize, self.normalise)


@dataclass(frozen=True)
class LocalizationParams:
    """What is made of the curves.

    Attributes:
        interval: step of the thresholds 0, step, .. below 1: .001 (WSOL's benchmark) or .01.
        iou_thresholds: d of MaxBoxAcc, and those whose mean is MaxBoxAccV2.
        fixed_fractions: thresholds at which GT-known and Top-k Loc are reported without any choice: of V1 (``contour``)
            and, where the curves' ``fractions`` have them, of the fixed-fraction rule (``component``).
        topk: k of Top-k Loc and of the classification's top-k.
    """

    interval: float = 0.001
    iou_thresholds: tuple[float, ...] = (0.3, 0.5, 0.7)
    fixed_fractions: tuple[float, ...] = (0.2, 0.3)
    topk: tuple[int, ...] = (1, 5)

    def __post_init__(self):
        if not 0 < self.interval <= 1:
            raise ConfigError(f"interval: should be above 0 and at most 1, not {self.interval}")
        if not self.iou_thresholds or not all(0 < d <= 1 for d in self.iou_thresholds):
            raise ConfigError(f"iou_thresholds: should be above 0 and at most 1, not {self.iou_thresholds}")
        if not all(k >= 1 for k in self.topk):
            raise ConfigError(f"topk: should be 1 or more, not {self.topk}")
        _check_fractions("fixed_fractions", self.fixed_fractions)


def _check_fractions(name: str, fractions: Sequence[float]) -> None:
    if not all(0 <= f < 1 for f in fractions):
        raise ConfigError(f"{name}: should be at least 0 and below 1, not {tuple(fractions)}")


@dataclass(frozen=True)
class Curves:
    """Curves of P pairs of an image and a class.

    Attributes:
        rows: (P,) int, row of the image among the N images that have a pair; every row has one.
        classes: (P,) int, 0-based.
        values: (P, 2, 256) float64, V1 and V2.
        peaks: (P,) int, largest level of the map.
        cam_ious: (F, P) float64, best IoU of the fixed-fraction boxes.
        fractions: (F,), theirs.
    """

    rows: np.ndarray
    classes: np.ndarray
    values: np.ndarray
    peaks: np.ndarray
    cam_ious: np.ndarray
    fractions: tuple[float, ...] = ()


# --- curves of a split -----------------------------------------------------------------------------------------------


def box_curves_of(
    catalog: Catalog,
    maps_store: Store,
    writer: StoreWriter,
    params: CurveParams,
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Write an entry for every image: float64 (K, 2, 256), V1 and V2 of each class that is present and has a box.

    Attributes of an entry: ``classes`` (K,), ``peaks`` (K,), ``cam_boxes`` (F, K, 4), half-open in the photo's pixels,
    and ``cam_ious`` (F, K). K may be 0. The parameters go into the store's ``meta["curves"]``.

    Args:
        catalog: images, labels and boxes.
        maps_store: seed maps of its images.
        writer: of the store to fill.
        params: of the curves.
        progress: called with 1 after every image.

    Raises:
        StoreError: an image is missing in the store.
        DataError: maps that are not finite or of another photo, or lack a class that is present; names the image.
    """
    writer.meta["curves"] = plain(asdict(params))
    for image_id in catalog.ids:
        size = catalog.size(image_id)
        seed, truth = checked_seed(maps_store, image_id, size), catalog.boxes(image_id)
        present = np.intersect1d(truth[:, 0], np.flatnonzero(catalog.label(image_id)))
        missing = np.setdiff1d(present, seed.classes)
        if len(missing):
            name = catalog.class_names[missing[0]]
            raise DataError(
                f"image '{image_id}': its seed maps lack the class '{name}', which it shows; make them again"
            )
        kept = np.isin(seed.classes, present)
        seed = replace(seed, classes=seed.classes[kept], maps=[maps[kept] for maps in seed.maps])
        of_class = [truth[truth[:, 0] == k, 1:] for k in seed.classes]

        levels = quantise(score_maps(seed, params.where, params.maps, image_id), image_id)
        options = {"connectivity": params.connectivity, "inclusive": params.inclusive}
        curves = [
            box_curves(q, frame_boxes(boxes, size, params.where), **options)
            for q, boxes in zip(levels, of_class, strict=True)
        ]
        fixed = cam_boxes(seed, params.fractions, params.connectivity, image_id)
        ious = [best_ious(fixed[:, k], boxes) for k, boxes in enumerate(of_class)]
        writer.write(
            image_id,
            np.array(curves, np.float64).reshape(-1, 2, LEVELS),
            classes=np.asarray(seed.classes, np.int32),
            peaks=levels.max(axis=(1, 2)).astype(np.int32),
            cam_boxes=fixed.astype(np.int32),
            cam_ious=np.array(ious, np.float64).reshape(len(ious), len(params.fractions)).T,
        )
        if progress is not None:
            progress(1)


def read_curves(store: Store, catalog: Catalog) -> tuple[Curves, list[str]]:
    """The curves of a catalog's images, and the ids of those that have any, in order: row i is the i-th.

    Raises:
        StoreError: an image is missing; the store is not one of curves, or of other classes.
        DataError: no image has a box of a class that it shows.
    """
    if "curves" not in store.meta:
        raise StoreError(store.path, "holds no curves of boxes; give the file that box_curves_of made")
    if list(store.class_names) != list(catalog.class_names):
        raise StoreError(store.path, "was made for other classes than the dataset's; make it again")
    found: list[tuple[np.ndarray, Mapping[str, Any]]] = []
    ids = []
    for image_id in catalog.ids:
        values = store.read(image_id)
        if len(values):
            found.append((values, store.attrs(image_id)))
            ids.append(image_id)
    if not found:
        raise DataError(
            f"split '{catalog.split}' of '{catalog.dataset}' has no boxes to score against; "
            "score a split that has them, or add boxes to the dataset"
        )
    counts = [len(values) for values, _ in found]
    curves = Curves(
        rows=np.repeat(np.arange(len(found)), counts),
        classes=np.concatenate([attrs["classes"] for _, attrs in found]),
        values=np.concatenate([values for values, _ in found]),
        peaks=np.concatenate([attrs["peaks"] for _, attrs in found]),
        cam_ious=np.concatenate([attrs["cam_ious"] for _, attrs in found], axis=1),
        fractions=tuple(store.meta["curves"]["fractions"]),
    )
    return curves, ids


# --- reductions ------------------------------------------------------------------------------------------------------


def thresholds_of(interval: float) -> np.ndarray:
    """Thresholds 0, interval, .. below 1, float64 (T,)."""
    return np.arange(0, 1, interval)


def box_accuracy(
    curves: np.ndarray, peaks: np.ndarray, thresholds: np.ndarray, iou_thresholds: Sequence[float]
) -> np.ndarray:
    """BoxAcc(t, d), float64 (D, T) in [0, 1]: the share of curves (P, 256) that are at least d at int(t * peak)."""
    total = np.zeros((len(iou_thresholds), len(thresholds)), np.int64)
    for peak in np.unique(peaks):  # nearly always 255 alone
        group, levels = curves[peaks == peak], levels_of(thresholds, peak)
        total += np.stack([(group >= d).sum(axis=0)[levels] for d in iou_thresholds])
    return total / len(curves)


def at_threshold(curves: np.ndarray, peaks: np.ndarray, threshold: float) -> np.ndarray:
    """Best IoU float64 (P,) of curves (P, 256) at one threshold."""
    return curves[np.arange(len(curves)), levels_of(np.array([threshold]), peaks)[:, 0]]


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Whether a class is among an image's k highest scores: bool (N, C). Of equal scores the earlier class is higher."""
    chosen = np.argsort(-np.asarray(scores, np.float64), axis=1, kind="stable")[:, :k]
    found = np.zeros(scores.shape, bool)
    np.put_along_axis(found, chosen, True, axis=1)
    return found


def top_k_localization(hits: np.ndarray, rows: np.ndarray, classes: np.ndarray, scores: np.ndarray, k: int) -> float:
    """Top-k Loc: the share of the N images with a pair that hits and whose class is among the k highest scores.

    Args:
        hits: (P,) bool.
        rows, classes: (P,), the pairs, as in ``Curves``.
        scores: (N, C), of the images that have a pair.
        k: how many of the highest.
    """
    image = np.zeros(len(scores), bool)
    image[rows[hits & top_k(scores, k)[rows, classes]]] = True
    return float(image.mean())


def localization_scores(
    curves: Curves,
    class_names: Sequence[str],
    params: LocalizationParams,
    *,
    scores: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    conditions: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """All scores of a split, ready for JSON.

    Args:
        curves: at least one pair.
        class_names: of the dataset.
        params: thresholds.
        scores: (N, C) of a classifier, for Top-k Loc and its own top-k; None leaves both out.
        labels: (N, C) of 0/1, of the same images.
        conditions: further facts to keep with the score (dataset, split, ...).

    Returns:
        ``maxboxacc`` (V1, d = .5), ``maxboxacc_v2``, ``gt_known_loc`` and ``top{k}_loc`` at ``threshold`` (V1's best on
        this very split), ``top{k}_cls``; ``fixed``, the same at fixed fractions; ``max_box_acc`` and ``best_threshold``
        by rule and d; ``per_class``, at those same thresholds; ``curve``; ``conditions``.

    Raises:
        DataError: no pair, or arrays that do not fit.
    """
    if not len(curves.values):
        raise DataError("there is no image with a box to score; score a split that has boxes")
    if scores is not None:
        _check_scores(curves, class_names, scores, labels)
    thresholds, ious = thresholds_of(params.interval), params.iou_thresholds
    accuracy = {
        rule: box_accuracy(curves.values[:, k], curves.peaks, thresholds, [*ious, HIT]) for k, rule in enumerate(RULES)
    }
    best = {rule: values.argmax(axis=1) for rule, values in accuracy.items()}  # the first of equals
    highest = {rule: values.max(axis=1) for rule, values in accuracy.items()}
    threshold = float(thresholds[best["v1"][-1]])
    hits = at_threshold(curves.values[:, V1], curves.peaks, threshold) >= HIT
    hits_v2 = [
        at_threshold(curves.values[:, V2], curves.peaks, thresholds[t]) >= d
        for d, t in zip(ious, best["v2"], strict=False)
    ]
    known = {} if scores is None or labels is None else {k: _top_k_cls(scores, labels, k) for k in params.topk}
    return plain(
        {
            "format": FORMAT,
            "kind": "localization",
            "maxboxacc": highest["v1"][-1],
            "maxboxacc_v2": highest["v2"][:-1].mean(),
            "threshold": threshold,
            "threshold_source": {"kind": "best on this split"},
            **_loc(hits, curves, scores, params.topk),
            **{f"top{k}_cls": value for k, value in known.items()},
            "fixed": {_text(f): _fixed(f, curves, scores, params.topk) for f in params.fixed_fractions},
            "max_box_acc": {rule: _by_iou(ious, highest[rule]) for rule in RULES},
            "best_threshold": {rule: _by_iou(ious, thresholds[best[rule]]) for rule in RULES},
            "per_class": {name: _of_class(curves.classes == k, hits, hits_v2) for k, name in enumerate(class_names)},
            "curve": {
                "threshold": thresholds,
                **{rule: _by_iou(ious, accuracy[rule]) for rule in RULES},
            },
            "conditions": {
                **(conditions or {}),
                "n_images": len(np.unique(curves.rows)),
                "n_maps": len(curves.values),
                **asdict(params),
                "hit_iou": HIT,
                "class_names": list(class_names),
            },
        }
    )


def _check_scores(curves: Curves, class_names: Sequence[str], scores: np.ndarray, labels: np.ndarray | None) -> None:
    expected = (int(curves.rows.max()) + 1, len(class_names))
    for name, array in (("scores", scores), ("labels", labels)):
        if array is not None and array.shape != expected:
            raise DataError(f"{name} of shape {array.shape} do not fit {expected[0]} images and {expected[1]} classes")
    if not np.isfinite(scores).all():
        raise DataError("the classifier's scores are not finite; its training has diverged")


def _top_k_cls(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of images with a present class among the k highest scores."""
    return float((top_k(scores, k) & labels.astype(bool)).any(axis=1).mean())


def _loc(hits: np.ndarray, curves: Curves, scores: np.ndarray | None, topk: Sequence[int]) -> dict[str, float]:
    found = {"gt_known_loc": float(hits.mean())}
    if scores is not None:
        for k in topk:
            found[f"top{k}_loc"] = top_k_localization(hits, curves.rows, curves.classes, scores, k)
    return found


def _fixed(fraction: float, curves: Curves, scores: np.ndarray | None, topk: Sequence[int]) -> dict[str, Any]:
    contour = at_threshold(curves.values[:, V1], curves.peaks, fraction) >= HIT
    found = {"contour": _loc(contour, curves, scores, topk)}
    if fraction in curves.fractions:
        component = curves.cam_ious[curves.fractions.index(fraction)] > HIT  # "more than 50 %"
        found["component"] = _loc(component, curves, scores, topk)
    return found


def _of_class(pairs: np.ndarray, hits: np.ndarray, hits_v2: Sequence[np.ndarray]) -> dict[str, Any]:
    """At the split's thresholds, so that the mean weighted by ``n_maps`` is the split's own score."""
    count = int(pairs.sum())
    v2 = float(np.mean([those[pairs].mean() for those in hits_v2])) if count else None
    return {"n_maps": count, "gt_known_loc": float(hits[pairs].mean()) if count else None, "maxboxacc_v2": v2}


def _by_iou(ious: Sequence[float], values: np.ndarray) -> dict[str, Any]:
    return {_text(d): value for d, value in zip(ious, values, strict=False)}


def _text(number: float) -> str:
    return f"{number:g}"


def score_curves(
    curves_store: Store, confidence_store: Store | None, catalog: Catalog, params: LocalizationParams
) -> dict[str, Any]:
    """Score the curves of a split; see ``localization_scores``.

    Args:
        curves_store: made by ``box_curves_of``, at least of the catalog's images.
        confidence_store: a classifier's scores, one float (C,) an image, at least of the images with a box; None: no
            Top-k Loc.
        catalog: the images.
        params: thresholds.

    Raises:
        StoreError: an image is missing in a store, or a store does not fit.
        DataError: no image has a box; scores of other classes.
    """
    curves, ids = read_curves(curves_store, catalog)
    conditions = {
        "dataset": catalog.dataset,
        "split": catalog.split,
        "n_images_without_box": len(catalog.ids) - len(ids),
        "curves": curves_store.meta["curves"],
    }
    scores = labels = None
    if confidence_store is not None:
        scores = np.stack([_confidence(confidence_store, image_id, len(catalog.class_names)) for image_id in ids])
        labels = np.stack([catalog.label(image_id) for image_id in ids])
    return localization_scores(curves, catalog.class_names, params, scores=scores, labels=labels, conditions=conditions)


def _confidence(store: Store, image_id: str, classes: int) -> np.ndarray:
    values = np.asarray(store.read(image_id))
    if values.shape != (classes,):
        raise DataError(f"image '{image_id}': its scores are {values.shape} but there are {classes} classes")
    return values
