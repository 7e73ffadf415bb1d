"""PSA's random walk: seed maps spread along learnt affinities; Ahn and Kwak, CVPR 2018, section 3.3.

Scores are the background (1 - max_c map_c)^alpha and the present classes' maps. With T the transition matrix of the
affinities to the power beta, the walked scores are scores T^(2^logt); they are enlarged bilinearly and every
pixel takes the largest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from camflow.errors import ConfigError, did_you_mean
from camflow.localize.extract import Photos, normalisation_table, numerics, to_views
from camflow.localize.maps import checked_seed, full_size_maps
from camflow.models.psa import RADIUS, STRIDE, AffinityNet, padded_size
from camflow.refine.crf import background_score
from camflow.refine.driver import Refined, class_ids, photo_of
from camflow.refine.psa_labels import block_mean
from camflow.refine.walk import pair_affinities
from camflow.store import Store, StoreWriter


@dataclass(frozen=True)
class PropagateParams:
    """Parameters of the walk; the defaults are PSA's.

    Attributes:
        alpha: exponent of the background score.
        beta: exponent of the affinities.
        logt: the walk takes 2^logt steps.
    """

    alpha: float = 16.0
    beta: float = 8.0
    logt: int = 8

    def __post_init__(self):
        if self.alpha <= 0 or self.beta <= 0:
            raise ConfigError(f"affinity: alpha and beta are above 0, not {self.alpha} and {self.beta}")
        if self.logt < 0 or self.logt != int(self.logt):
            raise ConfigError(f"affinity: logt is an integer of at least 0, not {self.logt}")


PUBLISHED: dict[str, PropagateParams] = {"psa": PropagateParams(), "seam": PropagateParams(alpha=6.0, logt=6)}


def propagate_params(preset: str = "psa", **overrides: Any) -> PropagateParams:
    """A published parameter set, some of it replaced. Raises ``ConfigError`` for a name that is not published."""
    if preset not in PUBLISHED:
        raise ConfigError(f"affinity: unknown preset '{preset}'{did_you_mean(preset, PUBLISHED)}")
    return replace(PUBLISHED[preset], **overrides)


# --- one image -------------------------------------------------------------------------------------------------------


def predict_affinities(model: AffinityNet, photo: np.ndarray) -> np.ndarray:
    """Affinities (34, n) of a photo, float of the model's weights; n = 0 where the photo is too small for a pair.

    The photo is normalised and then padded with zeros (the mean colour) on the right and at the bottom to multiples of
    8 pixels.

    Args:
        model: in eval mode; runs on its own device.
        photo: uint8 RGB (H, W, 3).
    """
    weight = model.f9.weight
    table = normalisation_table(model.mean, model.std).to(weight.device, weight.dtype)
    pixels = torch.from_numpy(np.array(photo)[None]).to(weight.device)
    height, width = padded_size(photo.shape[:2])
    image = functional.pad(
        to_views(pixels, table, False)[:, 0], (0, width - photo.shape[1], 0, height - photo.shape[0])
    )
    if not has_pairs((height // STRIDE, width // STRIDE)):
        return np.zeros((0, 0), table.cpu().numpy().dtype)
    with torch.inference_mode():
        return model(image)[0].cpu().numpy()


def has_pairs(grid: tuple[int, int]) -> bool:
    """Whether a grid is large enough for PSA's pairs of radius 5: at least 5 x 9 cells."""
    return grid[0] >= RADIUS and grid[1] >= 2 * RADIUS - 1


def pooled_scores(maps: np.ndarray, alpha: float) -> np.ndarray:
    """[background, maps] (K+1, H, W) padded with zeros to whole cells and averaged over them: (K+1, h, w).

    The background is taken before the padding, so the padding is nobody's.

    Args:
        maps: float (K, H, W), each class max-normalised to [0, 1); K >= 1.
        alpha: exponent of the background score.
    """
    scores = np.concatenate([background_score(maps, alpha)[None], maps])
    height, width = padded_size(maps.shape[1:])
    padded = np.pad(scores, ((0, 0), (0, height - maps.shape[1]), (0, width - maps.shape[2])))
    return block_mean(padded, STRIDE)


