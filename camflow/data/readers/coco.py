"""COCO instances: photos in a folder per split, everything else in one annotation JSON per split."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from camflow.data.readers.base import (
    COMMON_DEFAULTS,
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
from camflow.errors import DataError, did_you_mean

# Official order (that of the category ids 1..90, ten of which are unused).
COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
    "hair drier", "toothbrush",
)  # fmt: skip


class CocoReader(Reader):
    """Reader of COCO-like data; the keys are described in the config schema.

    Ids are the file stems of the photos (``COCO_train2014_000000000009``). Label maps are drawn from the annotations in
    file order, later ones over earlier ones, as ``annToMask`` does; crowd annotations give neither labels, boxes nor
    (unless ``crowd: ignore``) pixels. An image without annotations is all background.
    """

    format = "coco"
    COMMON: Mapping[str, Any] = {**COMMON_DEFAULTS, "allow_unlabelled": True, "on_duplicate": "note"}
    DEFAULTS: Mapping[str, Any] = {
        "images": "{split}2014",
        "annotations": "annotations/instances_{split}2014.json",
        "lists": {},
        "masks": True,
        "crowd": "background",
    }
    CHOICES: Mapping[str, tuple[Any, ...]] = {"masks": (True, False), "crowd": ("background", "ignore")}

    def __init__(self, params: Mapping[str, Any], name: str):
        super().__init__(params, name)
        self._folders: dict[str, FolderIndex] = {}

    # --- planning: the JSON stays closed ---

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        return chosen_classes(self.params["classes"], COCO_CLASSES, self.name)

    @property
    def splits(self) -> tuple[str, ...]:
        listed = [self.params[key] for key in ("images", "annotations") if isinstance(self.params[key], Mapping)]
        names = set().union(*listed) if listed else {"train", "val", "test"}
        return tuple(sorted(name for name in names if self._has(name)))

    def _has(self, split: str) -> bool:
        folder, json_path = (per_split(self.params[key], split) for key in ("images", "annotations"))
        return bool(folder and json_path) and self.resolve(folder).is_dir() and self.resolve(json_path).is_file()

    def ids(self, split: str) -> list[str]:
        given = (self.params["lists"] or {}).get(split)
        if not given:
            return self._folder(split).stems()
        path = self.resolve(given)
        if not path.is_file():
            raise self.no_split(split, path)
        return [strip_suffix(line, IMAGE_SUFFIXES) for line in read_lines(path)]

    def sources(self, split: str) -> Sources:
        folder, annotations = self._folder(split), (self._json_path(split),)
        facets = ("labels", "boxes", "masks") if self.params["masks"] else ("labels", "boxes")
        return Sources({i: folder.find(i) for i in self.ids(split)}, shared=dict.fromkeys(facets, annotations))

    def _folder(self, split: str) -> FolderIndex:
        if split not in self._folders:
            value = per_split(self.params["images"], split)
            path = self.resolve(value) if value else None
            if path is None or not path.is_dir():
                raise self.no_split(split, path or f"`images` for '{split}'")
            self._folders[split] = FolderIndex(path, IMAGE_SUFFIXES)
        return self._folders[split]

    def _json_path(self, split: str) -> Path:
        value = per_split(self.params["annotations"], split)
        if not value:
            raise self.no_split(split, f"`annotations` for '{split}'")
        return self.resolve(value)

    # --- reading ---

    @property
    def renders_masks(self) -> bool:
        return self.params["masks"]

    def prepare(self, split: str) -> list[str]:
        try:
            known = self._instances(split).categories
        except DataError as error:
            return [str(error)]
        unknown = [name for name in self.class_names if name not in known]
        path = self._json_path(split)
        return [f"{path}: has no category '{name}'{did_you_mean(name, known)}" for name in unknown[:3]]

    def _instances(self, split: str) -> Instances:
        path = self._json_path(split)
        try:
            stat = path.stat()
        except OSError as error:
            raise DataError(f"{path}: does not exist; correct `annotations` in the config") from error
        return load_instances(path, stat.st_mtime_ns, stat.st_size)

    def record(self, image_id: str, split: str) -> Record:
        folder = self._folder(split)
        image = self.one_image(folder.find(image_id), image_id, folder.folder)
        instances = self._instances(split)
        entry = instances.images.get(image_id)
        if entry is None:
            raise DataError(
                f"image '{image_id}': not in {self._json_path(split)}; remove the file or complete the JSON"
            )
        shapes = [shape for shape in entry.shapes if not (shape.crowd and self.params["crowd"] == "background")]
        return Record(
            image_id, image, None,
            lambda: self._draw(entry, shapes, instances.names) if self.params["masks"] else None,
            lambda record: self._labels(entry, instances.names),
            lambda record: self._boxes(entry, instances.names),
        )  # fmt: skip

    def _index(self, shape: Shape, names: Mapping[int, str]) -> int | None:
        return self._index_of.get(names.get(shape.category, ""))

    def _labels(self, entry: Entry, names: Mapping[int, str]) -> np.ndarray:
        vector = np.zeros(len(self.class_names), np.uint8)
        present = (self._index(shape, names) for shape in entry.shapes if not shape.crowd)
        vector[[index for index in present if index is not None]] = 1
        return vector

    def _boxes(self, entry: Entry, names: Mapping[int, str]) -> np.ndarray:
        rows = []
        for shape in entry.shapes:
            index = self._index(shape, names)
            if index is not None and not shape.crowd and len(shape.box) == 4:
                x, y, w, h = shape.box
                # The tightest whole pixels around a box given in fractions; rounding may not leave the image.
                rows.append([index, math.floor(x), math.floor(y),
                             min(math.ceil(x + w), entry.width), min(math.ceil(y + h), entry.height)])  # fmt: skip
        return np.array(rows, np.int32).reshape(-1, 5)

    def _draw(self, entry: Entry, shapes: list[Shape], names: Mapping[int, str]) -> np.ndarray:
        """Label map uint8 (H, W) of one image, drawn in annotation order."""
        label_map = np.zeros((entry.height, entry.width), np.uint8)
        other = 0 if self.params["other_classes"] == "background" else IGNORE
        for shape in shapes:
            index = self._index(shape, names)
            value = IGNORE if shape.crowd else other if index is None else index + 1
            label_map[shape_mask(shape, entry)] = value
        return label_map


# --- the annotation file ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Shape:
    """One annotation. ``outline``: polygons as flat x, y arrays, or a run-length dict, or None."""

    id: int
    category: int
    crowd: bool
    box: tuple[float, ...]
    outline: list[array] | dict[str, Any] | None


@dataclass(slots=True)
class Entry:
    """One image of the JSON with its annotations in file order."""

    file_name: str
    height: int
    width: int
    shapes: list[Shape] = field(default_factory=list)


@dataclass(frozen=True)
class Instances:
    """An annotation JSON: images by file stem, category names by id."""

    images: dict[str, Entry]
    names: dict[int, str]

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(self.names.values())


@lru_cache(maxsize=4)
def load_instances(path: Path, mtime_ns: int, size: int) -> Instances:
    """Parse an annotation JSON, once per process and version of the file (hence the time and size).

    Polygons are packed into arrays: as Python lists those of train2014 would take several gigabytes.

    Raises:
        DataError: not JSON, or without the keys of a COCO instances file.
    """
    try:
        with open(path, encoding="utf-8") as handle:
            content = json.load(handle)
        by_id = {item["id"]: Entry(item["file_name"], item["height"], item["width"]) for item in content["images"]}
        names = {item["id"]: item["name"] for item in content["categories"]}
        annotations = content["annotations"]
        while annotations:  # popped, so that the parsed text is freed as the packed form grows
            item = annotations.pop()
            if item["image_id"] not in by_id:
                raise DataError(
                    f"{path}: annotation {item['id']} is of the unknown image {item['image_id']}; correct it"
                )
            by_id[item["image_id"]].shapes.append(_shape(item))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is not valid JSON ({error}); correct it or download it again") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: is not a COCO instances file (trouble at {error}); "
                        "it needs images, categories and annotations") from error  # fmt: skip
    for entry in by_id.values():
        entry.shapes.reverse()
    return Instances({strip_suffix(Path(e.file_name).name, IMAGE_SUFFIXES): e for e in by_id.values()}, names)


def _shape(item: dict[str, Any]) -> Shape:
    outline = item.get("segmentation")
    if isinstance(outline, list):
        outline = [array("d", polygon) for polygon in outline]
    box = tuple(map(float, item.get("bbox", ())))
    return Shape(item["id"], item["category_id"], bool(item.get("iscrowd", 0)), box, outline or None)


def shape_mask(shape: Shape, entry: Entry) -> np.ndarray:
    """bool (H, W) of one annotation, by pycocotools.

    Raises:
        DataError: no outline, a malformed one, or a run-length code of another image size.
    """
    from pycocotools import mask as coco_mask

    where = f"{entry.file_name}: annotation {shape.id}"
    outline = shape.outline
    if outline is None:
        raise DataError(f"{where} has no segmentation; add it, or set masks: false to use labels and boxes only")
    try:
        if isinstance(outline, dict):
            runs = outline
            if isinstance(outline["counts"], list):
                runs = coco_mask.frPyObjects(outline, *outline["size"])
            drawn = coco_mask.decode(runs)
        else:
            polygons = [polygon.tolist() for polygon in outline]
            drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, entry.height, entry.width)))
    except Exception as error:  # pycocotools raises bare Exception, TypeError and others
        raise DataError(f"{where} has a malformed segmentation ({error}); correct it") from error
    if drawn.shape != (entry.height, entry.width):
        raise DataError(f"{where} is {drawn.shape[0]}x{drawn.shape[1]} but its image is {entry.height}x{entry.width}; "
                        "correct it")  # fmt: skip
    return drawn.astype(bool)
