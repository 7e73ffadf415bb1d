"""Segmentation at test time from stores to stores: logits of photos, and the label maps that are read off them.

The network runs once per photo. Its logits are kept on their own coarse grid: 21 labels of a 375x500 photo at stride 8
are 0.1 MB as float16, 16 MB at photo size as float32. Whatever follows (arg-max, class filters, CRFs) starts from there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.localize.extract import Photos, numerics
from camflow.models.vgg16_psa import MEAN_BGR
from camflow.refine.crf import CLIP, CrfParams, dense_crf, unary_from_probabilities
from camflow.refine.driver import IGNORE, ordered_map, photo_of
from camflow.refine.photos import write_photos
from camflow.segment.predict import TestParams, kept_labels, label_of, predict_photo, upsample
from camflow.store import Store, StoreWriter

STAGE = "logits"
SHARE = 1e-3  # a label that is nowhere this probable is left out of the CRF


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


def dequantise(array: np.ndarray) -> np.ndarray:
    """Logits (n_labels, h, w) float32 of a stored array, up to a constant per cell.

    A probability that uint8 rounded to 0 becomes the least one that the CRF tells apart, 1e-5.
    """
    if array.dtype == np.uint8:
        return np.log(np.maximum(array / np.float32(255), np.float32(CLIP)))
    return array.astype(np.float32)


# --- photos -> logits ------------------------------------------------------------------------------------------------


def write_logits(
    model: nn.Module,
    catalog: Photos,
    params: TestParams,
    writer: StoreWriter,
    *,
    quantise: str = "float16",
    **options: Any,
) -> None:
    """Write the scores (n_labels, h, w) of every photo on the base grid, see ``predict_photo``.

    Args:
        model: in eval mode on the ``device`` of the options.
        catalog: the photos.
        params: the views.
        writer: an open ``StoreWriter(stage=STAGE)``.
        quantise: ``float16``: logits less the largest of their cell; ``uint8``: probabilities times 255, rounded.
        options: ``device`` and ``progress`` of ``camflow.refine.photos.write_photos``.

    Raises:
        ConfigError: unknown ``quantise``.
        DataError: the network knows other classes, or its logits are not finite; names the image.
    """
    if quantise not in QUANTISE:
        raise ConfigError(f"quantise: unknown '{quantise}'{did_you_mean(quantise, QUANTISE)}")
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
            "align_corners": np.bool_(params.align_corners),
        }
        return QUANTISE[quantise](logits), attrs

    write_photos(predict, catalog, writer, **options)


def check_labels(model: nn.Module, class_names: Sequence[str]) -> None:
    """Raise ``DataError`` unless the network labels background and these classes, in this order."""
    wanted, known = list(class_names), list(getattr(model, "class_names", None) or [])
    if model.n_labels != len(wanted) + 1 or (known and known != wanted):
        raise DataError(
            f"the segmentation network knows {model.n_labels - 1} classes ({', '.join(known) or 'unnamed'}), the "
            f"dataset has {len(wanted)} ({', '.join(wanted)}); use a network trained on this dataset"
        )


def read_logits(store: Store, image_id: str, size: Sequence[int]) -> np.ndarray:
    """Logits (n_labels, H, W) float32 at the ``size`` of the photo, up to a constant per pixel.

    Raises:
        StoreError: the store does not have the image.
        DataError: they were made from a photo of another size.
    """
    attrs = store.attrs(image_id)
    made, wanted = (tuple(int(n) for n in pair) for pair in (attrs["size"], size))
    if made != wanted:
        raise DataError(
            f"image '{image_id}': its logits are for {made[0]}x{made[1]} pixels, the photo has "
            f"{wanted[0]}x{wanted[1]}; make the logits again"
        )
    logits = dequantise(store.read(image_id))
    return upsample(logits, made, canvas=attrs["canvas"], align_corners=bool(attrs["align_corners"]))


# --- logits -> labels ------------------------------------------------------------------------------------------------


def label_logits(
    store: Store,
    catalog: Photos,
    writer: StoreWriter,
    *,
    keep: Mapping[str, np.ndarray] | None = None,
    jobs: int = 1,
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Write the arg-max of every image, uint8 (H, W) in class ids.

    Args:
        store: logits, at least of the catalog's images.
        catalog: the images, in the order of whose ids is written.
        writer: an open ``StoreWriter(stage="masks")``.
        keep: per image a bool (n_labels,), the labels that may win; None: all.
        jobs: worker processes. They are spawned, so a calling script needs ``if __name__ == "__main__":``.
        progress: called with the number of images done since its last call.

    Raises:
        StoreError: an image is missing in the store.
        DataError: logits and photo differ in size, or ``keep`` lacks an image; names the image.
    """
    _write_labels(_arg_max, store, catalog, keep, writer, jobs, progress)


