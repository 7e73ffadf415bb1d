"""The values stored in label map files and what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from camflow.data.readers.base import IGNORE
from camflow.errors import ConfigError, DataError, did_you_mean

# PASCAL VOC: value 1..20 in this (alphabetical, official) order; 0 background, 255 void.
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@dataclass(frozen=True)
class MaskCode:
    """Translation of stored values.

    Attributes:
        lut: uint8 (256,), stored value -> our label (0, 1..C, 255).
        known: bool (256,), values that may occur at all.
    """

    lut: np.ndarray
    known: np.ndarray

    def apply(self, stored: np.ndarray, path: Path) -> np.ndarray:
        """Our labels uint8 (H, W) of a stored map. Raises ``DataError`` naming the values that have no meaning."""
        present = np.flatnonzero(np.bincount(stored.ravel(), minlength=256))
        strange = present[~self.known[present]]
        if strange.size:
            values = ", ".join(map(str, strange[:8])) + (" ..." if strange.size > 8 else "")
            legal = np.flatnonzero(self.known)
            top = legal[legal < IGNORE].max()
            raise DataError(
                f"{path}: mask value {values} is out of range (known: 0..{top} and 255); "
                "correct the mask, `classes`, or `mask_values`"
            )
        return self.lut[stored]


def mask_code(mask_values: str | Mapping[str, int] | None, classes: Sequence[str], other: str, name: str) -> MaskCode:
    """Build the translation of a dataset.

    Args:
        mask_values: ``"voc"`` (official VOC ids by class name), ``"index"`` (position in ``classes`` + 1), a mapping
            class name -> value, or None: ``"voc"`` when all classes are VOC classes, else ``"index"``.
        classes: foreground classes.
        other: ``"ignore"`` or ``"background"``, what pixels of the dataset's other classes become.
        name: the dataset's name, for messages.

    Raises:
        ConfigError: too many classes for 8 bits, a class without a value, values outside 1..254 or repeated.
    """
    if mask_values is None:
        mask_values = "voc" if set(classes) <= set(VOC_CLASSES) else "index"
    if isinstance(mask_values, str) and mask_values not in ("voc", "index"):
        raise ConfigError(f"dataset '{name}': mask_values: '{mask_values}' is neither voc, index nor a mapping")
    if len(classes) > 254:
        raise ConfigError(f"dataset '{name}': {len(classes)} classes do not fit an 8-bit label map; set masks: []")
    values = _values(mask_values, classes, name)
    known = np.zeros(256, bool)
    known[[0, IGNORE, *values]] = True
    if mask_values == "voc":
        known[: len(VOC_CLASSES) + 1] = True
    elif mask_values != "index":
        known[:] = True  # only the user knows which other values the files hold
    lut = np.full(256, 0 if other == "background" else IGNORE, np.uint8)
    lut[[0, IGNORE]] = [0, IGNORE]
    lut[values] = np.arange(1, len(classes) + 1)
    return MaskCode(lut, known)


def _values(mask_values: str | Mapping[str, int], classes: Sequence[str], name: str) -> list[int]:
    if mask_values == "index":
        return list(range(1, len(classes) + 1))
    table = {item: i + 1 for i, item in enumerate(VOC_CLASSES)} if mask_values == "voc" else dict(mask_values)
    for item in classes:
        if item not in table:
            raise ConfigError(
                f"dataset '{name}': mask_values has no value for class '{item}'{did_you_mean(item, table)}"
            )
    values = [table[item] for item in classes]
    if any(not isinstance(value, int) or not 1 <= value <= 254 for value in values):
        raise ConfigError(f"dataset '{name}': mask_values must be integers in 1..254 (0 is background, 255 ignore)")
    if len(set(values)) < len(values):
        raise ConfigError(f"dataset '{name}': mask_values gives two classes the same value; make them distinct")
    return values
