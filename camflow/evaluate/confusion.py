"""Counting pixels, and the numbers that the field makes of the counts.

Counting and reduction are apart: a confusion matrix is an integer (C+1, C+1) array ``[truth, prediction]`` that adds
up over images, shards and processes; every score is a function of it. Below, for class c, TP = [c, c], G = row sum
(truth), P = column sum (prediction), and the union is G + P - TP.
"""

from __future__ import annotations

import numpy as np

from camflow.errors import DataError

IGNORE = 255
MIOU_RULES = ("present", "truth", "seam")


def confusion_matrix(
    truth: np.ndarray, prediction: np.ndarray, n_classes: int, *, ignore: int = IGNORE, image_id: str = ""
) -> np.ndarray:
    """Count pixels: int64 (n, n) with n = ``n_classes`` labels, background included; rows truth, columns prediction.

    Pixels whose truth is ``ignore`` are not counted.

    Raises:
        DataError: shapes differ, or a label is neither below ``n_classes`` nor ``ignore``; names the image.
    """
    truth, prediction = check_labels(truth, prediction, n_classes, ignore, image_id)
    pairs = truth.astype(np.intp) * n_classes + prediction
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes).astype(np.int64, copy=False)


def check_labels(
    truth: np.ndarray, prediction: np.ndarray, n_classes: int, ignore: int, image_id: str
) -> tuple[np.ndarray, np.ndarray]:
    """The valid pixels of both label maps, flat; see ``confusion_matrix`` for the errors."""
    check_shape(truth, prediction.shape, image_id)
    valid = truth != ignore
    truth, prediction = truth[valid], prediction[valid]
    for name, labels in (("mask", truth), ("prediction", prediction)):
        if labels.size and (int(labels.max()) >= n_classes or int(labels.min()) < 0):
            wrong = int(labels.max()) if int(labels.max()) >= n_classes else int(labels.min())
            raise DataError(
                f"image '{image_id}': its {name} has label {wrong}, but labels go from 0 to {n_classes - 1} "
                f"({ignore} in a mask is ignored); mend the {name} or the class list"
            )
    return truth, prediction


def check_shape(truth: np.ndarray, shape: tuple[int, ...], image_id: str) -> None:
    """Raise ``DataError`` unless the mask has the given shape."""
    if truth.shape != tuple(shape):
        raise DataError(f"image '{image_id}': its mask is {truth.shape} pixels, the result is {tuple(shape)}")


# --- reductions ------------------------------------------------------------------------------------------------------