def crf_logits(
    store: Store,
    catalog: Photos,
    params: CrfParams,
    writer: StoreWriter,
    *,
    image: str = "rgb_raw",
    share: float = SHARE,
    keep: Mapping[str, np.ndarray] | None = None,
    jobs: int = 1,
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Write the label map of every image after a dense CRF, uint8 (H, W) in class ids; see ``crf_label``.

    Args:
        params: kernels and iterations, of ``crf_params("deeplab_v2")`` or another set of probabilities.
        image: what the CRF sees, a name in ``CRF_IMAGES``.
        share: labels whose probability is nowhere as high are left out; 0 keeps all.
        store, catalog, writer, keep, jobs, progress: as of ``label_logits``.

    Raises:
        ConfigError: unknown ``image``, ``share`` out of range, or ``params`` of hard labels.
        StoreError, DataError: as of ``label_logits``.
    """
    if image not in CRF_IMAGES:
        raise ConfigError(f"crf: unknown image '{image}'{did_you_mean(image, CRF_IMAGES)}")
    if not 0 <= share < 1 / IGNORE:  # the likeliest label of a pixel has at least 1 / n_labels
        raise ConfigError(f"crf: share lies from 0 to below 1/{IGNORE}, not {share}; else no label may be left")
    if params.unary != "probabilities":
        raise ConfigError(f"crf: after a segmentation network give unary: probabilities, not {params.unary}")
    label = functools.partial(crf_label, params=params, image=image, share=share)
    _write_labels(label, store, catalog, keep, writer, jobs, progress)


def crf_label(
    photo: Callable[[], np.ndarray],
    logits: np.ndarray,
    params: CrfParams,
    *,
    image: str = "rgb_raw",
    share: float = SHARE,
    keep: np.ndarray | None = None,
) -> np.ndarray:
    """Arg-max (H, W) uint8, in class ids, of a dense CRF whose unary is the softmax of the logits.

    Most of 21 classes are improbable everywhere, and the time of the CRF grows with the number of labels. Leaving them
    out is not exact, but what they could gain is bounded by their probability.

    Args:
        photo: gives the uint8 RGB photo (H, W, 3); not called when only one label is left.
        logits: float (n_labels, H, W) at photo size.
        params: kernels and iterations; its ``alpha`` belongs to seeds and has no meaning here.
        image, share: as of ``crf_logits``.
        keep: bool (n_labels,), the labels that may win; the softmax runs over them.
    """
    kept = kept_labels(len(logits), keep)
    probabilities = torch.from_numpy(logits if keep is None else logits[kept]).softmax(dim=0).numpy()
    probable = probabilities.max(axis=(1, 2)) >= share
    kept, probabilities = kept[probable], probabilities[probable]
    if len(kept) == 1:
        return np.full(probabilities.shape[1:], kept[0])
    marginals = dense_crf(CRF_IMAGES[image](photo()), unary_from_probabilities(probabilities), params)
    return kept[marginals.argmax(axis=0)]


def wrapped_image(photo: np.ndarray) -> np.ndarray:
    """What the CRF of the PyTorch DeepLab-v2 sees of a photo, uint8 BGR (H, W, 3).

    The published script casts BGR less its mean to uint8. On x86 that drops the fraction and wraps modulo 256, so dark
    pixels turn bright and neighbouring grey levels end up far apart; on ARM the cast saturates instead. This is the x86
    result on every machine.
    """
    return np.mod(np.trunc(photo[..., ::-1] - np.array(MEAN_BGR)), 256).astype(np.uint8)


# What the CRF sees: the photo as it is, or what published weakly-supervised results were computed with.
CRF_IMAGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rgb_raw": lambda photo: photo,
    "legacy_wrap": wrapped_image,
}


# --- processes -------------------------------------------------------------------------------------------------------


def _write_labels(
    label: Callable[..., np.ndarray],
    store: Store,
    catalog: Photos,
    keep: Mapping[str, np.ndarray] | None,
    writer: StoreWriter,
    jobs: int,
    progress: Callable[[int], Any] | None,
) -> None:
    task = functools.partial(_labelled, label, store, catalog, keep)
    with numerics(torch.device("cpu"), "float32"):
        for image_id, labels in ordered_map(task, list(zip(catalog.ids, catalog.sizes, strict=True)), jobs):
            writer.write(image_id, labels)
            if progress is not None:
                progress(1)


def _labelled(
    label: Callable[..., np.ndarray],
    store: Store,
    catalog: Photos,
    keep: Mapping[str, np.ndarray] | None,
    item: tuple[str, np.ndarray],
) -> tuple[str, np.ndarray]:
    image_id, (height, width) = item[0], item[1].tolist()
    if keep is not None and image_id not in keep:
        raise DataError(f"image '{image_id}': has no entry in the class filter; make the filter of all images")
    logits = read_logits(store, image_id, (height, width))
    photo = functools.partial(photo_of, catalog, image_id, (height, width))
    return image_id, label(photo, logits, keep=None if keep is None else keep[image_id])


def _arg_max(photo: Callable[[], np.ndarray], logits: np.ndarray, keep: np.ndarray | None) -> np.ndarray:
    return label_of(logits, keep)
