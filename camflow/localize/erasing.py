"""Adversarial erasing: Wei, Feng, Liang, Cheng, Zhao and Yan, "Object Region Mining with Adversarial Erasing: A Simple
Classification to Semantic Segmentation Approach", CVPR 2017 (arXiv 1703.08448), section 3.1.

Round r trains a classifier M_r on the photos I_(r-1) from which everything found so far is erased (I_0: the photos), and
mines for every given class l

    H = CAM of M_r on I_(r-1),   R_l = region of H,   F_l(r) = F_l(r-1) OR R_l.

I_r is the photo with the union of F_l(r) over all classes at the mean pixel, as a network's input exactly 0.

The rule of the region. The paper erases the "top 20 %" of the heat, which can be read in three ways (``RULES``); no code
was published that would decide. Heat above .8 of its largest value is the default; above .2 of it, the box rule of the
CAM paper, little of an object is left for later rounds.

Seed maps. So that refiners and scores work on erasing as on any localizer, the union is also written as seed maps:
``heat`` encodes a round's map so that heat > ``params.level`` is the region to the pixel, and a round's seed map is the
maximum over the rounds so far. Cut at ``params.level`` it is F_l; below that level it orders the pixels that no round
was sure about. The maps are full-size, as a maximum does not survive being resampled: at 375 x 500 pixels some 190 KiB a
class, 20 times a CAM of four scales (the erased pixels themselves: 5 KiB).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from camflow.data.erased import ErasedCatalog, ErasedStore, pack_regions
from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.localize.cam import cam
from camflow.localize.extract import (
    Batch,
    Method,
    Photos,
    Views,
    frame_size,
    load_batch,
    localize_batch,
    run_batches,
    write_seed,
)
from camflow.localize.maps import SeedMaps, checked_seed, full_size_maps
from camflow.store import Store, StoreWriter

# Rule -> what its share is of, and the published share.
RULES = {
    "rel_max": ("maximum", 0.8),  # pixels above a share of the largest heat
    "cam20": ("maximum", 0.2),  # the same, at the box rule of Zhou et al., CVPR 2016
    "area": ("pixels", 0.2),  # that share of the pixels, the hottest ones
}
# Room on both sides of the level in which no heat lies: twice what the 1e-5 of the normalisation shifts, so that the
# heat, its seed map as read, and either of them relative to its own maximum, are cut alike.
ROOM = 2e-5


@dataclass(frozen=True)
class ErasingParams(Views):
    """How regions are mined.

    Attributes:
        rule: ``rel_max``, ``cam20`` or ``area``, see ``RULES``.
        share: another share than the rule's own, above 0 and up to .99; None: the rule's own.
    """

    rule: str = "rel_max"
    share: float | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.rule not in RULES:
            raise ConfigError(f"rule: unknown '{self.rule}'{did_you_mean(self.rule, RULES)}")
        if self.share is not None and not 0 < self.share <= 0.99:
            raise ConfigError(f"share: must be above 0 and at most 0.99, not {self.share}")

    @property
    def kind(self) -> str:
        """What the share is of: the ``maximum`` or the ``pixels``."""
        return RULES[self.rule][0]

    @property
    def value(self) -> float:
        """The share in use."""
        return RULES[self.rule][1] if self.share is None else float(self.share)

    @property
    def level(self) -> float:
        """Background threshold at which the seed maps give just what was mined: the share of the maximum, or .5."""
        return self.value if self.kind == "maximum" else 0.5


# --- one class map ---------------------------------------------------------------------------------------------------


def region(heatmap: np.ndarray, params: ErasingParams) -> np.ndarray:
    """Return bool (H, W): the pixels that are erased.

    Args:
        heatmap: float (H, W), >= 0, in any unit. Without a positive value nothing is erased.
        params: the rule. ``area`` takes all pixels as hot as the last one that is due, but none of heat 0.
    """
    peak = heatmap.max()
    if peak <= 0:
        return np.zeros(heatmap.shape, bool)
    if params.kind == "maximum":
        return heatmap > heatmap.dtype.type(params.value) * peak
    due = max(1, round(params.value * heatmap.size))
    last = np.partition(heatmap, heatmap.size - due, axis=None)[heatmap.size - due]
    return (heatmap >= last) & (heatmap > 0)


def heat(heatmap: np.ndarray, params: ErasingParams) -> np.ndarray:
    """Return float32 (H, W) in [0, 1], a growing function of the heat: > ``params.level`` in the region, else below it.

    Values are float16 numbers, as seed maps are stored, and the largest is 1, so that storing changes none. For a share
    of the maximum it is heat / maximum; rounding never carries a pixel over the level. For a share of the pixels, the
    boundary between the region and the rest is moved to .5 and the function is linear on either side.
    """
    inside = region(heatmap, params)
    if not inside.any():
        return np.zeros(heatmap.shape, np.float32)
    share = heatmap / np.float64(heatmap.max())
    if params.kind == "pixels":
        edge = (share[inside].min() + share[~inside].max(initial=0)) / 2
        share = np.where(inside, 0.5 + 0.5 * (share - edge) / (1 - edge), 0.5 * share / edge)
    below, above = _around(params.level)
    half = share.astype(np.float16)
    return np.where(inside, np.maximum(half, above), np.minimum(half, below)).astype(np.float32)


def _around(level: float) -> tuple[np.float16, np.float16]:
    """The float16 numbers next to the level, at least ``ROOM`` of it away."""
    low, high = level * (1 - ROOM), level * (1 + ROOM)
    below, above = np.float16(low), np.float16(high)
    # As Python numbers: beside a float16 numpy would round the bounds to one, too.
    below = below if float(below) <= low else np.nextafter(below, np.float16(0))
    return below, above if float(above) >= high else np.nextafter(above, np.float16(1))


# --- one image -------------------------------------------------------------------------------------------------------


def united(
    before: tuple[np.ndarray, np.ndarray] | None, now: SeedMaps, params: ErasingParams
) -> tuple[np.ndarray, np.ndarray]:
    """Classes (K,) and what is erased after a round, bool (K, H, W).

    Args:
        before: the same after the round before, None in the first round.
        now: raw CAMs of this round.
        params: the rule.

    Raises:
        ValueError: the image has other classes than before, or its maps are not finite.
    """
    maps = _full_size(now)
    regions = np.array([region(one, params) for one in maps], bool).reshape(maps.shape)
    if before is not None:
        _same_classes(before[0], now)
        regions |= before[1]
    return now.classes, regions


def fused(before: SeedMaps | None, now: SeedMaps, params: ErasingParams) -> SeedMaps:
    """Seed maps after a round: the largest ``heat`` of all rounds, at full size.

    ``full_size_maps`` of the result, or of what comes back from its storage, cut at ``params.level`` is what ``united``
    gives, as long as all rounds had the same parameters.

    Args:
        before: the same after the round before, None in the first round.
        now: raw CAMs of this round.
        params: the rule.

    Raises:
        ValueError: as in ``united``; or ``before`` holds no maps of this kind.
    """
    maps = _full_size(now)
    hot = np.array([heat(one, params) for one in maps], np.float32).reshape(maps.shape)
    if before is not None:
        _same_classes(before.classes, now)
        if len(hot):
            if [m.shape for m in before.maps] != [hot.shape]:
                raise ValueError(
                    "the maps of the round before are of another localizer; give those of adversarial erasing"
                )
            hot = np.maximum(hot, before.maps[0])
    return SeedMaps(now.classes, [hot] if len(hot) else [], now.size, now.size, stride=1)


def _full_size(now: SeedMaps) -> np.ndarray:
    if not all(np.isfinite(m).all() for m in now.maps):  # normalisation would turn such a map into zeros
        raise ValueError("its maps are not finite; has the training of the classifier diverged?")
    return full_size_maps(now)


def _same_classes(before: np.ndarray, now: SeedMaps) -> None:
    if not np.array_equal(before, now.classes):
        raise ValueError(
            f"its classes are {now.classes.tolist()}, but were {np.asarray(before).tolist()} in the round before; make that one again"
        )


# --- a whole catalog -------------------------------------------------------------------------------------------------


def write_erased(
    model: nn.Module,
    catalog: Photos,
    before: ErasedStore | None,
    params: ErasingParams,
    writer: StoreWriter,
    *,
    batch_size: int = 8,
    device: str | torch.device = "cpu",
    workers: int = 1,
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Write what is erased after a round into an open ``StoreWriter(stage="erased")``; read by ``ErasedStore``.

    Args:
        model: the round's classifier.
        catalog: the images and their present classes; the photos as they are, not erased.
        before: what was erased before the round, None in the first round.
        others: as in ``camflow.localize.extract.extract_maps``.

    Raises:
        StoreError: an image is missing in ``before``.
        DataError: as in ``extract_maps``; or an image has another size or other classes than before.
    """
    for image_id, now in _erased_cams(model, catalog, before, params, batch_size, device, workers):
        with _naming(image_id):
            earlier = None if before is None else before.read(image_id, now.size)
            packed, attrs = pack_regions(*united(earlier, now, params))
        writer.write(image_id, packed, **attrs)
        if progress is not None:
            progress(1)


