"""CIFAR-10 and CIFAR-100 as folders of classes, read like any other.

The archives come through torchvision, which verifies their checksums and downloads them if asked to. Photos are 32 x 32
pixels and are written as PNG, hence without loss, under their number in the archive.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from camflow.data.download import new_folder
from camflow.data.readers.folder import FolderReader
from camflow.errors import ConfigError, DataError, did_you_mean

DATASETS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}  # name -> class of torchvision.datasets


@dataclass(frozen=True)
class CifarParams:
    """What to copy.

    Attributes:
        dataset: ``cifar10`` or ``cifar100`` (its fine labels).
        root: folder that has torchvision's ``cifar-10-batches-py`` or ``cifar-100-python``, or gets it.
        download: fetch the archive into ``root`` when it is not there.
        val: how many photos of each class, the last ones of the training set, become the split ``val``.
    """

    dataset: str
    root: str
    download: bool = False
    val: int = 0

    def __post_init__(self):
        if self.dataset not in DATASETS:
            raise ConfigError(f"dataset: unknown '{self.dataset}'{did_you_mean(self.dataset, DATASETS)}")
        if self.val < 0:
            raise ConfigError(f"val: must not be negative, but is {self.val}")


def copy_cifar(target: str | Path, params: CifarParams, *, progress: bool = True) -> Path:
    """Write ``target/SPLIT/CLASS/NUMBER.png`` for the splits train, test and, if asked for, val; all or nothing.

    Args:
        target: a folder that does not exist yet.
        params: see ``CifarParams``.
        progress: show a bar.

    Returns:
        ``target``.

    Raises:
        ConfigError: ``val`` leaves a class without training photos.
        DataError: ``target`` exists, or the archive is missing, torn or cannot be downloaded.
    """
    target = Path(target)
    if target.exists():
        raise DataError(f"{target}: exists already; delete it, or name another folder")
    archives = {split: _open(params, split == "train") for split in ("train", "test")}
    with new_folder(target) as build:
        for split, archive in archives.items():
            places = _splits(archive.targets, split, params.val if split == "train" else 0)
            for name in archive.classes:
                for place in sorted(set(places)):
                    (build / place / name).mkdir(parents=True)
            rows = zip(archive.data, archive.targets, places, strict=True)
            bar = tqdm(rows, total=len(places), desc=f"{params.dataset} {split}", unit="image", disable=not progress)
            for number, (photo, label, place) in enumerate(bar):
                Image.fromarray(photo).save(build / place / archive.classes[label] / f"{number:05d}.png")
    return target


def _open(params: CifarParams, train: bool):
    """The dataset of torchvision: ``data`` uint8 (N, 32, 32, 3), ``targets``, ``classes``."""
    from torchvision import datasets  # here, since the planner imports readers and must not wait for torch

    kind = getattr(datasets, DATASETS[params.dataset])
    try:
        return kind(Path(params.root).expanduser(), train=train, download=params.download)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{params.root}: no whole {params.dataset} archive ({kind.base_folder}) there ({error}); "
            "correct `root`, or set download: true"
        ) from error


def _splits(labels: list[int], split: str, held_out: int) -> list[str]:
    """The split of each photo: ``val`` for the last ``held_out`` of each class, else ``split``."""
    left = Counter(labels)
    if left and held_out >= min(left.values()):
        raise ConfigError(f"val: {held_out} leaves a class without training photos; it has {min(left.values())}")
    places = []
    for label in labels:
        places.append("val" if left[label] <= held_out else split)
        left[label] -= 1
    return places


def copied_ids(folder: Path, split: str) -> list[str]:
    """Ids of the photos of a split that ``copy_cifar`` wrote."""
    return sorted(f"{path.parent.name}/{path.stem}" for path in (folder / split).glob("*/*.png"))


class CifarReader(FolderReader):
    """Reader of what ``copy_cifar`` wrote; its only key that matters is ``root``."""

    format = "cifar"
