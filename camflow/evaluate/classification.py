"""Scores of image-level classification: average precision (scikit-learn) and accuracies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import average_precision_score
from torch import nn

from camflow.errors import DataError

FORMAT = "camflow-score/1"


class Photos(Protocol):
    """What is read from a catalog."""

    ids: Sequence[str]
    sizes: np.ndarray

    def image(self, image_id: str) -> np.ndarray: ...


@torch.inference_mode()
def predict_scores(
    model: nn.Module,
    catalog: Photos,
    *,
    batch_size: int = 8,
    device: str | torch.device = "cpu",
    long_side: int | None = None,
    progress: Callable[[int], Any] | None = None,
) -> np.ndarray:
    """Logits (N, C) float32 of a classifier, rows in the order of ``catalog.ids``.

    Args:
        model: a ``Classifier``; moved to ``device`` and put into eval mode.
        catalog: the images.
        batch_size: photos of one size that run together on a GPU. On the CPU each runs by itself with one intra-op
            thread, because the last bits of a convolution depend on the batch size and the number of threads.
        device: where the network runs.
        long_side: resize photos (bicubic) so that their long side has this many pixels; None keeps their size.
        progress: called with the number of images done since its last call.
    """
    device = torch.device(device)
    model = model.to(device).eval()
    ids, sizes = list(catalog.ids), [_target(size, long_side) for size in catalog.sizes]
    order = sorted(range(len(ids)), key=lambda row: (sizes[row], row))
    logits = np.zeros((len(ids), model.head.weight.shape[0]), np.float32)
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        for rows in _lots(order, sizes, batch_size if device.type == "cuda" else 1):
            batch = np.stack([_input(catalog.image(ids[row]), sizes[row], model) for row in rows])
            logits[rows] = model(torch.from_numpy(batch).to(device)).float().cpu().numpy()
            if progress is not None:
                progress(len(rows))
    finally:
        torch.set_num_threads(threads)
    return logits


def _target(size: Sequence[int], long_side: int | None) -> tuple[int, int]:
    height, width = (int(n) for n in size)
    factor = 1 if long_side is None else long_side / max(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def _lots(order: Sequence[int], sizes: Sequence[tuple[int, int]], limit: int) -> list[list[int]]:
    lots: list[list[int]] = []
    for row in order:
        if lots and sizes[lots[-1][0]] == sizes[row] and len(lots[-1]) < limit:
            lots[-1].append(row)
        else:
            lots.append([row])
    return lots


def _input(photo: np.ndarray, size: tuple[int, int], model: nn.Module) -> np.ndarray:
    """float32 (3, h, w), normalised."""
    if photo.shape[:2] != size:
        photo = np.asarray(Image.fromarray(photo).resize(size[::-1], Image.Resampling.BICUBIC))
    normal = (photo / 255 - np.asarray(model.mean)) / np.asarray(model.std)
    return np.ascontiguousarray(normal.transpose(2, 0, 1), np.float32)


def score_classification(
    scores: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    threshold: float = 0.0,
    conditions: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Score image-level predictions.

    Args:
        scores: (N, C) logits, or probabilities.
        labels: (N, C) of 0/1.
        class_names: C names.
        threshold: a class is predicted when its score exceeds this: 0 for logits, .5 for probabilities.
        conditions: further facts to keep with the score (dataset, split ...).

    Returns:
        ``map`` (mean over the classes that occur of the average precision; null if none occurs), ``accuracy`` (share of
        right image-class decisions), ``exact_match`` (share of images with all decisions right), ``top1`` (share of
        images, among those with a class, whose highest score is a present class), ``per_class``.

    Raises:
        DataError: shapes differ, no image, or a score is not finite.
    """
    scores, labels = np.asarray(scores), np.asarray(labels).astype(bool)
    if scores.shape != labels.shape or labels.ndim != 2 or labels.shape[1] != len(class_names):
        raise DataError(f"scores {scores.shape}, labels {labels.shape} and {len(class_names)} class names do not fit")
    if not len(labels):
        raise DataError("no image to score; is the split empty?")
    if not np.isfinite(scores).all():
        raise DataError("the classifier's scores are not finite; its training has diverged")
    precision = [
        float(average_precision_score(labels[:, c], scores[:, c])) if labels[:, c].any() else None
        for c in range(labels.shape[1])
    ]
    known = [p for p in precision if p is not None]
    right = (scores > threshold) == labels
    some = labels.any(axis=1)
    top = labels[np.arange(len(labels)), scores.argmax(axis=1)]
    return {
        "format": FORMAT,
        "kind": "classification",
        "map": float(np.mean(known)) if known else None,
        "accuracy": float(right.mean()),
        "exact_match": float(right.all(axis=1).mean()),
        "top1": float(top[some].mean()) if some.any() else None,
        "per_class": {
            name: {
                "average_precision": precision[c],
                "accuracy": float(right[:, c].mean()),
                "n_images": int(labels[:, c].sum()),
            }
            for c, name in enumerate(class_names)
        },
        "conditions": {
            **(conditions or {}),
            "n_images": len(labels),
            "threshold": float(threshold),
            "class_names": list(class_names),
        },
    }


def evaluation_size(entry: Mapping[str, Any]) -> int | None:
    """Long side in pixels that a classifier's config entry is evaluated at: its own, or what it was trained at."""
    if entry.get("eval_size"):
        return int(entry["eval_size"])
    scale = entry.get("scale")
    return int(sum(scale)) // 2 if scale else entry.get("crop")
