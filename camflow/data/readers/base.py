"""What every dataset reader shares: the interface, records, id lists and folder listings.

A reader plans without decoding (ids and the files behind them) and reads one image at a time. This module and the
readers import neither PIL nor torch nor pycocotools on import: the planner loads them to list files.
"""

from __future__ import annotations

import difflib
import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from camflow.data.paths import expand
from camflow.errors import ConfigError, DataError, did_you_mean

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".jp2")
FACETS = ("images", "masks", "labels", "boxes")
IGNORE = 255
EVALUATION_SPLITS = ("val", "test")

# Keys that every format has. `root` has no default: it must be given.
COMMON_DEFAULTS: dict[str, Any] = {
    "classes": None,
    "other_classes": "ignore",
    "unknown_labels": "error",
    "allow_unlabelled": False,
    "clip_boxes": False,
    "on_bad_image": "error",
    "on_duplicate": "error",
}


@dataclass(frozen=True)
class Sources:
    """The files that decide each facet of a split.

    Each facet maps an image id to the files of that image alone (an empty tuple: the file is missing); ``shared``
    holds, per facet, the files that decide it for all images at once (label tables, box tables, annotation JSONs). A
    facet that the ids alone decide (class folders) or that the dataset does not have is empty in both. ``named`` holds
    the facets that the names of the shared files decide too (THUMOS14: a file a class).
    """

    images: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    masks: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    labels: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    boxes: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    shared: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    named: frozenset[str] = frozenset()


@dataclass
class Record:
    """One image as its dataset describes it. Nothing is read until an attribute is asked for; each is read once.

    Attributes:
        id: the image id.
        image: path of the photo.
        mask_path: path of the label map file; None when there is none or when the reader renders it.
        mask: label map uint8 (H, W) in our indices (0, 1..C, 255), or None.
        labels: uint8 (C,) of 0/1.
        boxes: int32 (M, 5): class index, x1, y1, x2, y2, half-open pixels.

    The last three raise ``DataError`` when what the dataset says is unreadable or inconsistent.
    """

    id: str
    image: Path
    mask_path: Path | None
    read_mask: Callable[[], np.ndarray | None]
    read_labels: Callable[[Record], np.ndarray]
    read_boxes: Callable[[Record], np.ndarray]

    @cached_property
    def mask(self) -> np.ndarray | None:
        return self.read_mask()

    @cached_property
    def labels(self) -> np.ndarray:
        return self.read_labels(self)

    @cached_property
    def boxes(self) -> np.ndarray:
        return self.read_boxes(self)


