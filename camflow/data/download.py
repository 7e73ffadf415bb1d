"""PASCAL VOC 2012 with the SBD annotations (train_aug), downloaded and put together as one VOC-layout folder.

The archives come through torchvision's download utilities and are verified by checksum. The folder appears whole or not
at all; an interrupted run leaves only verified archives behind and goes on from them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from camflow.data.palette import write_label_map
from camflow.data.readers.base import read_lines
from camflow.errors import DataError

LISTS = Path("ImageSets/Segmentation")
_VOC_PARTS = ("JPEGImages", "Annotations", "SegmentationClass", "SegmentationObject", "ImageSets")


@dataclass(frozen=True)
class Archive:
    """Where an archive is and what it must hash to."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        return PurePosixPath(self.url.split("?")[0]).name


def voc2012_archive() -> Archive:
    """The official VOC 2012 trainval archive (2 GB), as torchvision knows it."""
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    return Archive(DATASET_YEAR_DICT["2012"]["url"], DATASET_YEAR_DICT["2012"]["md5"])


def sbd_archive() -> Archive:
    """The official SBD archive (1.4 GB), as torchvision knows it."""
    from torchvision.datasets import SBDataset

    return Archive(SBDataset.url, SBDataset.md5)


def download_voc2012(
    target: str | Path,
    *,
    voc: Archive | None = None,
    sbd: Archive | None = None,
    n_train_aug: int | None = 10582,
    archives: str | Path | None = None,
    keep_archives: bool = False,
    progress: bool = True,
) -> Path:
    """Make a VOC-layout folder with ``SegmentationClassAug`` and the lists ``train``, ``train_aug`` and ``val``.

    ``train_aug`` = (SBD train + SBD val + VOC train) - VOC val. Where both datasets annotate an image, the label map is
    VOC's; those from SBD have no void border.

    Args:
        target: the folder to make, absent or empty; when it is there already (it is only ever whole), nothing is done.
        voc, sbd: archives; None: the official ones.
        n_train_aug: how many ids ``train_aug`` must have; None: any.
        archives: where the verified archives are kept between runs, or put by hand; None: ``.NAME.archives`` beside
            the target.
        keep_archives: do not delete the two archives in the end.
        progress: show progress bars.

    Returns:
        The folder.

    Raises:
        DataError: the target is another folder, a download fails or has a wrong checksum, an archive is damaged, lacks
            a file or tries to write outside its folder.
    """
    target = Path(target)
    if (target / LISTS / "train_aug.txt").is_file():
        return target
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise DataError(f"{target}: exists but is no finished VOC folder; move it away, or choose another folder")
    archives = Path(archives) if archives else target.with_name(f".{target.name}.archives")
    voc_file, sbd_file = (fetch(item, archives) for item in (voc or voc2012_archive(), sbd or sbd_archive()))
    with new_folder(target) as build:
        extract(voc_file, build, _voc_member, progress)
        with _scratch(target) as scratch:
            extract(sbd_file, scratch, _sbd_member, progress)
            assemble(build, scratch, n_train_aug, progress)
    if not keep_archives:
        voc_file.unlink(missing_ok=True)
        sbd_file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the folder may hold other files, or serve another run
            archives.rmdir()
    return target


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A private folder that becomes ``target`` when the block succeeds and vanishes when it does not."""
    with _scratch(target) as build:
        yield build
        os.rename(build, target)


@contextlib.contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """An empty folder beside ``target``, removed behind the block; what a kill leaves has a name that gc knows."""
    folder = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- archives --------------------------------------------------------------------------------------------------------


def fetch(archive: Archive, folder: Path) -> Path:
    """Download an archive into ``folder``, or find it there. Its file appears complete and verified or not at all.

    Raises:
        DataError: the server does not answer with the file, or the file has another checksum.
    """
    from torchvision.datasets.utils import calculate_md5, check_integrity, download_url

    final = folder / archive.name
    if check_integrity(final, archive.md5):
        return final
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{archive.name}.{os.getpid()}.tmp"
    try:
        download_url(archive.url, folder, filename=part.name, md5=None)
        found = calculate_md5(part)
        if found != archive.md5:
            raise DataError(
                f"{archive.url}: the download has checksum {found}, not {archive.md5}; it was cut short or the file "
                "has changed: run again, and if that does not help, check the URL and its md5"
            )
        os.replace(part, final)
    except (OSError, RuntimeError, ValueError) as error:  # URLError is an OSError; a malformed URL is a ValueError
        raise DataError(f"{archive.url}: cannot be downloaded ({error}); check the network and the URL and run again, "
                        f"or put the file into {folder} yourself") from error  # fmt: skip
    finally:
        part.unlink(missing_ok=True)
    return final


def extract(archive: Path, folder: Path, place: Callable[[PurePosixPath], Path | None], progress: bool) -> None:
    """Extract chosen members of a tar archive.

    Args:
        archive: the file.
        folder: everything lands below it.
        place: path of a member -> where to put it, relative to ``folder``, or None to leave it.
        progress: show a progress bar.

    Raises:
        DataError: not a tar archive or damaged, or a member's path leaves the folder. Links are not extracted.
    """
    try:
        with (
            tarfile.open(archive) as tar,
            tqdm(desc=f"extract {archive.name}", unit="file", disable=not progress) as bar,
        ):
            for member in tar:
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts:
                    raise DataError(f"{archive}: the member '{member.name}' would be written outside the target "
                                    "folder; do not use this archive")  # fmt: skip
                wanted = place(path) if member.isfile() else None
                if wanted is None:
                    continue
                (folder / wanted).parent.mkdir(parents=True, exist_ok=True)
                with open(folder / wanted, "wb") as out:
                    shutil.copyfileobj(tar.extractfile(member), out)
                bar.update()
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(f"{archive}: is a damaged archive ({error}); delete it and run again") from error


def _voc_member(path: PurePosixPath) -> Path | None:
    # VOCdevkit/VOC2012/JPEGImages/x.jpg -> JPEGImages/x.jpg
    inner = path.parts[2:]
    return Path(*inner) if len(path.parts) > 3 and path.parts[1] == "VOC2012" and inner[0] in _VOC_PARTS else None


def _sbd_member(path: PurePosixPath) -> Path | None:
    # benchmark_RELEASE/dataset/cls/x.mat -> cls/x.mat; the photos are those of VOC and stay in the archive.
    inner = path.parts[2:]
    if len(inner) == 2 and inner[0] == "cls":
        return Path(*inner)
    return Path(*inner) if inner in (("train.txt",), ("val.txt",)) else None


# --- assembly --------------------------------------------------------------------------------------------------------


def train_aug_ids(voc_train: list[str], voc_val: list[str], sbd: list[str]) -> list[str]:
    """Ids of train_aug, sorted: everything annotated by either dataset but the images of VOC val."""
    return sorted({*voc_train, *sbd} - set(voc_val))


def assemble(voc: Path, sbd: Path, n_train_aug: int | None, progress: bool) -> None:
    """Add ``SegmentationClassAug`` and ``train_aug.txt`` to a VOC folder.

    Args:
        voc: the VOC folder, changed in place.
        sbd: folder with ``cls/*.mat``, ``train.txt`` and ``val.txt``.
        n_train_aug: how many ids there must be, or None.
        progress: show a progress bar.
    """
    train, val = (read_lines(voc / LISTS / f"{name}.txt") for name in ("train", "val"))
    ids = train_aug_ids(train, val, read_lines(sbd / "train.txt") + read_lines(sbd / "val.txt"))
    if n_train_aug is not None and len(ids) != n_train_aug:
        raise DataError(f"train_aug has {len(ids)} images instead of {n_train_aug}; the archives are not the official "
                        "ones: check their URLs, or give n_train_aug")  # fmt: skip
    folder = voc / "SegmentationClassAug"
    folder.mkdir()
    for image_id in tqdm(sorted({*ids, *val}), desc="label maps", unit="image", disable=not progress):
        own = voc / "SegmentationClass" / f"{image_id}.png"
        if own.is_file():
            shutil.copyfile(own, folder / own.name)
        else:
            write_label_map(folder / own.name, read_sbd_mask(sbd / "cls" / f"{image_id}.mat"))
        if not (voc / "JPEGImages" / f"{image_id}.jpg").is_file():
            raise DataError(f"image '{image_id}': is in a list but not in the VOC archive; check the archives' URLs")
    (voc / LISTS / "train_aug.txt").write_text("".join(f"{image_id}\n" for image_id in ids), encoding="utf-8")


def read_sbd_mask(path: Path) -> np.ndarray:
    """Label map uint8 (H, W) of an SBD ``.mat`` file, VOC ids 0..20. Raises ``DataError`` when it is not one."""
    from scipy.io import loadmat

    if not path.is_file():
        raise DataError(f"{path.name}: is in an SBD list but not in the archive; check its URL")
    try:
        return np.asarray(loadmat(path)["GTcls"][0]["Segmentation"][0], np.uint8)
    except Exception as error:  # scipy raises anything on damaged files
        raise DataError(f"{path.name}: is not an SBD class annotation ({error}); check the archive's URL") from error
