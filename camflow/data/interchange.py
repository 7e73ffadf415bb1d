"""Score maps in files, one or a few an image, as other codes of the field write and read them.

=============  ==========================================  ==========================================================
format         files of image ``<id>``                     content
=============  ==========================================  ==========================================================
``npy``        ``<id>.npy``                                a dictionary, class -> (H, W); IRN's dictionary of ``keys``,
                                                           ``cam`` and ``high_res``; or an array, see ``by_class``
``npz``        ``<id>.npz``                                the same as named arrays
``png``        ``<id>_<class>.png``                        grey, 8 bit (255 is 1) or 16 bit (65535 is 1)
``png_folder`` ``<class>/<id>.png``                        the same
=============  ==========================================  ==========================================================

An id with ``/`` lies in sub-folders. ``<class>`` and the keys of dictionaries are 0-based indices of the foreground
classes (``index``), labels that count the background as 0 (``label``), or ``name``\\ s.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from camflow.data.pickles import read_arrays
from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.store import atomic_path

FORMATS = ("npy", "npz", "png", "png_folder")
CLASSES = ("index", "label", "name")
ARRAYS = ("high_res", "cam")  # of IRN's dictionaries: at photo size, at a quarter of it

BACKGROUND = -1  # what a file calls the background is no class of ours

# Class index -> map (H, W).
Maps = dict[int, np.ndarray]


def class_keys(class_names: Sequence[str], classes: str) -> dict[str, int]:
    """How files call the classes -> class index, ``BACKGROUND`` for label 0. Raises ``ConfigError`` for an unknown way."""
    if classes not in CLASSES:
        raise ConfigError(f"classes: unknown '{classes}'{did_you_mean(classes, CLASSES)}")
    if classes == "name":
        return {name: index for index, name in enumerate(class_names)}
    first = BACKGROUND if classes == "label" else 0
    return {str(number): index for number, index in enumerate(range(first, len(class_names)))}


class MapFolder:
    """A folder of score maps; lists its files once.

    Args:
        folder: of the maps.
        format: of the files, see above.
        class_names: of the dataset, in order.
        classes: how files call them.
        array: which of the arrays of IRN's dictionaries.

    Raises:
        ConfigError: unknown format, or no such folder.
    """

    def __init__(
        self,
        folder: str | Path,
        format: str,
        class_names: Sequence[str],
        *,
        classes: str = "index",
        array: str = "high_res",
    ):
        self.folder, self.format, self.array = Path(folder).expanduser(), format, array
        self.keys = class_keys(class_names, classes)
        if format not in FORMATS:
            raise ConfigError(f"format: unknown '{format}'{did_you_mean(format, FORMATS)}")
        if array not in ARRAYS:
            raise ConfigError(f"array: unknown '{array}'{did_you_mean(array, ARRAYS)}")
        if not self.folder.is_dir():
            raise ConfigError(f"folder: there is no folder {folder}; correct the path (relative to the working folder)")
        self._pictures: dict[str, dict[int, Path]] | None = None

    def expected(self, image_id: str) -> str:
        """The file of an image, for messages."""
        names = {"png": f"{image_id}_<class>.png", "png_folder": f"<class>/{image_id}.png"}
        return str(self.folder / names.get(self.format, f"{image_id}.{self.format}"))

    def read(self, image_id: str, present: Sequence[int]) -> Maps | None:
        """The maps of an image; ``None`` where it has no file.

        Args:
            image_id: the image.
            present: (K,) indices of its classes, which an array of K maps stands for.

        Raises:
            DataError: a file is damaged, or holds something else; names it.
        """
        if self.format in ("png", "png_folder"):
            found = self._pictures_of(image_id)
            return {n: read_score_png(path) for n, path in found.items() if n != BACKGROUND} if found else None
        path = self.folder / f"{image_id}.{self.format}"
        return by_class(read_arrays(path), self.keys, present, self.array, path) if path.is_file() else None

    def _pictures_of(self, image_id: str) -> dict[int, Path]:
        if self._pictures is None:
            self._pictures = {}
            for name in list_files(self.folder, ".png"):
                for owner, key in self._readings(name.removesuffix(".png")):
                    if key in self.keys:
                        self._pictures.setdefault(owner, {})[self.keys[key]] = self.folder / name
        return self._pictures.get(image_id, {})

    def _readings(self, stem: str) -> list[tuple[str, str]]:
        """(id, class) that a file's name may mean; ids and classes may hold ``_`` themselves."""
        if self.format == "png_folder":
            key, _, owner = stem.partition("/")
            return [(owner, key)]
        return [(stem[:n], stem[n + 1 :]) for n, letter in enumerate(stem) if letter == "_"]


