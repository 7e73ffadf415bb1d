"""Seed maps as files for other codes, in the forms that the localizer ``import`` reads (``camflow.data.interchange``).

    npy         {class: (H, W) float32}; IRN, PSA, SEAM and what follows them read it by
                numpy.load(file, allow_pickle=True).item()
    irn         IRN's dictionary: keys (K,) and cam (K, h, w), a quarter of the photo's size, as torch tensors, and high_res
                (K, H, W); the class indices always count from 0
    npz         one named array (H, W) a class
    png         <id>_<class>.png, grey; png_folder: <class>/<id>.png

All maps are those that scores and refiners read: each class divided by its maximum + 1e-5.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from camflow.data.interchange import class_keys, write_npy, write_npz, write_score_png
from camflow.errors import ConfigError, DataError, StoreError, did_you_mean
from camflow.localize.maps import SeedMaps, full_size_maps, read_seed, stride4_maps
from camflow.segment.export import fresh_folder, origin, plain_file
from camflow.store import Store

FORMS = ("npy", "irn", "npz", "png", "png_folder")
BITS = (8, 16)


def export_maps(store: Store, folder: str | Path, form: str, *, classes: str = "index", bits: int = 8) -> None:
    """Write the maps of every image of a store.

    Args:
        store: seed maps, stage ``"maps"``.
        folder: the new folder; an earlier export in it is replaced.
        form: see above.
        classes: how keys and files call the classes: ``index`` from 0, ``label`` from 1, ``name``.
        bits: of the grey values of PNGs, 8 or 16.

    Raises:
        ConfigError: unknown ``form``, ``classes`` or ``bits``.
        DataError: ``folder`` holds something else, an id or class does not name a file, or two name the same one.
        StoreError: a store of another stage, or a full disk.
    """
    if form not in FORMS:
        raise ConfigError(f"export: unknown form '{form}'{did_you_mean(form, FORMS)}")
    if bits not in BITS:
        raise ConfigError(f"export: grey values have 8 or 16 bits, not {bits}")
    if store.stage != "maps":
        raise StoreError(store.path, f"holds '{store.stage}', not 'maps'; give a store of seed maps")
    names = {index: key for key, index in class_keys(store.class_names, classes).items()}
    if form in ("npz", "png", "png_folder"):
        for name in names.values():
            if "/" in name:
                raise DataError(f"class '{name}': does not name a file; export with --classes index")
    made = {**origin(store), "form": form, "classes": classes, "class_names": store.class_names}
    with fresh_folder(folder, made) as new:
        for image_id in tqdm(store.ids, desc=f"export {form}", unit="image", disable=None):
            seed = read_seed(store, image_id)
            if form in ("npy", "npz", "irn"):
                _write_arrays(plain_file(new, image_id, "npz" if form == "npz" else "npy"), seed, form, names, classes)
                continue
            for index, score in zip(seed.classes, full_size_maps(seed), strict=True):
                key = names[int(index)]
                path = plain_file(new, f"{image_id}_{key}" if form == "png" else f"{key}/{image_id}", "png")
                if path.exists():
                    raise DataError(
                        f"image '{image_id}': {path.name} is the file of another image, too; export png_folder"
                    )
                write_score_png(path, score, bits)


def _write_arrays(path: Path, seed: SeedMaps, form: str, names: dict[int, str], classes: str) -> None:
    maps = full_size_maps(seed)
    if form == "irn":
        keys = torch.from_numpy(np.asarray(seed.classes, np.int64))
        write_npy(path, {"keys": keys, "cam": torch.from_numpy(stride4_maps(seed)), "high_res": maps})
        return
    found = {names[int(index)]: one for index, one in zip(seed.classes, maps, strict=True)}
    if form == "npz":
        write_npz(path, found)
    else:
        write_npy(path, found if classes == "name" else {int(key): one for key, one in found.items()})
