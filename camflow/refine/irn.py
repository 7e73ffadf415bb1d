"""IRN from stores to stores: boundaries of photos, and the walks that read them (Ahn, Cho and Kwak, CVPR 2019).

The network runs once per photo; what it says is kept as float16, so that other walks (beta, number of steps, gamma,
threshold) cost seconds.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch

from camflow.errors import DataError
from camflow.localize.extract import numerics
from camflow.localize.maps import SeedMaps, stride4_maps
from camflow.models.irn import IrnNetwork, boundaries_of_photo, check_multiple, grid_size
from camflow.refine.driver import Photos, write_in_order
from camflow.refine.photos import write_photos
from camflow.refine.walk import (
    InstanceParams,
    Instances,
    WalkParams,
    instance_masks,
    semantic_labels,
    semantic_scores,
    walk_params,
)
from camflow.store import Store, StoreWriter

BOUNDARIES = "boundaries"  # stages of the stores
INSTANCES = "instances"
WALKED = ("beta", "exp_times", "gamma", "threshold")  # keys of a config entry that are the walk's
CPU = torch.device("cpu")


def walk_from_config(entry: Mapping[str, Any]) -> WalkParams:
    """The walk of a config entry: that of its preset, with the keys that the entry gives replaced."""
    return walk_params(entry["preset"], **{key: entry[key] for key in WALKED if key in entry})


def instances_from_config(entry: Mapping[str, Any]) -> tuple[WalkParams, InstanceParams]:
    """The walk and the grouping of instance masks: gamma is 1 whatever the semantic masks have, as published."""
    given = {f"instance_{field.name}": field.name for field in fields(InstanceParams)}
    params = InstanceParams(**{name: entry[key] for key, name in given.items() if key in entry})
    return walk_from_config({**entry, "gamma": 1.0}), params


# --- boundaries ------------------------------------------------------------------------------------------------------


def write_boundaries(
    model: IrnNetwork,
    catalog: Photos,
    canvas: int,
    writer: StoreWriter,
    **options: Any,
) -> None:
    """Write boundary map and displacement field of every photo: (3, h, w) float16 of [boundary, dy, dx].

    Args:
        model: in eval mode on the ``device`` of the options.
        catalog: the photos.
        canvas: see ``camflow.models.irn.canvas_size``.
        writer: an open ``StoreWriter(stage=BOUNDARIES)``.
        options: ``device`` and ``progress`` of ``camflow.refine.photos.write_photos``.
    """
    check_multiple("canvas", canvas)

    def predict(photo: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        edge, field = boundaries_of_photo(model, photo, canvas)
        return np.concatenate([edge[None], field]).astype(np.float16), {}

    write_photos(predict, catalog, writer, **options)


def read_boundaries(store: Store, image_id: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Boundary map (h, w) and displacement field (2, h, w) float32 of a photo of ``size``.

    Raises:
        StoreError: the store does not have the image.
        DataError: they were made from a photo of another size.
    """
    found = store.read(image_id).astype(np.float32)
    if found.shape[1:] != grid_size(size):
        raise DataError(
            f"image '{image_id}': its boundaries lie on a grid of {found.shape[1]}x{found.shape[2]} cells, its photo of "
            f"{size[0]}x{size[1]} pixels has {'x'.join(map(str, grid_size(size)))}; make the boundaries again"
        )
    return found[0], found[1:]


# --- walks -----------------------------------------------------------------------------------------------------------


def _semantic(edges: Store, walk: WalkParams, image_id: str, seed: SeedMaps) -> tuple[np.ndarray]:
    if not len(seed.classes):
        return (np.zeros(seed.size, np.uint8),)
    edge, _ = read_boundaries(edges, image_id, seed.size)
    scores = semantic_scores(edge, stride4_maps(seed), walk)
    return (semantic_labels(scores, seed.classes, seed.size, walk.threshold).labels,)


def _instances(
    edges: Store, walk: WalkParams, params: InstanceParams, image_id: str, seed: SeedMaps
) -> tuple[Instances]:
    edge, field = read_boundaries(edges, image_id, seed.size)
    return (instance_masks(edge, field, stride4_maps(seed), seed.classes, seed.size, walk, params),)


def walk_maps(
    maps: Store,
    edges: Store,
    catalog: Photos,
    walk: WalkParams,
    writer: StoreWriter,
    **options: Any,
) -> None:
    """Write IRN's pseudo-mask of every image, uint8 (H, W).

    Args:
        maps: seed maps, at least of the catalog's images.
        edges: their boundaries, ``write_boundaries``.
        catalog: the images, in the order of whose ids is written.
        walk: parameters of the walk.
        writer: an open ``StoreWriter(stage="masks")``.
        options: ``jobs`` and ``progress`` of ``camflow.refine.driver.write_in_order``.

    Raises:
        StoreError: an image is missing in a store.
        DataError: maps, boundaries and photo differ in size; names the image.
    """
    with numerics(CPU, "float32"):
        write_in_order(functools.partial(_semantic, edges, walk), maps, catalog, writer.write, **options)


def walk_instances(
    maps: Store,
    edges: Store,
    catalog: Photos,
    walk: WalkParams,
    params: InstanceParams,
    writer: StoreWriter,
    **options: Any,
) -> None:
    """Write IRN's instance masks of every image; arguments as of ``walk_maps``.

    Masks of an image do not overlap: they are stored as one map uint16 (H, W), 0 where there is none and k the k-th,
    with the 0-based ``classes`` and the ``scores`` beside it; ``camflow.evaluate.objects`` reads it.
    """

    def write(image_id: str, found: Instances) -> None:
        number = np.arange(1, len(found.masks) + 1, dtype=np.uint16)[:, None, None]
        packed = (found.masks * number).sum(axis=0, dtype=np.uint16)
        writer.write(image_id, packed, classes=found.classes.astype(np.int32), scores=found.scores)

    with numerics(CPU, "float32"):
        write_in_order(functools.partial(_instances, edges, walk, params), maps, catalog, write, **options)
