"""Label and box tables: CSV and JSON files keyed by image id, and VOC annotation XMLs."""

from __future__ import annotations

import csv
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from camflow.data.readers.base import read_lines
from camflow.errors import DataError

BOX_FORMATS = ("xyxy", "xyxy_inclusive", "xywh")
Row = tuple[str, float, float, float, float]  # class name, x1, y1, x2, y2, half-open


@dataclass
class Table:
    """Rows by image id. A row that cannot be read is kept as its error, so that the check can list all of them."""

    path: Path
    rows: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, DataError] = field(default_factory=dict)

    def __contains__(self, image_id: str) -> bool:
        return image_id in self.rows or image_id in self.errors

    def get(self, image_id: str, default: Any = None) -> Any:
        """The row of an image; raises the ``DataError`` of a broken row."""
        if image_id in self.errors:
            raise self.errors[image_id]
        return self.rows.get(image_id, default)

    def set(self, image_id: str, where: str, parse: Callable[[], Any]) -> None:
        """Add a row, turning a repeated id or a failing ``parse`` into the row's error."""
        try:
            if image_id in self:
                raise DataError(f"{where}: id '{image_id}' has a second row; keep one of them")
            self.rows[image_id] = parse()
        except DataError as error:
            self.errors[image_id] = error


# --- files -----------------------------------------------------------------------------------------------------------