def list_files(folder: Path, suffix: str) -> list[str]:
    """Names of the files below a folder, with ``/`` between their parts."""
    found = []
    for place, _, names in os.walk(folder):
        below = Path(place).relative_to(folder).as_posix()
        found += [name if below == "." else f"{below}/{name}" for name in names if name.endswith(suffix)]
    return sorted(found)


# --- reading ---------------------------------------------------------------------------------------------------------


def by_class(content: Any, keys: Mapping[str, int], present: Sequence[int], array: str, path: str | Path) -> Maps:
    """Maps by class index of what a file holds.

    Args:
        content: a dictionary from class to (H, W); IRN's dictionary, whose ``keys`` (K,) are always 0-based indices; an
            array (H, W) of the only present class, (K, H, W) of the K present ones, or (C, H, W) of all classes; where
            ``keys`` has the background, it may also stand in front of these.
        keys: how the file calls the classes -> index.
        present: (K,) indices, ascending.
        array: which array of IRN's dictionary.
        path: for messages.

    Raises:
        DataError: a class that is none, or an array of another shape; names the file.
    """
    if isinstance(content, np.ndarray):
        return _of_array(content, sorted(keys.values()), present, path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}; expected a dictionary of maps or an array")
    if "keys" in content:
        if array not in content:
            held = ", ".join(str(key) for key in content)
            raise DataError(f"{path}: its dictionary has no '{array}' (but {held}); set array to one of {list(ARRAYS)}")
        indices, maps = np.atleast_1d(np.asarray(content["keys"])), np.asarray(content[array])
        if maps.ndim != 3 or len(indices) != len(maps):
            raise DataError(f"{path}: '{array}' has shape {maps.shape} for {len(indices)} keys; expected (keys, H, W)")
        pairs = [(str(int(index)), one) for index, one in zip(indices, maps, strict=True)]
        keys = {str(index): index for index in keys.values() if index != BACKGROUND}
    else:
        pairs = [(str(key), np.asarray(one)) for key, one in content.items()]
    unknown = [key for key, _ in pairs if key not in keys]
    if unknown:
        raise DataError(
            f"{path}: has {', '.join(unknown)}, which names no class; the {len(keys)} classes are called "
            f"{', '.join(list(keys)[:5])}{', ...' if len(keys) > 5 else ''} (parameter classes)"
        )
    return {keys[key]: one for key, one in pairs if keys[key] != BACKGROUND}


def _of_array(array: np.ndarray, rows: list[int], present: Sequence[int], path: str | Path) -> Maps:
    if array.ndim == 2 and len(present) == 1:
        return {int(present[0]): array}
    if array.ndim == 3 and len(array) == len(present):
        return {int(index): one for index, one in zip(present, array, strict=True)}
    n_classes = len(rows) - rows.count(BACKGROUND)
    if array.ndim == 3 and len(array) in (n_classes, len(rows)):  # the absent ones are no statement about the image
        first = len(array) - n_classes
        return {int(index): array[first + int(index)] for index in present}
    raise DataError(
        f"{path}: has shape {array.shape}; expected ({len(present)}, H, W) for the image's classes or ({n_classes}, H, W) "
        "for all"
    )


def read_score_png(path: str | Path) -> np.ndarray:
    """A grey PNG of 8 or 16 bits as float32 (H, W) in [0, 1]. Raises ``DataError`` naming the file."""
    try:
        with Image.open(path) as image:
            image.load()
            mode, values = image.mode, np.asarray(image)
    except Exception as error:  # on damaged bytes decoders raise anything
        raise DataError(f"{path}: cannot be decoded ({error}); make the map again") from error
    if mode not in ("1", "L") and not mode.startswith("I"):
        raise DataError(f"{path}: a score map is a grey image, this file has mode {mode}; convert it to grey")
    return values.astype(np.float32) / np.float32({"1": 1, "L": 255}.get(mode, 65535))


# --- writing ---------------------------------------------------------------------------------------------------------


def write_npy(path: Path, content: Any) -> None:
    """``numpy.save``, atomically; a dictionary is read back by ``numpy.load(path, allow_pickle=True).item()``."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, content, allow_pickle=True)


def write_npz(path: Path, maps: Mapping[str, np.ndarray]) -> None:
    """Named arrays, compressed, atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **maps)


def write_score_png(path: Path, score: np.ndarray, bits: int = 8) -> None:
    """Write scores (H, W) in [0, 1] as a grey PNG of 8 or 16 bits, atomically."""
    kind: Any = {8: np.uint8, 16: np.uint16}[bits]
    grey = np.rint(np.clip(score, 0, 1) * np.iinfo(kind).max).astype(kind)
    with atomic_path(path) as temporary:
        Image.fromarray(grey).save(temporary, format="PNG")