class Reader(ABC):
    """A dataset of one format.

    Args:
        params: the dataset's entry of the config.
        name: the dataset's name, for messages.

    Raises:
        ConfigError: a key is unknown, or a value is not one of its choices.
        DataError: the root folder does not exist.
    """

    format: str
    DEFAULTS: Mapping[str, Any] = {}
    CHOICES: Mapping[str, tuple[Any, ...]] = {}
    COMMON: Mapping[str, Any] = COMMON_DEFAULTS

    def __init__(self, params: Mapping[str, Any], name: str):
        self.name = name
        self.params = self._fill(params)
        self.root = expand(self.params["root"])
        if not self.root.is_dir():
            raise DataError(f"dataset '{name}': the folder {self.root} does not exist; correct `root` in its config")

    def _fill(self, params: Mapping[str, Any]) -> dict[str, Any]:
        given = {key: value for key, value in params.items() if key != "format"}
        defaults = {**self.COMMON, **self.DEFAULTS}
        for key in given:
            if key != "root" and key not in defaults:
                raise ConfigError(f"dataset '{self.name}': unknown key '{key}'{did_you_mean(key, ['root', *defaults])}")
        if not given.get("root"):
            raise ConfigError(f"dataset '{self.name}': `root` is missing; give the folder of the dataset")
        filled = {**defaults, **given}
        for key, choices in {**_COMMON_CHOICES, **self.CHOICES}.items():
            if filled[key] not in choices:
                wanted = ", ".join(map(str, choices))
                raise ConfigError(f"dataset '{self.name}': {key}: '{filled[key]}' is not one of {wanted}")
        return filled

    # --- planning: nothing is decoded ---

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """Foreground classes in order; label maps store the position + 1."""

    @property
    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The splits that can be found without guessing; others may still be readable."""

    @abstractmethod
    def ids(self, split: str) -> list[str]:
        """Image ids in list order; a repeated id stays in, so that the check can name it."""

    @abstractmethod
    def sources(self, split: str) -> Sources:
        """The files behind a split."""

    def opponents(self, split: str) -> list[str]:
        """Splits that must not share photos with this one: the evaluation splits for a training split, and back."""
        if split == "trainval":  # contains val by definition
            return []
        others = ("train", "train_aug") if split in EVALUATION_SPLITS else EVALUATION_SPLITS
        return [other for other in others if other in self.splits]

    # --- reading ---

    @abstractmethod
    def record(self, image_id: str, split: str) -> Record:
        """One image. Raises ``DataError`` when the photo is missing or ambiguous."""

    def prepare(self, split: str) -> list[str]:
        """Load what all images share (tables, annotation JSONs); returns one message per thing that cannot be read."""
        return []

    @property
    def mask_lut(self) -> np.ndarray | None:
        """uint8 (256,): stored mask value -> our label; None when label maps are rendered or absent."""
        return None

    @property
    def renders_masks(self) -> bool:
        """Whether label maps are drawn from annotations, hence worth storing, rather than read from files."""
        return False

    # --- shared pieces ---

    @property
    def other_names(self) -> frozenset[str]:
        """Class names that are known to exist in the dataset but are not among ``class_names``."""
        return frozenset()

    @cached_property
    def _index_of(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.class_names)}

    def class_index(self, name: str, where: str) -> int | None:
        """Index of a class, or None for one of the dataset's other classes. Raises ``DataError`` when unknown."""
        index = self._index_of.get(name)
        if index is None and name not in self.other_names and self.params["unknown_labels"] == "error":
            close = difflib.get_close_matches(name, self.class_names, n=1, cutoff=0.6)
            hint = f"; did you mean '{close[0]}'?" if close else "."
            raise DataError(f"{where}: unknown class '{name}'{hint} Correct it, add it to `classes`, "
                            "or set unknown_labels: ignore")  # fmt: skip
        return index

    def label_vector(self, names: Iterable[str], where: str) -> np.ndarray:
        """uint8 (C,) with a 1 for each class named. Raises ``DataError`` naming an unknown one."""
        vector = np.zeros(len(self.class_names), np.uint8)
        for name in names:
            index = self.class_index(name, where)
            if index is not None:
                vector[index] = 1
        return vector

    def box_array(
        self, rows: Iterable[tuple[str, float, float, float, float]], record: Record, where: str
    ) -> np.ndarray:
        """int32 (M, 5) of rows ``class name, x1, y1, x2, y2`` (half-open); other classes are dropped.

        A row without a class name gets the image's only class. Raises ``DataError`` when the image has several.
        """
        kept = []
        for name, *corners in rows:
            index = self.class_index(name, where) if name else self._only_class(record, where)
            if index is not None:
                kept.append([index, *(round(value) for value in corners)])
        return np.array(kept, np.int32).reshape(-1, 5)

    @staticmethod
    def _only_class(record: Record, where: str) -> int:
        present = np.flatnonzero(record.labels)
        if len(present) != 1:
            raise DataError(f"{where}: a box has no class and the image has {len(present)}; add a column 'class'")
        return int(present[0])

    def one_image(self, found: Sequence[Path], image_id: str, folder: Path) -> Path:
        """The one photo of an id. Raises ``DataError`` when there is none or more than one."""
        if not found:
            raise DataError(f"image '{image_id}': no image file under {folder}; add it, or take the id out of the list")
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise DataError(f"image '{image_id}': several image files ({names}) in {folder}; keep one of them")
        return found[0]

    def resolve(self, value: str | Path) -> Path:
        """A path of the config: absolute, or below the root, or (when only that exists) below the working folder."""
        path = expand(value)
        below = self.root / path
        return path if path.is_absolute() or (not below.exists() and path.exists()) else below

    def no_split(self, split: str, looked: Path | str) -> DataError:
        """The error for a split that does not exist."""
        return DataError(f"dataset '{self.name}': split '{split}' not found: {looked} does not exist"
                         f"{did_you_mean(split, self.splits)}")  # fmt: skip


