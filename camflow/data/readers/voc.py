"""PASCAL VOC layout: photos, label maps and XMLs in folders, splits as id lists. Any root, any class list."""

from __future__ import annotations

from collections.abc import Mapping
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
    read_lines,
    strip_suffix,
)
from camflow.data.readers.codes import VOC_CLASSES, MaskCode, mask_code
from camflow.data.readers.tables import BOX_FORMATS, Table, class_rows, read_boxes, read_labels, read_xml
from camflow.errors import ConfigError, DataError

_LIST_FOLDER = Path("ImageSets/Segmentation")


class VocReader(Reader):
    """Reader of a VOC-like folder; the keys are described in the config schema.

    Id lists hold one id per line (``2007_000032``, a file extension is dropped), or the path of the photo and perhaps
    of its label map (``/JPEGImages/x.jpg /SegmentationClassAug/x.png``); ids may contain ``/`` and spaces.
    """

    format = "voc"
    DEFAULTS: Mapping[str, Any] = {
        "images": "JPEGImages",
        "lists": {},
        "masks": ["SegmentationClassAug", "SegmentationClass"],
        "mask_values": None,
        "labels": "masks",
        "boxes": None,
        "box_format": "xyxy",
        "annotations": "Annotations",
        "difficult": "include",
        "xml_origin": 1,
    }
    CHOICES: Mapping[str, tuple[Any, ...]] = {
        "difficult": ("include", "exclude"),
        "box_format": BOX_FORMATS,
        "xml_origin": (0, 1),
    }

    def __init__(self, params: Mapping[str, Any], name: str):
        super().__init__(params, name)
        self._images = FolderIndex(self.root / self.params["images"], IMAGE_SUFFIXES)
        self._masks = [FolderIndex(self.root / folder, (".png",)) for folder in self.params["masks"] or ()]
        self._xmls = FolderIndex(self.root / self.params["annotations"], (".xml",))
        self._entries: dict[str, tuple[list[str], dict[str, tuple[Path, Path | None]]]] = {}
        if self.params["labels"] == "masks" and not self._masks:
            raise ConfigError(f"dataset '{name}': labels: masks needs label maps; name their folders under `masks`, "
                              "or give labels: xml or the path of a label table")  # fmt: skip

    # --- planning ---

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        listed = read_lines(self._class_file) if self._class_file else VOC_CLASSES
        return chosen_classes(self.params["classes"], listed, self.name)

    @property
    def _class_file(self) -> Path | None:
        """``classes.txt`` of the dataset, where the config names no classes and there is one."""
        path = self.root / "classes.txt"
        return path if self.params["classes"] is None and path.is_file() else None

    @property
    def other_names(self) -> frozenset[str]:
        mapped = self.params["mask_values"]
        named = set(mapped) if isinstance(mapped, Mapping) else set()
        if set(self.class_names) <= set(VOC_CLASSES):
            named |= set(VOC_CLASSES)
        return frozenset(named - set(self.class_names))

    @property
    def splits(self) -> tuple[str, ...]:
        found = {path.stem for path in (self.root / _LIST_FOLDER).glob("*.txt")}
        return tuple(sorted(found | set(self.params["lists"] or ())))

    def ids(self, split: str) -> list[str]:
        return list(self._split(split)[0])

    def sources(self, split: str) -> Sources:
        ids = dict.fromkeys(self.ids(split))
        masks = {i: self._mask_path(i, split) for i in ids}
        mask_files = {i: (path,) if path else () for i, path in masks.items()}
        xmls = {i: self._xmls.find(i) for i in ids} if "xml" in (self.params["labels"], self.params["boxes"]) else {}
        labels = {"masks": mask_files, "xml": xmls}.get(self.params["labels"], {})
        boxes = xmls if self.params["boxes"] == "xml" else {}
        shared = {facet: (table,) for facet, table in self._table_paths().items()}
        if self._class_file:  # decides what every label and mask value means
            shared = {facet: (*shared.get(facet, ()), self._class_file) for facet in ("masks", "labels", "boxes")}
        return Sources({i: self._image_paths(i, split) for i in ids}, mask_files, labels, boxes, shared)

    def _table_paths(self) -> dict[str, Path]:
        special = {"labels": ("masks", "xml"), "boxes": ("xml", None)}
        return {key: self.resolve(self.params[key]) for key in special if self.params[key] not in special[key]}

    def _split(self, split: str) -> tuple[list[str], dict[str, tuple[Path, Path | None]]]:
        """Ids of a split, and the (photo, label map) paths of those whose list line spells them."""
        if split not in self._entries:
            given = (self.params["lists"] or {}).get(split)
            path = self.resolve(given) if given else self.root / _LIST_FOLDER / f"{split}.txt"
            if not path.is_file():
                raise self.no_split(split, path)
            parsed = [_parse_line(line) for line in read_lines(path)]
            spelled = {i: (self.root / photo, self.root / mask if mask else None) for i, photo, mask in parsed if photo}
            self._entries[split] = [item[0] for item in parsed], spelled
        return self._entries[split]

    def _image_paths(self, image_id: str, split: str) -> tuple[Path, ...]:
        spelled = self._split(split)[1].get(image_id)
        if spelled is None:
            return self._images.find(image_id)
        return (spelled[0],) if spelled[0].is_file() else ()

    def _mask_path(self, image_id: str, split: str) -> Path | None:
        if not self._masks:
            return None
        spelled = self._split(split)[1].get(image_id, (None, None))[1]
        if spelled is not None:  # a list that names the label map means that one and no other
            return spelled if spelled.is_file() else None
        return next((found[0] for folder in self._masks if (found := folder.find(image_id))), None)

    # --- reading ---

    @cached_property
    def _code(self) -> MaskCode | None:
        if not self._masks:
            return None
        return mask_code(self.params["mask_values"], self.class_names, self.params["other_classes"], self.name)

    @property
    def mask_lut(self) -> np.ndarray | None:
        return self._code.lut if self._code else None

    @cached_property
    def _label_table(self) -> Table | None:
        path = self._table_paths().get("labels")
        return read_labels(path, {*self.class_names, *self.other_names}) if path else None

    @cached_property
    def _box_table(self) -> Table | None:
        path = self._table_paths().get("boxes")
        return read_boxes(path, self.params["box_format"]) if path else None

    def prepare(self, split: str) -> list[str]:
        problems = []
        for load in (lambda: self._code, lambda: self._label_table, lambda: self._box_table):
            try:
                load()
            except (DataError, ConfigError) as error:
                problems.append(str(error))
        return problems

    def record(self, image_id: str, split: str) -> Record:
        image = self.one_image(self._image_paths(image_id, split), image_id, self._images.folder)
        mask = self._mask_path(image_id, split)
        return Record(image_id, image, mask, lambda: self._read_mask(mask), self._read_labels, self._read_boxes)

    def _read_mask(self, path: Path | None) -> np.ndarray | None:
        if path is None:
            return None
        from camflow.data.images import open_label_map

        return self._code.apply(open_label_map(path), path)

    def _read_labels(self, record: Record) -> np.ndarray:
        if self.params["labels"] == "xml":
            return self.label_vector((item.name for item in self._objects(record)), f"image '{record.id}'")
        if self.params["labels"] == "masks":
            if record.mask is None:
                folders = ", ".join(str(folder.folder) for folder in self._masks)
                raise DataError(f"image '{record.id}': no label map in {folders}, and its labels come from there; "
                                "add it, or give labels: xml or a label table")  # fmt: skip
            present = np.bincount(record.mask.ravel(), minlength=IGNORE + 1)[1 : len(self.class_names) + 1]
            return (present > 0).astype(np.uint8)
        names = self._label_table.get(record.id)
        if names is None:
            raise DataError(f"image '{record.id}': no row in the label table {self._label_table.path}; "
                            "add one, or take the id out of the list")  # fmt: skip
        return self.label_vector(names, f"image '{record.id}' in {self._label_table.path}")

    def _read_boxes(self, record: Record) -> np.ndarray:
        where = f"image '{record.id}'"
        if self.params["boxes"] == "xml":
            return self.box_array(class_rows(self._objects(record)), record, where)
        if self._box_table is None:
            return self.box_array((), record, where)
        return self.box_array(self._box_table.get(record.id, ()), record, f"{where} in {self._box_table.path}")

    def _objects(self, record: Record) -> list:
        found = self._xmls.find(record.id)
        path = found[0] if found else self._xmls.folder / f"{record.id}.xml"
        objects = read_xml(path, self.params["xml_origin"])
        keep_difficult = self.params["difficult"] == "include"
        return [item for item in objects if keep_difficult or not item.difficult]


def _parse_line(line: str) -> tuple[str, str | None, str | None]:
    """Id, photo path and label map path of one line of a list; the paths are None when the line holds an id."""
    words = line.split()
    if line.startswith("/") or (len(words) == 2 and all("/" in word and "." in word for word in words)):
        photo, *masks = (word.lstrip("/") for word in words)
        return strip_suffix(Path(photo).name, IMAGE_SUFFIXES), photo, masks[0] if masks else None
    return strip_suffix(line, IMAGE_SUFFIXES), None, None
