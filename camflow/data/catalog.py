"""The one table of a split that every later stage reads: ids, labels, sizes, boxes, and where the pixels are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from camflow.data.images import open_image, open_label_map
from camflow.data.paths import expand
from camflow.errors import DataError
from camflow.store import Store, shard_of


class Catalog:
    """A checked split, or a part of it. Holds tables, never pixels; picklable, safe in forked and spawned workers.

    Attributes:
        class_names: foreground classes in order.
        split, dataset: names.
        ids: image ids, sorted.
        labels: uint8 (N, C) of 0/1.
        sizes: int32 (N, 2), height and width of the upright photos.
        has_masks: whether any image has a label map.

    Args:
        path: a store written by ``write_catalog``.
        root: the dataset's folder, when it has moved since the catalog was written.

    Raises:
        StoreError: missing, torn, or not a catalog.
    """

    def __init__(self, path: str | Path, root: str | Path | None = None):
        self._store = Store(path, stage="catalog")
        self.path = self._store.path
        self.class_names: list[str] = self._store.class_names
        self.split: str = self._store.meta["split"]
        self.dataset: str = self._store.meta["dataset"]
        self._masks_stored: bool = self._store.meta["masks_stored"]
        # Absolute from here on: a worker process may have another working folder.
        self.root = expand(root if root is not None else self._store.meta["root"]).absolute()
        self._rows: np.ndarray | None = None  # rows of the file that this part holds; None: all
        self._tables: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        # A worker reads the tables it needs itself; sending them would cost more than the photos.
        return {**self.__dict__, "_tables": {}}

    # --- tables ---

    def _table(self, name: str) -> np.ndarray:
        if name not in self._tables:
            self._tables[name] = self._store.table(name)
            self._store.close()
        return self._tables[name]

    def _part(self, name: str) -> np.ndarray:
        table = self._table(name)
        return table if self._rows is None else table[self._rows]

    def _row(self, image_id: str) -> int:
        """Row of an image in the file."""
        if "row" not in self._tables:
            names = self._table("image_id")
            rows = range(len(names)) if self._rows is None else self._rows.tolist()
            self._tables["row"] = {names[row]: row for row in rows}
        try:
            return self._tables["row"][image_id]
        except KeyError as error:
            raise DataError(f"{self.path}: has no image '{image_id}'; it is not in split '{self.split}', "
                            "or the check left it out") from error  # fmt: skip

    def _slice(self, name: str, row: int) -> np.ndarray:
        offset = self._table(f"{name}_offset")
        column = "label_index" if name == "label" else name
        return self._table(column)[offset[row] : offset[row + 1]]

    def __len__(self) -> int:
        return len(self._table("size")) if self._rows is None else len(self._rows)

    def __contains__(self, image_id: str) -> bool:
        try:
            self._row(image_id)
        except DataError:
            return False
        return True

    @property
    def ids(self) -> list[str]:
        if "ids" not in self._tables:  # loops index this list
            self._tables["ids"] = list(self._part("image_id"))
        return self._tables["ids"]

    @property
    def sizes(self) -> np.ndarray:
        return self._part("size")

    @property
    def labels(self) -> np.ndarray:
        # Built on each access: for a thousand classes the dense table is much larger than the file.
        offset, index = self._table("label_offset"), self._table("label_index")
        dense = np.zeros((len(offset) - 1, len(self.class_names)), np.uint8)
        dense[np.repeat(np.arange(len(offset) - 1), np.diff(offset)), index] = 1
        return dense if self._rows is None else dense[self._rows]

    @property
    def has_masks(self) -> bool:
        return len(self) > 0 if self._masks_stored else any(self._part("mask"))

    # --- one image ---

    def label(self, image_id: str) -> np.ndarray:
        """uint8 (C,) of 0/1."""
        vector = np.zeros(len(self.class_names), np.uint8)
        vector[self._slice("label", self._row(image_id))] = 1
        return vector

    def size(self, image_id: str) -> tuple[int, int]:
        """Height and width of the upright photo."""
        height, width = self._table("size")[self._row(image_id)].tolist()
        return height, width

    def boxes(self, image_id: str) -> np.ndarray:
        """int32 (M, 5): class index, x1, y1, x2, y2, half-open pixels; M may be 0."""
        return self._slice("box", self._row(image_id)).copy()

    def image_path(self, image_id: str) -> Path:
        """The photo's file."""
        return self.root / self._table("image")[self._row(image_id)]

    def image(self, image_id: str) -> np.ndarray:
        """The photo, uint8 RGB (H, W, 3). Raises ``DataError`` when it is unreadable or has changed its size."""
        photo = open_image(self.image_path(image_id))
        if photo.shape[:2] != self.size(image_id):
            raise self._changed(self.image_path(image_id), photo.shape[:2], image_id)
        return photo

    def mask(self, image_id: str) -> np.ndarray | None:
        """The label map uint8 (H, W), or None when the image has none."""
        row = self._row(image_id)
        if self._masks_stored:
            return self._store.read(image_id)
        name = self._table("mask")[row]
        if not name:
            return None
        stored = open_label_map(self.root / name)
        if stored.shape != self.size(image_id):
            raise self._changed(self.root / name, stored.shape, image_id)
        return self._table("mask_lut")[stored]

    def _changed(self, path: Path, shape: tuple[int, ...], image_id: str) -> DataError:
        height, width = self.size(image_id)
        return DataError(f"{path}: is {shape[0]}x{shape[1]} but was {height}x{width} when the dataset was checked; "
                         "run the workflow again to check it anew")  # fmt: skip

    # --- parts ---

    def subset(self, ids: Iterable[str]) -> Catalog:
        """The catalog of some of the images (sorted, each once). Raises ``DataError`` for an id it does not hold."""
        return self._of(sorted({self._row(image_id) for image_id in ids}))

    def shard(self, k: int, n: int) -> Catalog:
        """The k-th (from 0) of n parts by hash of the id; empty for a split with few images."""
        if not 0 <= k < n:
            raise ValueError(f"shard {k} of {n} does not exist; k counts from 0 to n - 1")
        names = self._table("image_id")
        rows = range(len(names)) if self._rows is None else self._rows
        return self._of([row for row in rows if shard_of(names[row], n) == k])

    def _of(self, rows: list[int]) -> Catalog:
        part = object.__new__(Catalog)
        part.__dict__.update(self.__dict__)
        part._rows = np.array(rows, np.int64)
        # The file's tables are shared; only the ids and the look-up by id are the part's own.
        part._tables = {name: table for name, table in self._tables.items() if name not in ("row", "ids")}
        return part