_COMMON_CHOICES: dict[str, tuple[Any, ...]] = {
    "other_classes": ("ignore", "background"),
    "unknown_labels": ("error", "ignore"),
    "allow_unlabelled": (True, False),
    "clip_boxes": (True, False),
    "on_bad_image": ("error", "skip"),
    "on_duplicate": ("error", "note"),
}


def chosen_classes(given: Sequence[str] | None, default: Sequence[str], name: str) -> tuple[str, ...]:
    """The class list of a dataset: ``given``, else ``default``. Raises ``ConfigError`` when empty or repeated."""
    classes = tuple(str(item) for item in (default if given is None else given))
    if not classes:
        raise ConfigError(f"dataset '{name}': the class list is empty; name at least one class under `classes`")
    repeated = sorted({item for item in classes if classes.count(item) > 1}) if len(set(classes)) < len(classes) else ()
    if repeated:
        raise ConfigError(f"dataset '{name}': class '{repeated[0]}' is listed twice under `classes`; remove one")
    return classes


def per_split(value: str | Mapping[str, str], split: str) -> str | None:
    """A per-split path: a pattern with ``{split}`` or a mapping split -> path (None when the mapping lacks it)."""
    return value.get(split) if isinstance(value, Mapping) else str(value).replace("{split}", split)


def strip_suffix(name: str, suffixes: Sequence[str]) -> str:
    """``name`` without its extension, when that is one of ``suffixes`` (any case)."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in suffixes else name


def read_lines(path: Path) -> list[str]:
    """The non-empty lines of a text file, stripped. Raises ``DataError`` when it is missing or not UTF-8."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # a byte-order mark, as Windows editors write it, is not an id
    except FileNotFoundError as error:
        raise DataError(f"{path}: does not exist; correct the path in the config") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


FORMATS = {
    "voc": "VocReader", "coco": "CocoReader", "folder": "FolderReader", "parts": "PartsReader",
    "videos": "VideosReader", "sequences": "SequencesReader", "cifar": "CifarReader",
}  # fmt: skip


def make_reader(params: Mapping[str, Any], name: str) -> Reader:
    """The reader of a dataset.

    Args:
        params: the dataset's entry of the config: ``format``, ``root`` and the keys of that format. Keys that the
            reader does not use (how the dataset is made, what is scored) pass; the schema refuses misspelt ones.
        name: the dataset's name, for messages.

    Raises:
        ConfigError: unknown format, or a value that is not one of its choices.
        DataError: the root folder does not exist.
    """
    kind = params.get("format", "voc")
    if kind not in FORMATS:
        raise ConfigError(f"dataset '{name}': unknown format '{kind}'{did_you_mean(kind, FORMATS)}")
    # Imported by name, so that an edit of one format's reader concerns no dataset of another format.
    module = importlib.import_module(f"camflow.data.readers.{kind}")
    reader: type[Reader] = getattr(module, FORMATS[kind])
    used = {"root", *reader.COMMON, *reader.DEFAULTS}
    return reader({key: value for key, value in params.items() if key in used}, name)


class FolderIndex:
    """Finds the files of an id in a folder by one listing per (sub)folder instead of one probe per extension."""

    def __init__(self, folder: Path, suffixes: Sequence[str]):
        self.folder = folder
        self.suffixes = tuple(suffixes)
        self._listings: dict[str, dict[str, list[str]]] = {}

    def find(self, image_id: str) -> tuple[Path, ...]:
        """All files ``folder/id.*`` with a known extension, sorted."""
        parent, _, stem = image_id.rpartition("/")
        names = self._listing(parent).get(stem, ())
        return tuple(self.folder / parent / name for name in names)

    def stems(self) -> list[str]:
        """Ids of all files directly in the folder, sorted."""
        return sorted(self._listing(""))

    def _listing(self, parent: str) -> dict[str, list[str]]:
        if parent not in self._listings:
            listing: dict[str, list[str]] = {}
            folder = self.folder / parent
            for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
                stem = strip_suffix(name, self.suffixes)
                if stem != name:
                    listing.setdefault(stem, []).append(name)
            self._listings[parent] = listing
        return self._listings[parent]
