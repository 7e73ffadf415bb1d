"""Segmentation at test time from photos to a store of logits; ``camflow.segment.labels`` reads label maps off it.

The network runs once per photo. Its logits are kept on their own coarse grid: 21 labels of a 375x500 photo at stride 8
are 0.1 MB as float16, 16 MB at photo size as float32. CCT's logits have the size of the photo (8 MB as float16); kept by
their means over 4 x 4 pixels they are 0.5 MB. Whatever follows (arg-max, class filters, CRFs) starts from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.localize.extract import Photos
from camflow.refine.photos import write_photos
from camflow.segment.predict import TestParams, predict_photo
from camflow.store import StoreWriter

STAGE = "logits"


# --- bytes -----------------------------------------------------------------------------------------------------------


def _float16(logits: np.ndarray) -> np.ndarray:
    # Arg-max and softmax see differences of labels only, also after a bilinear resize. With the winner at 0, the
    # rounding is relative to a label's distance from the winner: close decisions are kept best.
    least = np.finfo(np.float16).min
    return np.maximum(logits - logits.max(axis=0, keepdims=True), least).astype(np.float16)


def _uint8(logits: np.ndarray) -> np.ndarray:
    shares = torch.from_numpy(logits).softmax(dim=0).numpy()
    return np.rint(shares * 255).astype(np.uint8)


QUANTISE: dict[str, Callable[[np.ndarray], np.ndarray]] = {"float16": _float16, "uint8": _uint8}


# --- photos -> logits ------------------------------------------------------------------------------------------------


def write_logits(
    model: nn.Module,
    catalog: Photos,
    params: TestParams,
    writer: StoreWriter,
    *,
    quantise: str = "float16",
    stride: int = 1,
    **options: Any,
) -> None:
    """Write the scores (n_labels, h, w) of every photo on the base grid, see ``predict_photo``, or on a coarser one.

    Args:
        model: in eval mode on the ``device`` of the options.
        catalog: the photos.
        params: the views.
        writer: an open ``StoreWriter(stage=STAGE)``.
        quantise: ``float16``: logits less the largest of their cell; ``uint8``: probabilities times 255, rounded.
        stride: keep the means over parts of about stride x stride cells of the base grid, ceil(h/stride) x
            ceil(w/stride) of them; 1 keeps every cell.
        options: ``device`` and ``progress`` of ``camflow.refine.photos.write_photos``.

    Raises:
        ConfigError: unknown ``quantise``, or a ``stride`` below 1.
        DataError: the network knows other classes, or its logits are not finite; names the image.
    """
    if quantise not in QUANTISE:
        raise ConfigError(f"quantise: unknown '{quantise}'{did_you_mean(quantise, QUANTISE)}")
    if stride < 1:
        raise ConfigError(f"logits_stride: needs at least one cell, not {stride}")
    check_labels(model, catalog.class_names)
    ids = iter(catalog.ids)  # photos come in this order

    def predict(photo: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        image_id, size = next(ids), photo.shape[:2]
        logits = predict_photo(model, photo, params)
        if not np.isfinite(logits).all():
            raise DataError(f"image '{image_id}': its logits are not finite; has the training of the network diverged?")
        attrs = {
            "size": np.array(size, np.int32),
            "canvas": np.array(params.canvas(size), np.int32),
            # Means stand for the middles of their parts, so their grid never ends at the photo's corners.
            "align_corners": np.bool_(params.align_corners and stride == 1),
        }
        return QUANTISE[quantise](_coarser(logits, stride)), attrs

    write_photos(predict, catalog, writer, **options)


def _coarser(logits: np.ndarray, stride: int) -> np.ndarray:
    if stride == 1:
        return logits
    size = [-(-n // stride) for n in logits.shape[1:]]
    return functional.adaptive_avg_pool2d(torch.from_numpy(logits)[None], size)[0].numpy()


def check_labels(model: nn.Module, class_names: Sequence[str]) -> None:
    """Raise ``DataError`` unless the network labels background and these classes, in this order."""
    wanted, known = list(class_names), list(getattr(model, "class_names", None) or [])
    if model.n_labels != len(wanted) + 1 or (known and known != wanted):
        raise DataError(
            f"the segmentation network knows {model.n_labels - 1} classes ({', '.join(known) or 'unnamed'}), the "
            f"dataset has {len(wanted)} ({', '.join(wanted)}); use a network trained on this dataset"
        )
