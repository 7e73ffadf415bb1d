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
    IGNORE,
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

    Where a split's ``localization.txt`` of layout ``wsol`` lists masks (OpenImages) instead of boxes, its label maps are
    drawn from them: the union of an image's masks, each resized to the photo by nearest neighbour, is its class, what
    only the ignore mask covers is to be ignored. The paths are relative to ``masks``, or to the photos' folder.
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
        self._mask_lists: dict[str, dict[str, MaskFiles] | None] = {}
        self._prepared: str | None = None
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
        if layout == "wsol":
            return self._wsol_folders()
        raise ConfigError(f"dataset '{self.name}': layout {layout} needs `classes`, the class names in order")

    def _wsol_folders(self) -> list[str]:
        """The folder of each class's training photos, in the order of the class numbers."""
        path, folders = self._metadata("train") / "class_labels.txt", {}
        for image_id, number in (line.rsplit(",", 1) for line in _comma_lines(path)):
            name = Path(image_id).parent.name
            if not number.strip().isdigit() or not name or folders.setdefault(int(number), name) != name:
                break
        else:
            if sorted(folders) == list(range(len(set(folders.values())))) and folders:
                return [folders[number] for number in range(len(folders))]
        raise ConfigError(
            f"dataset '{self.name}': the photos in {path} do not lie in one folder a class, so the classes have no names; "
            "give `classes`, the class names in order"
        )

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
        labels, boxes, drawn = self._label_files(split), self._box_files(split), self._masks_of(split)
        shared = {"labels": labels, "boxes": boxes}
        if drawn is not None:
            masks = {i: drawn[i].existing() if i in drawn else () for i in listing.images}
            shared["masks"] = (self._localization(split), *labels)  # a mask is of the image's class
        else:
            masks = {i: self._masks.find(i)[:1] for i in listing.images} if self._masks else {}
        return Sources(images, masks, {}, {}, {k: v for k, v in shared.items() if v})

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
            path = self._localization(split)
            return (path,) if path.is_file() and self._masks_of(split) is None else ()
        return ()

    def _localization(self, split: str) -> Path:
        return self._metadata(split) / "localization.txt"

    def _masks_of(self, split: str) -> dict[str, MaskFiles] | None:
        """The mask files of each image of a split; None where it has boxes, or neither."""
        if split not in self._mask_lists:
            path = self._localization(split) if self.params["layout"] == "wsol" else None
            has_any = path is not None and path.is_file()
            folder = self.root / (self.params["masks"] or self.params["images"] or "")
            self._mask_lists[split] = _wsol_masks(path, folder) if has_any else None
        return self._mask_lists[split]

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
    def renders_masks(self) -> bool:
        """Of the split that was prepared last: OpenImages has masks where it is scored, none where it is trained on."""
        return self._prepared is not None and self._masks_of(self._prepared) is not None

    @property
    def mask_lut(self) -> np.ndarray | None:
        return self._code.lut if self._code else None

    def prepare(self, split: str) -> list[str]:
        problems = []
        loads = (lambda: self._listing(split), lambda: self._masks_of(split), lambda: self._boxes_of(split))
        for load in (*loads, lambda: self._code):
            try:
                load()
            except (DataError, ConfigError) as error:
                if str(error) not in problems:
                    problems.append(str(error))
        self._prepared = split
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
        drawn = self._masks_of(split)
        masks = self._masks.find(image_id) if self._masks and drawn is None else ()
        mask = masks[0] if masks else None
        return Record(
            image_id, image, mask,
            lambda: self._read_mask(mask) if drawn is None else self._draw(image_id, image, split, drawn),
            lambda record: self._read_labels(image_id, split),
            lambda record: self._read_boxes(record, split),
        )  # fmt: skip

    def _draw(self, image_id: str, image: Path, split: str, drawn: Mapping[str, MaskFiles]) -> np.ndarray:
        """The label map uint8 (H, W) of an image's masks."""
        from camflow.data.images import open_image

        files = drawn.get(image_id)
        if files is None:
            raise DataError(f"image '{image_id}': no mask in {self._localization(split)}; add one")
        present = np.flatnonzero(self._read_labels(image_id, split))
        if present[0] + 1 >= IGNORE:
            raise DataError(f"image '{image_id}': its class is number {present[0] + 1}, a label map holds {IGNORE - 1}")
        size = open_image(image).shape[:2]
        objects = np.zeros(size, bool)
        for path in files.objects:
            objects |= _binary_mask(path, size)
        labels = np.where(objects, present[0] + 1, 0).astype(np.uint8)
        if files.ignore is not None:
            labels[_binary_mask(files.ignore, size) & ~objects] = IGNORE
        return labels

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


@dataclass
class MaskFiles:
    """The masks of one image: PNG files, where a pixel that is not 0 belongs to the object, and one to ignore."""

    objects: list[Path] = field(default_factory=list)
    ignore: Path | None = None

    def existing(self) -> tuple[Path, ...]:
        """All files, or none where one is missing."""
        files = (*self.objects, *([self.ignore] if self.ignore else []))
        return files if all(path.is_file() for path in files) else ()


def _wsol_masks(path: Path, folder: Path) -> dict[str, MaskFiles] | None:
    """The lines ``id,mask.png,ignore.png`` of a localization.txt; None where it lists boxes.

    An image has a line for each of its masks; the ignore mask is on the first of them, and may be lacking.
    """
    lines = _comma_lines(path)
    if not any(part.strip().lower().endswith(".png") for line in lines[:1] for part in line.split(",")[1:]):
        return None
    masks: dict[str, MaskFiles] = {}
    for line in lines:
        image_id, mask, *ignore = (part.strip() for part in line.split(","))
        if not mask.lower().endswith(".png") or len(ignore) > 1:
            raise DataError(f"{path}: the line '{line}' is not 'id,mask.png,ignore.png'; correct it")
        files = masks.setdefault(image_id, MaskFiles())
        if not files.objects and any(ignore):
            files.ignore = folder / ignore[0]
        files.objects.append(folder / mask)
    return masks


def _binary_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A mask file as bool (H, W), resized by nearest neighbour: row i comes from floor(i * h / H)."""
    from camflow.data.images import open_label_map

    stored = open_label_map(path)
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, stored.shape, strict=True))
    return stored[np.ix_(rows, columns)] > 0


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
