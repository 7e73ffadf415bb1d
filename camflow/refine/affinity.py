"""PSA from stores to stores: affinities of photos, and the walk that reads them (Ahn and Kwak, CVPR 2018).

The network runs once per photo; its affinities are kept as float16, so that other walks (alpha, beta, number of steps)
cost seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.localize.extract import numerics
from camflow.localize.maps import checked_seed, full_size_maps
from camflow.models.psa import AffinityNet
from camflow.refine.driver import Photos, _ordered_map
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
    *,
    device: str | torch.device = "cpu",
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Write the affinities of every photo, (34, n) float16, with its ``size``.

    Args:
        model: in eval mode on ``device``.
        catalog: the photos, in the order of whose ids is written.
        writer: an open ``StoreWriter(stage=STAGE)``.
        device: where the network runs; with one thread and one photo at a time on the CPU, so that the bytes depend on
            neither the machine's load nor the other photos.
        progress: called with the number of images done since its last call.
    """
    with numerics(torch.device(device), "float32"):
        for image_id in catalog.ids:
            photo = catalog.image(image_id)
            affinity = predict_affinities(model, photo).astype(np.float16)
            writer.write(image_id, affinity, size=np.array(photo.shape[:2], np.int32))
            if progress is not None:
                progress(1)


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


@dataclass(frozen=True)
class _Walk:
    maps: Store
    affinities: Store
    params: PropagateParams

    def __call__(self, item: tuple[str, np.ndarray]) -> tuple[str, np.ndarray]:
        image_id, size = item
        seed = checked_seed(self.maps, image_id, size)
        maps = full_size_maps(seed)
        if not maps.size or maps.max() <= 0:
            return image_id, np.zeros(seed.size, np.uint8)
        scores = propagate(read_affinities(self.affinities, image_id, seed.size), maps, self.params)
        return image_id, label_scores(scores, seed.classes, seed.size).labels


def walk_affinities(
    maps: Store,
    affinities: Store,
    catalog: Photos,
    params: PropagateParams,
    writer: StoreWriter,
    *,
    jobs: int = 1,
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Write PSA's pseudo-mask of every image, uint8 (H, W).

    Args:
        maps: seed maps, at least of the catalog's images.
        affinities: of the same images, ``write_affinities``.
        catalog: the images, in the order of whose ids is written.
        params: of the walk.
        writer: an open ``StoreWriter(stage="masks")``.
        jobs: worker processes. They are spawned, so a calling script needs ``if __name__ == "__main__":``.
        progress: called with the number of images done since its last call.

    Raises:
        StoreError: an image is missing in a store.
        DataError: maps, affinities and photo differ in size; names the image.
    """
    items = list(zip(catalog.ids, catalog.sizes, strict=True))
    with numerics(torch.device("cpu"), "float32"):
        for image_id, labels in _ordered_map(_Walk(maps, affinities, params), items, jobs):
            writer.write(image_id, labels)
            if progress is not None:
                progress(1)
