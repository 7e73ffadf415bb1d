"""Photos of one's own as a split: found, checked, and written as the catalog that every stage reads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from camflow.data.check import Checked, CheckResult, write_catalog
from camflow.data.images import open_image
from camflow.data.readers.base import IMAGE_SUFFIXES
from camflow.errors import DataError

SPLIT = "photos"
Size = tuple[int, int]


@dataclass(frozen=True)
class PhotoList:
    """What ``write_catalog`` reads of a dataset's reader."""

    name: str
    class_names: Sequence[str]
    root: Path
    params: Mapping[str, Any] = field(default_factory=dict)
    renders_masks: bool = False
    mask_lut: np.ndarray | None = None


def find_photos(given: Sequence[str | Path], leave_out: Path | None = None) -> dict[str, Path]:
    """Id -> file of the photos in files and folders, sorted by id.

    The id of a file is its name without the ending; of one in a given folder its path below the folder, likewise.
    Folders are searched with what is below them, hidden files and ``leave_out`` (the results) aside.

    Raises:
        DataError: a path does not exist, a folder has no photo, or two photos have one id; names all of them.
    """
    found: dict[str, Path] = {}
    problems = []
    for path in map(Path, given):
        photos = {path.stem: path}
        if path.is_dir():
            photos = _below(path, leave_out)
            if not photos:
                problems.append(f"{path}: has no photo ({', '.join(IMAGE_SUFFIXES)})")
        elif not path.is_file():
            problems.append(f"{path}: does not exist; correct the path")
            continue
        for image_id, file in photos.items():
            other = found.setdefault(image_id, file)
            if not os.path.samefile(other, file):
                problems.append(
                    f"{file} and {other}: are both called '{image_id}'; rename one, or take them one by one"
                )
    if problems:
        raise DataError("\n".join(problems))
    return dict(sorted(found.items()))


def _below(folder: Path, leave_out: Path | None) -> dict[str, Path]:
    found = {}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and (leave_out is None or Path(place, name).resolve() != leave_out.resolve())
        )
        for name in sorted(names):
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                path = Path(place, name)
                image_id = path.relative_to(folder).with_suffix("").as_posix()
                if image_id in found:
                    raise DataError(f"{path} and {found[image_id]}: are both called '{image_id}'; rename one")
                found[image_id] = path
    return found


def photo_sizes(photos: Mapping[str, Path]) -> dict[str, Size]:
    """Id -> (H, W) in pixels of the upright photos. Raises ``DataError`` that names all that cannot be decoded."""
    sizes, problems = {}, []
    for image_id, path in tqdm(photos.items(), desc="photos", unit="photo", disable=None):
        try:
            sizes[image_id] = open_image(path).shape[:2]
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    return sizes


def write_photos(
    path: Path,
    photos: Mapping[str, Path],
    sizes: Mapping[str, Size],
    labels: Mapping[str, Sequence[int]],
    *,
    dataset: str,
    class_names: Sequence[str],
) -> None:
    """Write the catalog of photos.

    Args:
        path: the file.
        photos, sizes: of ``find_photos`` and ``photo_sizes``.
        labels: id -> indices of the classes that are taken for present.
        dataset, class_names: those of the recipe.
    """
    root = Path("/")
    images = [
        Checked(name, image=file.resolve(), size=sizes[name], labels=tuple(sorted(labels[name])))
        for name, file in photos.items()
    ]
    reader: Any = PhotoList(dataset, list(class_names), root, {"root": str(root)})
    write_catalog(CheckResult(reader, SPLIT, images, [], []), path)
