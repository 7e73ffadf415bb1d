"""Classification folders with optional box tables: class folders, CSV tables, CUB-200 files, WSOL metadata."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from camflow.data.readers.base import (
    IMAGE_SUFFIXES,
    FolderIndex,
    Reader,
    Record,
    Sources,
    chosen_classes,
    per_split,
    read_lines,
    strip_suffix,
)
from camflow.data.readers.codes import MaskCode, mask_code
from camflow.data.readers.tables import BOX_FORMATS, Table, add_box, read_boxes, read_csv, split_names
from camflow.errors import ConfigError, DataError


@dataclass
class Listing:
    """One split: ids in order (repeats included), and per id its photos and class names."""

    ids: list[str] = field(default_factory=list)
    images: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def add(self, image_id: str, image: Path, names: tuple[str, ...], *, again: bool = False) -> None:
        """Append a row; ``again`` adds a further file of an id instead of a repeated id."""
        if not (again and image_id in self.images):
            self.ids.append(image_id)
        known = self.images.get(image_id, ())
        self.images[image_id] = known if image in known else (*known, image)
        self.names[image_id] = tuple(dict.fromkeys((*self.names.get(image_id, ()), *names)))


class FolderReader(Reader):
    """Reader of classification data; the keys are described in the config schema.

    Layouts: ``folders`` is ``root/SPLIT/CLASS/*.jpg``, where the id is ``CLASS/stem``; ``table`` is a CSV of
    ``id,path,class[,split]``; ``cub`` is the file set of CUB-200 (``images.txt`` ...), where the id is the photo's
    path below ``images`` without extension; ``wsol`` is the metadata of the WSOL benchmark, where it is the path.
    """

    format = "folder"
    DEFAULTS: Mapping[str, Any] = {
        "layout": "folders",
        "images": None,
        "folders": "{split}",
        "tables": "{split}.csv",
        "metadata": "metadata/{split}",
        "boxes": None,
        "box_format": "xyxy",
        "masks": None,
        "mask_values": "index",
    }
    CHOICES: Mapping[str, tuple[Any, ...]] = {"layout": ("folders", "table", "cub", "wsol"), "box_format": BOX_FORMATS}

    def __init__(self, params: Mapping[str, Any], name: str):
        super().__init__(params, name)
        self._listings: dict[str, Listing] = {}
        self._box_tables: dict[Path, Table] = {}
        folder = self.params["masks"]
        self._masks = FolderIndex(self.root / folder, (".png",)) if folder else None

    # --- planning ---

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        given = self.params["classes"]
        return chosen_classes(self._found_classes() if given is None else given, (), self.name)

    def _found_classes(self) -> list[str]:
        layout = self.params["layout"]
        if layout == "folders":
            folder = self._split_folder("train")
            return sorted(item.name for item in os.scandir(folder) if item.is_dir() and not item.name.startswith("."))
        if layout == "cub":
            return list(_numbered(self.root / "classes.txt").values())
        raise ConfigError(f"dataset '{self.name}': layout {layout} needs `classes`, the class names in order")

    @property
    def splits(self) -> tuple[str, ...]:
        if self.params["layout"] == "cub":
            return ("test", "train")
        key = {"folders": "folders", "table": "tables", "wsol": "metadata"}[self.params["layout"]]
        value = self.params[key]
        names = set(value) if isinstance(value, Mapping) else {"train", "val", "test"}
        return tuple(sorted(name for name in names if self.resolve(per_split(value, name)).exists()))

    def ids(self, split: str) -> list[str]:
        return list(self._listing(split).ids)

    def sources(self, split: str) -> Sources:
        listing = self._listing(split)
        images = {i: tuple(p for p in paths if p.is_file()) for i, paths in listing.images.items()}
        masks = {i: self._masks.find(i)[:1] for i in listing.images} if self._masks else {}
        labels, boxes = self._label_files(split), self._box_files(split)
        return Sources(images, masks, {}, {}, {k: v for k, v in (("labels", labels), ("boxes", boxes)) if v})

    def _label_files(self, split: str) -> tuple[Path, ...]:
        layout = self.params["layout"]
        if layout == "table":
            return (self.resolve(per_split(self.params["tables"], split)),)
        if layout == "cub":
            return tuple(self.root / name for name in ("images.txt", "image_class_labels.txt", "classes.txt"))
        return (self._metadata(split) / "class_labels.txt",) if layout == "wsol" else ()

    def _box_files(self, split: str) -> tuple[Path, ...]:
        given = self.params["boxes"]
        if given:
            value = per_split(given, split)
            return (self.resolve(value),) if value else ()
        if self.params["layout"] == "cub":
            files = (self.root / "images.txt", self.root / "bounding_boxes.txt")
            return files if files[1].is_file() else ()
        if self.params["layout"] == "wsol":
            path = self._metadata(split) / "localization.txt"
            return (path,) if path.is_file() else ()
        return ()

    def _split_folder(self, split: str) -> Path:
        value = per_split(self.params["folders"], split)
        path = self.resolve(value) if value else None
        if path is None or not path.is_dir():
            raise self.no_split(split, path or f"`folders` for '{split}'")
        return path

    def _metadata(self, split: str) -> Path:
        value = per_split(self.params["metadata"], split)
        path = self.resolve(value) if value else None
        if path is None or not path.is_dir():
            raise self.no_split(split, path or f"`metadata` for '{split}'")
        return path

    def _listing(self, split: str) -> Listing:
        if split not in self._listings:
            make = {"folders": self._from_folders, "table": self._from_table,
                    "cub": self._from_cub, "wsol": self._from_wsol}[self.params["layout"]]  # fmt: skip
            self._listings[split] = make(split)
        return self._listings[split]

    def _image_root(self, default: str = "") -> Path:
        return self.root / (self.params["images"] or default)

    def _from_folders(self, split: str) -> Listing:
        top, listing = self._split_folder(split), Listing()
        wanted = None if self.params["classes"] is None else set(self.class_names)
        for class_folder in sorted(item.name for item in os.scandir(top) if item.is_dir()):
            if class_folder.startswith(".") or (wanted is not None and class_folder not in wanted):
                continue  # a folder outside `classes` is a class left out on purpose
            for path in _photos(top / class_folder):
                stem = strip_suffix(path.relative_to(top).as_posix(), IMAGE_SUFFIXES)
                listing.add(stem, path, (class_folder,), again=True)
        return listing

    def _from_table(self, split: str) -> Listing:
        value = per_split(self.params["tables"], split)
        path = self.resolve(value) if value else None
        if path is None or not path.is_file():
            raise self.no_split(split, path or f"`tables` for '{split}'")
        listing = Listing()
        for _, row in read_csv(path, ["path", "class"])[1]:
            if row.get("split", split) == split:
                image_id = row.get("id") or strip_suffix(row["path"], IMAGE_SUFFIXES)
                listing.add(
                    image_id, self._image_root() / row["path"], tuple(split_names(row["class"], self.class_names))
                )
        return listing

    def _from_cub(self, split: str) -> Listing:
        is_train = {"train": "1", "val": "0", "test": "0"}.get(split)
        if is_train is None:
            raise self.no_split(split, f"CUB has train and test; '{split}'")
        photos, side = _numbered(self.root / "images.txt"), _numbered(self.root / "train_test_split.txt")
        labels, names = _numbered(self.root / "image_class_labels.txt"), _numbered(self.root / "classes.txt")
        listing, top = Listing(), self._image_root("images")
        for number, photo in photos.items():
            if side.get(number) == is_train:
                name = names.get(labels.get(number, ""))
                listing.add(strip_suffix(photo, IMAGE_SUFFIXES), top / photo, (name,) if name else ())
        return listing

    def _from_wsol(self, split: str) -> Listing:
        folder, top, listing = self._metadata(split), self._image_root(), Listing()
        labels = dict(line.rsplit(",", 1) for line in _comma_lines(folder / "class_labels.txt"))
        for image_id in read_lines(folder / "image_ids.txt"):
            listing.add(image_id, top / image_id, self._numbered_class(labels.get(image_id), folder))
        return listing

    def _numbered_class(self, number: str | None, folder: Path) -> tuple[str, ...]:
        if number is None:
            return ()
        if not number.strip().isdigit() or int(number) >= len(self.class_names):
            top = len(self.class_names) - 1
            raise DataError(f"{folder / 'class_labels.txt'}: class {number} is not in 0..{top}; complete `classes`")
        return (self.class_names[int(number)],)

    # --- reading ---

    @cached_property
    def _code(self) -> MaskCode | None:
        if self._masks is None:
            return None
        return mask_code(self.params["mask_values"], self.class_names, self.params["other_classes"], self.name)

    @property
    def mask_lut(self) -> np.ndarray | None:
        return self._code.lut if self._code else None

    def prepare(self, split: str) -> list[str]:
        problems = []
        for load in (lambda: self._listing(split), lambda: self._boxes_of(split), lambda: self._code):
            try:
                load()
            except (DataError, ConfigError) as error:
                problems.append(str(error))
        return problems

    def _boxes_of(self, split: str) -> Table | None:
        files = self._box_files(split)
        if not files:
            return None
        path = files[-1]
        if path not in self._box_tables:
            if self.params["boxes"]:
                self._box_tables[path] = read_boxes(path, self.params["box_format"])
            elif self.params["layout"] == "cub":
                self._box_tables[path] = _cub_boxes(path, _numbered(files[0]))
            else:
                self._box_tables[path] = _wsol_boxes(path, self.params["box_format"])
        return self._box_tables[path]

    def record(self, image_id: str, split: str) -> Record:
        listing = self._listing(split)
        candidates = listing.images.get(image_id, ())
        found = [path for path in candidates if path.is_file()]
        image = self.one_image(found, image_id, candidates[0].parent if candidates else self.root)
        masks = self._masks.find(image_id) if self._masks else ()
        mask = masks[0] if masks else None
        return Record(
            image_id, image, mask,
            lambda: self._read_mask(mask),
            lambda record: self._read_labels(image_id, split),
            lambda record: self._read_boxes(record, split),
        )  # fmt: skip

    def _read_labels(self, image_id: str, split: str) -> np.ndarray:
        names = self._listing(split).names[image_id]
        if not names and self._label_files(split):
            raise DataError(f"image '{image_id}': no label in {self._label_files(split)[-1]}; add one")
        return self.label_vector(names, f"image '{image_id}'")

    def _read_boxes(self, record: Record, split: str) -> np.ndarray:
        table = self._boxes_of(split)
        rows = table.get(record.id, ()) if table else ()
        return self.box_array(rows, record, f"image '{record.id}'")

    def _read_mask(self, path: Path | None) -> np.ndarray | None:
        if path is None:
            return None
        from camflow.data.images import open_label_map

        return self._code.apply(open_label_map(path), path)


def _photos(folder: Path) -> Iterator[Path]:
    """Photos anywhere below a class folder, in a fixed order."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(names):
            if not name.startswith(".") and strip_suffix(name, IMAGE_SUFFIXES) != name:
                yield Path(parent, name)


def _numbered(path: Path) -> dict[str, str]:
    """A CUB file of lines ``number rest-of-line``. Raises ``DataError`` naming a line of another form."""
    rows: dict[str, str] = {}
    for line in read_lines(path):
        number, _, rest = line.partition(" ")
        if not number.isdigit() or not rest or number in rows:
            raise DataError(f"{path}: the line '{line}' is not 'number value' with a new number; correct it")
        rows[number] = rest.strip()
    return rows


def _cub_boxes(path: Path, photos: Mapping[str, str]) -> Table:
    table = Table(path)
    for number, text in _numbered(path).items():
        if number in photos:
            image_id = strip_suffix(photos[number], IMAGE_SUFFIXES)
            add_box(table, image_id, "", text.split(), f"image {number}", "xywh")
    return table


def _wsol_boxes(path: Path, box_format: str) -> Table:
    table = Table(path)
    for line in _comma_lines(path):
        image_id, *corners = line.rsplit(",", 4)
        add_box(table, image_id, "", corners, f"'{line}'", box_format)
    return table


def _comma_lines(path: Path) -> list[str]:
    lines = read_lines(path)
    for line in lines:
        if "," not in line:
            raise DataError(f"{path}: the line '{line}' has no comma; it should start with 'image id,'")
    return lines
