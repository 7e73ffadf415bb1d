"""Ensembles: one set of seed maps, or of class probabilities, out of those of several networks.

Hide-and-Seek (Singh and Lee, ICCV 2017, arXiv 1704.04232) averages the maps of networks trained with cells of 16, 32,
44 and 56 pixels, and the class probabilities of these and of the network trained without hiding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.localize.extract import write_seed
from camflow.localize.maps import SeedMaps, checked_seed, in_unit, summed_maps
from camflow.store import Store, StoreWriter

GRIDS = ("first", "finest")


class Images(Protocol):
    """What is read of a catalog."""

    class_names: Sequence[str]
    ids: Sequence[str]
    sizes: np.ndarray  # (N, 2) int32, height and width, rows in the order of ids


@dataclass(frozen=True)
class EnsembleParams:
    """How maps are put together.

    Attributes:
        grid: on which cells: ``first`` (the finest scale of the first member) or ``finest`` (of all members).
    """

    grid: str = "finest"

    def __post_init__(self):
        if self.grid not in GRIDS:
            raise ConfigError(f"grid: unknown '{self.grid}'{did_you_mean(self.grid, GRIDS)}")


def ensemble_seed(seeds: Sequence[SeedMaps], params: EnsembleParams) -> SeedMaps:
    """The mean over members of their max-normalised maps: one scale, values in [0, 1].

    A member's scales are resized bilinearly (align_corners False) to the common grid and summed, as ``summed_maps``
    does, and each class is divided by (its maximum there + 1e-5). A class in which a member sees nothing counts as 0.

    Args:
        seeds: of one photo, one per member.
        params: the grid.

    Raises:
        ValueError: no member, or members of different classes or sizes of photo.
    """
    if not seeds:
        raise ValueError("an ensemble needs at least one member")
    first = seeds[0]
    for seed in seeds[1:]:
        if not np.array_equal(seed.classes, first.classes) or tuple(seed.size) != tuple(first.size):
            raise ValueError(
                f"one member has classes {seed.classes.tolist()} at {tuple(seed.size)}, "
                f"the first {first.classes.tolist()} at {tuple(first.size)}"
            )
    if not len(first.classes):
        return SeedMaps(first.classes, [], first.size, first.frame, first.stride)
    candidates = [first] if params.grid == "first" else seeds
    cells = [max(seed.maps, key=lambda maps: maps[0].size).shape[1:] for seed in candidates]
    place = max(range(len(cells)), key=lambda index: cells[index][0] * cells[index][1])
    mean = np.mean([in_unit(seed, summed_maps(seed, cells[place])) for seed in seeds], axis=0, dtype=np.float32)
    chosen = candidates[place]
    return SeedMaps(first.classes, [mean], first.size, chosen.frame, chosen.stride)


def ensemble_maps(
    stores: Sequence[Store],
    catalog: Images,
    writer: StoreWriter,
    params: EnsembleParams | None = None,
    *,
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Write the ensemble of seed maps of every image into an open ``StoreWriter(stage="maps")``.

    Args:
        stores: seed maps of each member, ``Store(stage="maps")``; they may have other grids and scales.
        catalog: the images.
        writer: receives one map per class and image, in the order of the catalog.
        params: the grid.
        progress: called with the number of images done since its last call.

    Raises:
        ConfigError: no member.
        StoreError: a member does not have an image.
        DataError: the members do not fit together or to the catalog; names the image.
    """
    _check_members(stores, catalog, "maps")
    for image_id, size in zip(catalog.ids, catalog.sizes, strict=True):
        seeds = [checked_seed(store, image_id, size) for store in stores]
        try:
            seed = ensemble_seed(seeds, params or EnsembleParams())
        except ValueError as error:
            raise DataError(f"image '{image_id}': {error}; make the members' maps again") from error
        write_seed(writer, image_id, seed)
        if progress is not None:
            progress(1)


def ensemble_confidence(
    stores: Sequence[Store],
    catalog: Images,
    writer: StoreWriter,
    *,
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Write the mean class probabilities of every image into an open ``StoreWriter(stage="confidence")``.

    Args:
        stores: probabilities float (C,) of each member, ``Store(stage="confidence")``.
        catalog, writer, progress: as in ``ensemble_maps``; the writer receives float32 (C,).

    Raises:
        ConfigError: no member.
        StoreError: a member does not have an image.
        DataError: a member knows other classes than the catalog.
    """
    _check_members(stores, catalog, "probabilities")
    for image_id in catalog.ids:
        members = np.stack([store.read(image_id) for store in stores])
        writer.write(image_id, members.mean(axis=0, dtype=np.float64).astype(np.float32))
        if progress is not None:
            progress(1)


def _check_members(stores: Sequence[Store], catalog: Images, what: str) -> None:
    if not stores:
        raise ConfigError("ensemble: name at least one member")
    for store in stores:
        if list(store.class_names) != list(catalog.class_names):
            raise DataError(
                f"{store.path}: its {what} are of the classes {', '.join(store.class_names)}, the dataset has "
                f"{', '.join(catalog.class_names)}; an ensemble needs members of one dataset"
            )