def propagate(affinity: np.ndarray, maps: np.ndarray, params: PropagateParams) -> np.ndarray:
    """Walked scores (K+1, h, w) at stride 8 of max-normalised maps (K, H, W), background first, in [0, 1].

    Args:
        affinity: (34, n) of ``predict_affinities``; a grid too small for a pair leaves the scores as they are.
        maps: float (K, H, W); K >= 1.
        params: of the walk.
    """
    scores = pooled_scores(maps, params.alpha)
    grid = (scores.shape[1], scores.shape[2])
    if not has_pairs(grid):
        return scores
    return pair_affinities(affinity, grid, RADIUS).transition(params.beta).walk(scores, params.logt)


def label_scores(scores: np.ndarray, classes: np.ndarray, size: tuple[int, int]) -> Refined:
    """Enlarge scores (K+1, h, w) eight times (bilinear, align_corners False), crop to ``size`` and take the arg-max.

    Ties go to the background, then to the earlier class. The confidence is the winner's score.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(scores))[None]
    large = functional.interpolate(tensor, scale_factor=STRIDE, mode="bilinear", align_corners=False)
    large = large[0, :, : size[0], : size[1]].numpy()
    return Refined(class_ids(large.argmax(axis=0), classes), large.max(axis=0).astype(np.float32))


def propagate_labels(
    model: AffinityNet, photo: np.ndarray, maps: np.ndarray, classes: np.ndarray, params: PropagateParams
) -> Refined:
    """PSA's pseudo-mask of one photo, uint8 (H, W) class ids.

    Args:
        model: in eval mode.
        photo: uint8 RGB (H, W, 3).
        maps: float32 (K, H, W), each class max-normalised.
        classes: (K,) 0-based class indices.
        params: of the walk.

    Without a present class or any activation everything is background.
    """
    size = (int(photo.shape[0]), int(photo.shape[1]))
    if not maps.size or maps.max() <= 0:
        return Refined(np.zeros(size, np.uint8), np.ones(size, np.float32))
    return label_scores(propagate(predict_affinities(model, photo), maps, params), classes, size)


# --- a whole catalog -------------------------------------------------------------------------------------------------


def propagate_maps(
    model: AffinityNet,
    maps_store: Store,
    catalog: Photos,
    params: PropagateParams,
    writer: StoreWriter,
    *,
    device: str | torch.device = "cpu",
    precision: str = "float32",
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Refine every image of a catalog into an open ``StoreWriter(stage="masks")``, in the order of its ids.

    Args:
        model: moved to ``device`` and put into eval mode.
        maps_store: seed maps, at least of the catalog's images.
        catalog: the images.
        params: of the walk.
        writer: receives one uint8 label map (H, W) per image.
        device: where the network runs; the walk runs on the CPU. One intra-op thread on the CPU, so that the bytes do
            not depend on the machine's load; shards are what runs in parallel.
        precision: ``float32`` or ``tf32``.
        progress: called with the number of images done since its last call.

    Raises:
        StoreError: an image is missing in the store.
        DataError: maps and photo differ in size; names the image.
    """
    place = torch.device(device)
    model = model.to(place).eval()
    with numerics(place, precision):
        for image_id, size in zip(catalog.ids, catalog.sizes, strict=True):
            seed = checked_seed(maps_store, image_id, size)
            if len(seed.classes):
                photo = photo_of(catalog, image_id, seed.size)
                labels = propagate_labels(model, photo, full_size_maps(seed), seed.classes, params).labels
            else:
                labels = np.zeros(seed.size, np.uint8)
            writer.write(image_id, labels)
            if progress is not None:
                progress(1)
