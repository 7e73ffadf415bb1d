"""From stored logits to label maps: arg-max, class filters, dense CRF. No network runs here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.localize.extract import Photos, numerics
from camflow.models.vgg16_psa import MEAN_BGR
from camflow.refine.crf import CLIP, CrfParams, dense_crf, unary_from_probabilities
from camflow.refine.driver import IGNORE, ordered_map, photo_of
from camflow.segment.predict import resized
from camflow.store import Store, StoreWriter

SHARE = 1e-3  # a label that is nowhere this probable is left out of the CRF


# --- stored logits ---------------------------------------------------------------------------------------------------


def dequantise(array: np.ndarray) -> np.ndarray:
    """Logits (n_labels, h, w) float32 of a stored array, up to a constant per cell.

    A probability that uint8 rounded to 0 becomes the least one that the CRF tells apart, 1e-5.
    """
    if array.dtype == np.uint8:
        return np.log(np.maximum(array / np.float32(255), np.float32(CLIP)))
    return array.astype(np.float32)


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


def upsample(
    logits: np.ndarray, size: Sequence[int], *, canvas: Sequence[int] | None = None, align_corners: bool = False
) -> np.ndarray:
    """Resize scores (n_labels, h, w) bilinearly to (n_labels, H, W) of the photo; keeps the dtype.

    Args:
        logits: float, as of ``predict_photo``.
        size: (H, W) of the photo.
        canvas: what the logits cover where that is more than the photo, ``TestParams.canvas``; the padding is cropped.
        align_corners: as in ``TestParams``.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(logits))[None]
    full = resized(tensor, [int(n) for n in (size if canvas is None else canvas)], align_corners)[0]
    return full[:, : int(size[0]), : int(size[1])].numpy()


# --- labels of one image ---------------------------------------------------------------------------------------------


def label_of(scores: np.ndarray, keep: np.ndarray | None = None) -> np.ndarray:
    """Arg-max (H, W) uint8 of scores (n_labels, H, W), in class ids; ties go to the lower id.

    Args:
        scores: logits, probabilities or their logarithms.
        keep: bool (n_labels,): labels that may win, such as those a classifier believes in (PSL's test-time filter).

    Raises:
        ConfigError: more labels than a uint8 map can name.
        ValueError: ``keep`` is not a bool (n_labels,), or keeps nothing.
    """
    kept = kept_labels(len(scores), keep)
    return kept[(scores if keep is None else scores[kept]).argmax(axis=0)]


def kept_labels(n_labels: int, keep: np.ndarray | None) -> np.ndarray:
    """Label ids (M,) uint8, ascending, that ``keep`` leaves; see ``label_of``."""
    if n_labels > IGNORE:
        raise ConfigError(f"label maps hold at most {IGNORE} labels, the network has {n_labels}")
    if keep is None:
        return np.arange(n_labels, dtype=np.uint8)
    keep = np.asarray(keep)
    if keep.dtype != bool or keep.shape != (n_labels,) or not keep.any():
        raise ValueError(f"keep is a bool ({n_labels},) with at least one True, not {keep.dtype} {keep.shape}")
    return np.flatnonzero(keep).astype(np.uint8)


def kept_channels(confidence: np.ndarray, threshold: float = 0.1) -> np.ndarray:
    """Which of background and classes may win, bool (C+1,), from a classifier's confidences (C,).

    Classes below ``threshold`` may not, the background always may (Wei et al., CVPR 2017, at test time).
    """
    return np.concatenate([[True], np.asarray(confidence) >= threshold])


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
