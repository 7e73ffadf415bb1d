"""Label maps as PNG files for others: the server of PASCAL VOC, and trainers that read folders.

An export is made beside its folder and renamed into place, so it is whole or absent.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import secrets
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from camflow.data.palette import write_label_map
from camflow.errors import ConfigError, DataError, StoreError, did_you_mean
from camflow.refine.driver import IGNORE
from camflow.store import Store, atomic_path, naming_a_full_disk, write_json, write_text

MARKER = "export.json"  # what was exported, and the proof that a folder is ours to replace
COMPETITIONS = ("comp5", "comp6")  # trained on VOC's segmentations only, or on anything else


class Split(Protocol):
    """What an export reads from a catalog."""

    class_names: list[str]
    split: str
    ids: list[str]
    sizes: np.ndarray


def export_voc(predictions: Store, folder: str | Path, *, competition: str = "comp6", split: str) -> Path:
    """Write predictions as the server of PASCAL VOC 2012 wants them, see ``voc_folder``; pack ``results`` to submit.

    Args:
        predictions: a store of label maps, stage ``"masks"``, without ignored pixels.
        folder: the new folder; an earlier export in it is replaced.
        competition: ``comp6``, or ``comp5`` for networks that saw no data but VOC's own.
        split: VOC's name of the image set, ``test`` or ``val``.

    Returns:
        The folder of the PNGs.

    Raises:
        ConfigError: unknown competition.
        DataError: ``folder`` holds something else, an id does not name a file, or a label is no class.
        StoreError: a store of another stage, or a full disk.
    """
    if competition not in COMPETITIONS:
        raise ConfigError(f"export: unknown competition '{competition}'{did_you_mean(competition, COMPETITIONS)}")
    _check_masks(predictions)
    pictures = Path("results", "VOC2012", "Segmentation", f"{competition}_{_plain(split)}_cls")
    with fresh_folder(folder, {**origin(predictions), "competition": competition, "split": split}) as new:
        for image_id in predictions.ids:
            labels = predictions.read(image_id)
            if labels.max(initial=0) > len(predictions.class_names):
                raise DataError(
                    f"image '{image_id}': label {labels.max()} is none of the {len(predictions.class_names)} classes "
                    "of the store; export predictions, not pseudo-masks with ignored pixels"
                )
            _write_png(new / pictures, image_id, labels)
    return Path(folder) / pictures


def export_masks(masks: Store, catalog: Split, folder: str | Path) -> None:
    """Write label maps in a plain layout::

        masks/<id>.png    palette PNG in VOC's colours; its values are the labels: 0 background, 255 ignore
        <split>.txt       ids, one a line
        classes.txt       class names, one a line; line k names label k

    An id with ``/`` lies in sub-folders. The photos stay where they are: they are named by the same ids.

    Args:
        masks: a store of label maps, stage ``"masks"``, at least of the catalog's images.
        catalog: the images.
        folder: the new folder; an earlier export in it is replaced.

    Raises:
        DataError: ``folder`` holds something else, an id does not name a file, or a mask is not of the photo's size.
        StoreError: an image is missing in the store, a store of another stage, or a full disk.
    """
    _check_masks(masks)
    names = f"{_plain(catalog.split)}.txt"
    if names == "classes.txt":
        raise DataError("split 'classes': its list would have the name of the list of classes; rename the split")
    with fresh_folder(folder, {**origin(masks), "split": catalog.split}) as new:
        for image_id, size in zip(catalog.ids, catalog.sizes.tolist(), strict=True):
            labels = masks.read(image_id)
            if list(labels.shape) != size:
                raise DataError(
                    f"image '{image_id}': its mask is for {'x'.join(map(str, labels.shape))} pixels, the photo has "
                    f"{size[0]}x{size[1]}; make the masks again"
                )
            _write_png(new / "masks", image_id, labels)
        write_text(new / names, _lines(catalog.ids))
        write_text(new / "classes.txt", _lines(catalog.class_names))


def pack(folder: str | Path, archive: str | Path) -> None:
    """Pack ``results`` of a folder of ``export_voc`` as a gzipped tar, atomically; equal files give equal bytes."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname, entry.mode = 0, 0, 0, "", "", 0o644
        return entry

    with (
        atomic_path(archive) as temporary,
        open(temporary, "wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for path in sorted(Path(folder, "results").rglob("*.png")):
            tar.add(path, str(path.relative_to(folder)), filter=plain)


# --- parts -----------------------------------------------------------------------------------------------------------


def origin(store: Store) -> dict[str, Any]:
    """What ``export.json`` says of the store an export was made from."""
    return {"store": str(store.path), "meta": store.meta, "ignore": IGNORE}


def _check_masks(store: Store) -> None:
    if store.stage != "masks":
        raise StoreError(store.path, f"holds '{store.stage}', not 'masks'; give a store of label maps")


def _lines(names: Iterable[str]) -> str:
    return "".join(f"{name}\n" for name in names)


def _plain(split: str) -> str:
    """A split's name where it serves as a part of a file's name."""
    if not split or split.startswith(".") or "/" in split or _broken(split):
        raise DataError(f"split '{split}': does not name a file; rename the split")
    return split


def _broken(name: str) -> bool:
    """Whether a name breaks a list with one name a line, or cannot be a file's."""
    return name.splitlines() != [name] or "\0" in name


def plain_file(folder: Path, image_id: str, suffix: str) -> Path:
    """``<folder>/<id>.<suffix>``, its sub-folders made. Raises ``DataError`` for an id that names no file within it."""
    # Also refuses what would name one file twice ("a//b").
    if any(part in ("", ".", "..") for part in image_id.split("/")) or _broken(image_id):
        raise DataError(f"image '{image_id}': its id does not name a file within a folder; rename the image")
    path = folder / f"{image_id}.{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write_png(folder: Path, image_id: str, labels: np.ndarray) -> None:
    # Pillow does not see the ending of "....png".
    write_label_map(plain_file(folder, image_id, "png"), labels, format="PNG")


@contextlib.contextmanager
def fresh_folder(folder: str | Path, made: dict[str, Any]) -> Iterator[Path]:
    """Yield a new folder that takes the place of ``folder`` when the block ends without an exception.

    Args:
        folder: absent, empty, or an earlier export.
        made: JSON-able facts for ``export.json``, by which a later call knows the folder.

    Raises:
        DataError: ``folder`` is a file or a link, or holds something that was not made here.
        StoreError: the disk is full.
    """
    folder = Path(os.path.abspath(folder))
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise DataError(f"{folder} is a file or a link; an export needs a folder of that name")
    occupied = folder.is_dir() and any(folder.iterdir())
    if occupied and not (folder / MARKER).is_file():
        raise DataError(f"{folder} holds files that are not an export ({MARKER} is missing); name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Named like every temporary file, so that `camflow gc` finds what a kill left.
    workshop = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    new = workshop / "new"
    try:
        with naming_a_full_disk(folder):
            new.mkdir(parents=True)
            yield new
            write_json(new / MARKER, made)
            if occupied:
                os.replace(folder, workshop / "old")
            os.replace(new, folder)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