def read_csv(path: Path, needed: Collection[str] = ()) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Header and rows (with their line number) of a CSV file with a header line.

    Raises:
        DataError: missing, not UTF-8, without one of the ``needed`` columns, or a row with too many or too few fields.
    """
    reader = csv.reader(read_lines(path), skipinitialspace=True)
    header = [item.strip() for item in next(reader, [])]
    missing = [item for item in needed if item not in header]
    if missing:
        found = ", ".join(header) or "nothing"
        raise DataError(
            f"{path}: the header lacks the column '{missing[0]}' (it has: {found}); add it to the first line"
        )
    rows = []
    for number, fields in enumerate(reader, start=2):
        if len(fields) != len(header):
            raise DataError(f"{path}: row {number} has {len(fields)} fields, the header has {len(header)}; correct it")
        rows.append((number, dict(zip(header, (item.strip() for item in fields), strict=True))))
    return header, rows


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ``DataError`` when missing, not JSON, not an object, or with a repeated key."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise DataError(f"{path}: the key '{twice}' occurs twice; keep one of them")
        return made

    try:
        value = json.loads("\n".join(read_lines(path)), object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: is not valid JSON (line {error.lineno}: {error.msg}); correct it") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds a {type(value).__name__}, not an object {{id: ...}}; correct it")
    return value


# --- labels ----------------------------------------------------------------------------------------------------------


def read_labels(path: Path, names: Collection[str]) -> Table:
    """Label table id -> list of class names, from JSON ``{id: [names]}`` or a CSV.

    A CSV has a column ``id`` and either a column ``labels`` (names separated by ``;``, ``,`` or, when no name has
    spaces, by spaces) or one 0/1 column per class.

    Args:
        path: the table.
        names: class names of the dataset, needed to tell names with spaces and to check the columns.
    """
    table = Table(path)
    if path.suffix.lower() == ".json":
        for image_id, value in read_json_object(path).items():
            table.set(image_id, str(path), lambda i=image_id, v=value: _name_list(v, f"{path}: '{i}'"))
        return table
    header, rows = read_csv(path, ["id"])
    if "labels" not in header and not set(header) & set(names):
        found = ", ".join(header)
        raise DataError(f"{path}: has neither a column 'labels' nor one per class (it has: {found}); add one of them")
    for number, row in rows:
        where = f"{path}: row {number}"
        image_id = row["id"]
        if "labels" in header:
            table.set(image_id, where, lambda t=row["labels"]: split_names(t, names))
        else:
            table.set(image_id, where, lambda r=row, w=where: _one_hot(r, w))
    return table


def split_names(text: str, names: Collection[str]) -> list[str]:
    """Class names in one CSV field."""
    if ";" in text or "," in text:
        return [item.strip() for item in re.split("[;,]", text) if item.strip()]
    return [text] if text in names else text.split()


def _name_list(value: Any, where: str) -> list[str]:
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DataError(f"{where} must be a list of class names, not {json.dumps(value)[:60]}; correct it")
    return value


def _one_hot(row: dict[str, str], where: str) -> list[str]:
    present = []
    for name, text in row.items():
        if name == "id":
            continue
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if value not in (0, 1):
            raise DataError(f"{where}: column '{name}' holds '{text}', not 0 or 1; correct it")
        if value:
            present.append(name)
    return present


# --- boxes -----------------------------------------------------------------------------------------------------------


def read_boxes(path: Path, box_format: str = "xyxy") -> Table:
    """Box table id -> list of ``(class name or "", x1, y1, x2, y2)``, half-open.

    From JSON ``{id: [[class, x1, y1, x2, y2], ...]}`` or a CSV with the columns ``id,x1,y1,x2,y2`` and optionally
    ``class`` (one row per box; for ``xywh`` the last two columns may be called ``w,h``).
    """
    table = Table(path)
    if path.suffix.lower() == ".json":
        for image_id, value in read_json_object(path).items():
            table.set(image_id, str(path), lambda i=image_id, v=value: _json_boxes(v, f"{path}: '{i}'", box_format))
        return table
    header, rows = read_csv(path, ["id"])
    last = ("w", "h") if "w" in header else ("x2", "y2")
    columns = ("x1", "y1", *last) if "x1" in header else ("x", "y", *last)
    missing = [item for item in columns if item not in header]
    if missing:
        raise DataError(f"{path}: the header lacks the column '{missing[0]}'; a box table has id,x1,y1,x2,y2[,class]")
    for number, row in rows:
        add_box(table, row["id"], row.get("class", ""), [row[item] for item in columns], f"row {number}", box_format)
    return table


def add_box(table: Table, image_id: str, name: str, corners: Sequence[Any], where: str, box_format: str) -> None:
    """Append one box to the rows of an image, or note why it cannot be read."""
    try:
        table.rows.setdefault(image_id, []).append(_box(name, corners, f"{table.path}: {where}", box_format))
    except DataError as error:
        table.errors.setdefault(image_id, error)


def _json_boxes(value: Any, where: str, box_format: str) -> list[Row]:
    if not isinstance(value, list) or not all(isinstance(item, list) and len(item) == 5 for item in value):
        raise DataError(f"{where} must be a list of [class, x1, y1, x2, y2]; correct it")
    return [_box(str(item[0]), item[1:], where, box_format) for item in value]


def _box(name: str, corners: Sequence[Any], where: str, box_format: str) -> Row:
    try:
        x1, y1, x2, y2 = (float(value) for value in corners)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: box {list(corners)} is not four numbers; correct it") from error
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise DataError(f"{where}: box {list(corners)} is not four finite numbers; correct it")
    if box_format == "xywh":
        x2, y2 = x1 + x2, y1 + y2
    elif box_format == "xyxy_inclusive":
        x2, y2 = x2 + 1, y2 + 1
    return name, x1, y1, x2, y2


# --- VOC XML ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class XmlObject:
    """One ``<object>`` of an annotation XML; the box is half-open, or None when the object has none."""

    name: str
    difficult: bool
    box: tuple[float, float, float, float] | None


def read_xml(path: Path, origin: int = 1) -> list[XmlObject]:
    """Objects of a VOC annotation XML.

    Args:
        path: the file.
        origin: coordinate of the first pixel; VOC counts from 1 and its maxima are inclusive, so that a box becomes
            ``xmin - 1, ymin - 1, xmax, ymax``.

    Raises:
        DataError: missing, not XML, an object without a name, or a coordinate that is not a number.
    """
    try:
        tree = ElementTree.parse(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: does not exist; add the annotation, or take the id out of the list") from error
    except (ElementTree.ParseError, OSError, ValueError) as error:
        raise DataError(f"{path}: is not readable XML ({error}); correct it") from error
    return [_xml_object(item, path, origin) for item in tree.getroot().findall("object")]


def _xml_object(item: ElementTree.Element, path: Path, origin: int) -> XmlObject:
    name = (item.findtext("name") or "").strip()
    if not name:
        raise DataError(f"{path}: an object has no <name>; correct it")
    box = item.find("bndbox")
    corners = None
    if box is not None:
        texts = [box.findtext(tag) for tag in ("xmin", "ymin", "xmax", "ymax")]
        _, x1, y1, x2, y2 = _box(name, texts, str(path), "xyxy")
        corners = (x1 - origin, y1 - origin, x2 - origin + 1, y2 - origin + 1)
    return XmlObject(name, (item.findtext("difficult") or "0").strip() == "1", corners)


def class_rows(objects: Iterable[XmlObject]) -> list[Row]:
    """Rows for ``Reader.box_array`` of the objects that have a box."""
    return [(item.name, *item.box) for item in objects if item.box is not None]
