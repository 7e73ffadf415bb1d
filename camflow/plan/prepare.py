"""Where a dataset that the workflow makes is put: whole, with the list of what is in it, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from camflow.plan.content import write_manifest


def listed(folder: Path, split: str) -> list[str]:
    """Ids of a split of a dataset in VOC layout."""
    return (folder / "ImageSets/Segmentation" / f"{split}.txt").read_text().split()


@contextlib.contextmanager
def made_folder(folder: Path, splits: Sequence[str], ids: Callable[[Path, str], list[str]] = listed) -> Iterator[Path]:
    """Yield a private folder beside ``folder``; when the block ends well, list its files and rename it into place.

    ``ids`` finds the ids of a split in the folder.
    """
    private = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(private, ignore_errors=True)
    private.mkdir(parents=True)
    try:
        yield private
        write_manifest(private, {split: ids(private, split) for split in splits})
        # Without a manifest, what stands here is what a killed run left (or Snakemake's empty folder).
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(private, folder)
    finally:
        shutil.rmtree(private, ignore_errors=True)