def _parts(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """TP, G, P over the last two axes, float64."""
    confusion = np.asarray(confusion)
    hit = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    return hit, confusion.sum(axis=-1).astype(np.float64), confusion.sum(axis=-2).astype(np.float64)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient, NaN where the denominator is 0."""
    out = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    return np.divide(numerator, denominator, out=out, where=np.asarray(denominator) > 0)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without the NaNs; NaN (silently) when there is nothing else."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1))


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """TP / union per class (..., n); NaN for a class in neither truth nor prediction."""
    hit, truth, predicted = _parts(confusion)
    return _ratio(hit, truth + predicted - hit)


def miou(confusion: np.ndarray, rule: str = "present") -> np.ndarray:
    """Mean IoU of (..., n, n) confusion matrices, in [0, 1], by one of the published rules.

    ``present``: classes that occur in truth or prediction (IRN, AdvCAM: nan-mean).
    ``truth``: classes that occur in the truth (the PyTorch DeepLab): a false class costs others, not itself.
    ``seam``: all classes, with 1e-10 added to the denominators (SEAM): an absent class counts as 0, so scores of sets
    that lack classes are much lower.
    All three agree when every class occurs.
    """
    if rule == "seam":
        return seam_iou(confusion).mean(axis=-1)
    iou = class_iou(confusion)
    if rule == "present":
        return _mean(iou)
    if rule == "truth":
        return _mean(np.where(_parts(confusion)[1] > 0, iou, np.nan))
    raise ValueError(f"unknown rule '{rule}'; one of {', '.join(MIOU_RULES)}")


def seam_iou(confusion: np.ndarray) -> np.ndarray:
    """SEAM's IoU per class, TP / (union + 1e-10); multiply by 100 for its per cent."""
    hit, truth, predicted = _parts(confusion)
    return hit / (truth + predicted - hit + 1e-10)


def pixel_accuracy(confusion: np.ndarray) -> float:
    """Share of pixels that are right."""
    hit, truth, _ = _parts(confusion)
    return float(_ratio(hit.sum(axis=-1), truth.sum(axis=-1)))


def mean_accuracy(confusion: np.ndarray) -> float:
    """Recall TP / G, averaged over the classes that occur in the truth."""
    hit, truth, _ = _parts(confusion)
    return float(_mean(_ratio(hit, truth)))


def frequency_weighted_iou(confusion: np.ndarray) -> float:
    """IoU weighted by each class's share of the true pixels."""
    _, truth, _ = _parts(confusion)
    weighted = np.where(truth > 0, class_iou(confusion) * truth, 0).sum()
    return float(_ratio(weighted, truth.sum()))


def class_scores(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Scores per class (n,), NaN where undefined.

    ``iou`` TP/union, ``precision`` TP/P, ``recall`` TP/G,
    ``fp_rate`` (P-TP)/union = 1 - G/union and ``fn_rate`` (G-TP)/union = 1 - P/union (the "FP" and "FN" of IRN, SEAM
    and LPCAM tables: relative to the union, so that iou + fp_rate + fn_rate = 1; relative to G or P they would be
    1 - recall and 1 - precision, which stand above).
    """
    hit, truth, predicted = _parts(confusion)
    union = truth + predicted - hit
    return {
        "iou": _ratio(hit, union),
        "precision": _ratio(hit, predicted),
        "recall": _ratio(hit, truth),
        "fp_rate": _ratio(predicted - hit, union),
        "fn_rate": _ratio(truth - hit, union),
    }


def summary(confusion: np.ndarray, rule: str = "present") -> dict[str, float]:
    """The scalar scores of one confusion matrix; NaN where undefined.

    ``precision`` and ``recall`` are means over all classes, ``fp_rate`` and ``fn_rate`` over the foreground classes
    (the habit of IRN's evaluation, whose mIoU does include the background).
    """
    per_class = class_scores(confusion)
    return {
        "miou": float(miou(confusion, rule)),
        "miou_foreground": float(_mean(per_class["iou"][1:])),
        "pixel_accuracy": pixel_accuracy(confusion),
        "mean_accuracy": mean_accuracy(confusion),
        "frequency_weighted_iou": frequency_weighted_iou(confusion),
        "precision": float(_mean(per_class["precision"])),
        "recall": float(_mean(per_class["recall"])),
        "fp_rate": float(_mean(per_class["fp_rate"][1:])),
        "fn_rate": float(_mean(per_class["fn_rate"][1:])),
        "noise_ratio": float(noise_ratio(confusion)),
        "object_precision": float(object_precision(confusion)),
        "object_recall": float(object_recall(confusion)),
    }


# --- foreground against background -----------------------------------------------------------------------------------


def noise_ratio(confusion: np.ndarray) -> np.ndarray:
    """Share of the predicted foreground whose truth is background (AdvCAM fig. 6b); mixing up classes is not noise."""
    confusion = np.asarray(confusion)
    return _ratio(confusion[..., 0, 1:].sum(axis=-1), confusion[..., 1:].sum(axis=(-2, -1)))


def object_precision(confusion: np.ndarray) -> np.ndarray:
    """Share of the predicted foreground that is an object of that very class."""
    hit, _, predicted = _parts(confusion)
    return _ratio(hit[..., 1:].sum(axis=-1), predicted[..., 1:].sum(axis=-1))


def object_recall(confusion: np.ndarray) -> np.ndarray:
    """Share of the true foreground that is found with the right class."""
    hit, truth, _ = _parts(confusion)
    return _ratio(hit[..., 1:].sum(axis=-1), truth[..., 1:].sum(axis=-1))