def write_fused(
    model: nn.Module,
    catalog: Photos,
    before: ErasedStore | None,
    maps_before: Store | None,
    params: ErasingParams,
    writer: StoreWriter,
    *,
    batch_size: int = 8,
    device: str | torch.device = "cpu",
    workers: int = 1,
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Write the seed maps after a round into an open ``StoreWriter(stage="maps")``.

    Args:
        maps_before: seed maps after the round before, made with the same rule; None in the first round.
        others: as in ``write_erased``.

    Raises:
        ConfigError: only one of ``before`` and ``maps_before`` is given.
        StoreError: an image is missing in a store.
        DataError: as in ``write_erased``; or the maps before are none of adversarial erasing.
    """
    if (before is None) != (maps_before is None):
        raise ConfigError(
            "erasing: a round after the first needs both the erased pixels and the maps of the one before"
        )
    for image_id, now in _erased_cams(model, catalog, before, params, batch_size, device, workers):
        earlier = None if maps_before is None else checked_seed(maps_before, image_id, now.size)
        with _naming(image_id):
            seed = fused(earlier, now, params)
        write_seed(writer, image_id, seed)
        if progress is not None:
            progress(1)


@contextlib.contextmanager
def _naming(image_id: str) -> Iterator[None]:
    """Turn a ``ValueError`` about one image into a ``DataError`` that names it."""
    try:
        yield
    except ValueError as error:
        raise DataError(f"image '{image_id}': {error}") from error


def _erased_cams(
    model: nn.Module,
    catalog: Photos,
    before: ErasedStore | None,
    params: Views,
    batch_size: int,
    device: str | torch.device,
    workers: int,
) -> Iterator[tuple[str, SeedMaps]]:
    """Raw CAMs of the erased photos, image by image in the order of ``extract_maps`` and by its rules of batching."""
    photos = catalog if before is None else ErasedCatalog(catalog, before, model.mean)

    def load(ids: list[str], size: tuple[int, int], pin: bool) -> tuple[Batch, Method]:
        batch = load_batch(photos, ids, size, params, pin)
        if before is None:
            return batch, cam
        shown = [i for i, classes in zip(ids, batch.classes, strict=True) if len(classes)]
        return batch, erased_cam(_scaled([before.union(i, size) for i in shown], size, params))

    def run(loaded: tuple[Batch, Method], table: torch.Tensor) -> list[tuple[str, SeedMaps]]:
        batch, method = loaded
        return list(zip(batch.ids, localize_batch(model, method, batch, params, table), strict=True))

    options = {"precision": params.precision, "batch_size": batch_size, "device": device, "workers": workers}
    for results in run_batches(model, photos, load, run, **options):
        yield from results


def _scaled(masks: Sequence[np.ndarray], size: tuple[int, int], params: Views) -> dict[float, torch.Tensor]:
    """Scale -> the masks bool (H, W) of B photos of one size, as the photos are seen at it: bool (B, h, w), nearest."""
    frame = frame_size(size, params.long_side)
    seen = {scale: tuple(max(1, round(n * scale)) for n in frame) for scale in params.scales}
    return {
        scale: torch.from_numpy(np.stack([_nearest(mask, grid) for mask in masks]))
        for scale, grid in seen.items()
        if masks
    }


def _nearest(mask: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    return np.array(Image.fromarray(mask).resize(grid[::-1], Image.Resampling.NEAREST))


def erased_cam(masks: Mapping[float, torch.Tensor]) -> Method:
    """The localizer ``cam`` for one batch, whose views are set to exactly 0 where they are erased.

    Args:
        masks: scale -> bool (B, h, w), the erased pixels of its photos at that scale.
    """

    def method(
        model: nn.Module, views: torch.Tensor, classes: Sequence[np.ndarray], scale: float
    ) -> list[torch.Tensor]:
        gone = masks[scale].to(views.device)[:, None, None]
        both = torch.cat([gone, gone.flip(-1)], dim=1) if views.shape[1] == 2 else gone
        return cam(model, views.masked_fill(both, 0), classes, scale)

    return method
