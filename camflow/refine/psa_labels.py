"""Where AffinityNet learns from: Ahn and Kwak, CVPR 2018, section 3.2.1, as the released code runs.

Two CRFs see the same maps with a strong and with a weak background, (1 - max_c map_c)^alpha: under the strong one (low
alpha, "la") what is still foreground is sure foreground, under the weak one (high alpha, "ha") what is still background
is sure background. Their probabilities are stored at the photo's size, because training averages them over the 8x8
blocks of a random crop before it takes the arg-max.

Labels are LOCAL: 0 background, k the k-th present class of that image. Only equal or different matters to affinities.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from camflow.errors import ConfigError, DataError
from camflow.localize.maps import SeedMaps, full_size_maps
from camflow.refine.crf import CrfParams, background_score, crf_params, dense_crf_many, unary_from_probabilities
from camflow.refine.driver import IGNORE, Photos, photo_of, write_in_order
from camflow.store import Store, StoreWriter

STAGE = "affinity_labels"
EMPTY = 1e-5  # a block whose scores are all below this lies in the padding


@dataclass(frozen=True)
class ConfidentParams:
    """Parameters of the two CRFs.

    Attributes:
        alpha_low: exponent of the strong background.
        alpha_high: exponent of the weak background: 32 in PSA's released code, 24 in its paper and in SEAM.
        crf: kernels and iterations; its own alpha is not used.
    """

    alpha_low: float = 4.0
    alpha_high: float = 32.0
    crf: CrfParams = field(default_factory=lambda: crf_params("psa"))

    def __post_init__(self):
        if not 0 < self.alpha_low < self.alpha_high:
            raise ConfigError(
                f"affinity labels: 0 < alpha_low < alpha_high is needed, not {self.alpha_low} and {self.alpha_high}"
            )


def alpha_probabilities(
    photo: np.ndarray, maps: np.ndarray, alphas: tuple[float, ...], params: CrfParams
) -> list[np.ndarray]:
    """CRF marginals (K+1, H, W) float32, background first, of one image for several backgrounds.

    Args:
        photo: uint8 RGB (H, W, 3).
        maps: float (K, H, W), each class max-normalised to [0, 1); K >= 1.
        alphas: exponents of the background score.
        params: kernels and iterations, shared by all.
    """
    unaries = [
        unary_from_probabilities(np.concatenate([background_score(maps, alpha)[None], maps])) for alpha in alphas
    ]
    return dense_crf_many(photo, unaries, params)


def confident_scores(photo: Callable[[], np.ndarray], seed: SeedMaps, params: ConfidentParams) -> np.ndarray:
    """Probabilities of both CRFs, float16 (2, K+1, H, W): strong background first, then weak.

    ``photo`` gives the uint8 photo; it is not called for an image without a present class, which is all background.
    """
    if not len(seed.classes):
        return np.ones((2, 1, *seed.size), np.float16)
    alphas = (params.alpha_low, params.alpha_high)
    return np.stack(alpha_probabilities(photo(), full_size_maps(seed), alphas, params.crf)).astype(np.float16)


def write_confident_scores(
    maps_store: Store,
    catalog: Photos,
    params: ConfidentParams,
    writer: StoreWriter,
    **options: Any,
) -> None:
    """Write the scores of every image of a catalog, in the order of its ids.

    Args:
        maps_store: seed maps, at least of the catalog's images.
        catalog: the images.
        params: of the CRFs.
        writer: an open ``StoreWriter(stage=STAGE)``; receives (2 (K+1), H, W) float16 per image and ``classes``.
        options: ``jobs`` and ``progress`` of ``camflow.refine.driver.write_in_order``.

    Raises:
        StoreError: an image is missing in the store.
        DataError: maps and photo differ in size; names the image.
    """

    def write(image_id: str, classes: np.ndarray, scores: np.ndarray) -> None:
        writer.write(image_id, scores.reshape(-1, *scores.shape[2:]), classes=classes.astype(np.int32))

    write_in_order(functools.partial(_scores, catalog, params), maps_store, catalog, write, **options)


def _scores(catalog: Photos, params: ConfidentParams, image_id: str, seed: SeedMaps) -> tuple[np.ndarray, np.ndarray]:
    return seed.classes, confident_scores(lambda: photo_of(catalog, image_id, seed.size), seed, params)


def read_confident_scores(store: Store, image_id: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read float16 (2, K+1, H, W).

    Raises:
        StoreError: the store does not have the image.
        DataError: the scores were made from a photo of another size than ``size``.
    """
    flat = store.read(image_id)
    if size is not None and flat.shape[1:] != tuple(size):
        raise DataError(
            f"image '{image_id}': its affinity labels are for {flat.shape[1]}x{flat.shape[2]} pixels, "
            f"the photo has {size[0]}x{size[1]}; make the labels again"
        )
    return flat.reshape(2, -1, *flat.shape[1:])


# --- labels of a crop ------------------------------------------------------------------------------------------------


def block_mean(scores: np.ndarray, block: int = 8) -> np.ndarray:
    """Means over blocks: (..., H, W) -> (..., H/block, W/block) float64; H and W are multiples of ``block``."""
    *front, height, width = scores.shape
    if height % block or width % block:
        raise ValueError(f"{height}x{width} pixels are no whole blocks of {block}")
    cut = scores.reshape(*front, height // block, block, width // block, block)
    return cut.mean(axis=(-3, -1), dtype=np.float64)


def assemble_labels(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Local labels uint8 (h, w) of block scores (K+1, h, w) under the strong (``low``) and the weak background.

    The class where the strong background leaves one; 0 where even the weak one wins; 255 where the two disagree and in
    the padding, where every score is zero. Where the strong background leaves a class but the weak one does not, the
    last rule wins and the cell is background, as published.

    Raises ``ConfigError`` for more classes than a label map has labels.
    """
    if len(low) > IGNORE:
        raise ConfigError(f"affinity labels hold at most {IGNORE - 1} classes per image, not {len(low) - 1}")
    labels = low.argmax(axis=0).astype(np.uint8)
    labels[labels == 0] = IGNORE
    labels[high.argmax(axis=0) == 0] = 0
    labels[np.maximum(low, high).max(axis=0) < EMPTY] = IGNORE
    return labels


def crop_labels(scores: np.ndarray, block: int = 8) -> np.ndarray:
    """Local labels uint8 (H/block, W/block) of a crop (2, K+1, H, W) of ``confident_scores``, zeros being padding."""
    low, high = block_mean(scores, block)
    return assemble_labels(low, high)
