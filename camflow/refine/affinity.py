"""PSA from stores to stores: affinities of photos, and the walk that reads them (Ahn and Kwak, CVPR 2018).

The network runs once per photo; its affinities are kept as float16, so that other walks (alpha, beta, number of steps)
cost seconds.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch

from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.localize.extract import numerics
from camflow.localize.maps import SeedMaps, full_size_maps
from camflow.models.psa import AffinityNet
from camflow.refine.driver import Photos, write_in_order
from camflow.refine.photos import write_photos
from camflow.refine.psa import PropagateParams, label_scores, predict_affinities, propagate, propagate_params
from camflow.refine.psa_labels import ConfidentParams
from camflow.store import Store, StoreWriter

STAGE = "affinities"
# The CRFs that AffinityNet learns from: PSA's released code, and SEAM's (and the paper's) exponent.
CONFIDENT: dict[str, ConfidentParams] = {"psa": ConfidentParams(), "seam": ConfidentParams(alpha_high=24.0)}


def confident_from_config(entry: Mapping[str, Any]) -> ConfidentParams:
    """The two CRFs of a config entry: those of its preset, with the keys that the entry gives replaced."""
    if entry["preset"] not in CONFIDENT:
        raise ConfigError(f"psa: unknown preset '{entry['preset']}'{did_you_mean(entry['preset'], CONFIDENT)}")
    base = CONFIDENT[entry["preset"]]
    values = {name: entry.get(name, getattr(base, name)) for name in ("alpha_low", "alpha_high")}
    return ConfidentParams(**values, crf=base.crf)


def propagate_from_config(entry: Mapping[str, Any]) -> PropagateParams:
    """The walk of a config entry: that of its preset, with the keys that the entry gives replaced."""
    names = {field.name for field in fields(PropagateParams)}
    return propagate_params(entry["preset"], **{key: value for key, value in entry.items() if key in names})


def write_affinities(
    model: AffinityNet,
    catalog: Photos,
    writer: StoreWriter,
    **options: Any,
) -> None:
    """Write the affinities of every photo, (34, n) float16, with its ``size``.

    Args:
        model: in eval mode on the ``device`` of the options.
        catalog: the photos.
        writer: an open ``StoreWriter(stage=STAGE)``.
        options: ``device`` and ``progress`` of ``camflow.refine.photos.write_photos``.
    """

    def predict(photo: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        return predict_affinities(model, photo).astype(np.float16), {"size": np.array(photo.shape[:2], np.int32)}

    write_photos(predict, catalog, writer, **options)


def read_affinities(store: Store, image_id: str, size: tuple[int, int]) -> np.ndarray:
    """Affinities (34, n) float32 of a photo of ``size``.

    Raises:
        StoreError: the store does not have the image.
        DataError: they were made from a photo of another size.
    """
    made = tuple(int(n) for n in store.attrs(image_id)["size"])
    if made != tuple(size):
        raise DataError(
            f"image '{image_id}': its affinities are for {made[0]}x{made[1]} pixels, the photo has "
            f"{size[0]}x{size[1]}; make the affinities again"
        )
    return store.read(image_id).astype(np.float32)


def _walked(affinities: Store, params: PropagateParams, image_id: str, seed: SeedMaps) -> tuple[np.ndarray]:
    maps = full_size_maps(seed)
    if not maps.size or maps.max() <= 0:
        return (np.zeros(seed.size, np.uint8),)
    scores = propagate(read_affinities(affinities, image_id, seed.size), maps, params)
    return (label_scores(scores, seed.classes, seed.size).labels,)


def walk_affinities(
    maps: Store,
    affinities: Store,
    catalog: Photos,
    params: PropagateParams,
    writer: StoreWriter,
    **options: Any,
) -> None:
    """Write PSA's pseudo-mask of every image, uint8 (H, W).

    Args:
        maps: seed maps, at least of the catalog's images.
        affinities: of the same images, ``write_affinities``.
        catalog: the images, in the order of whose ids is written.
        params: of the walk.
        writer: an open ``StoreWriter(stage="masks")``.
        options: ``jobs`` and ``progress`` of ``camflow.refine.driver.write_in_order``.

    Raises:
        StoreError: an image is missing in a store.
        DataError: maps, affinities and photo differ in size; names the image.
    """
    with numerics(torch.device("cpu"), "float32"):
        work = functools.partial(_walked, affinities, params)
        write_in_order(work, maps, catalog, writer.write, **options)
