"""Where a dataset that the workflow makes is put: whole, with the list of what is in it, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from camflow.plan.content import write_manifest


@contextlib.contextmanager
def made_folder(folder: Path, splits: Sequence[str]) -> Iterator[Path]:
    """Yield a private folder beside ``folder``; when the block ends well, list its files and rename it into place."""
    private = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(private, ignore_errors=True)
    private.mkdir(parents=True)
    try:
        yield private
        ids = {split: (private / "ImageSets/Segmentation" / f"{split}.txt").read_text().split() for split in splits}
        write_manifest(private, ids)
        # Without a manifest, what stands here is what a killed run left (or Snakemake's empty folder).
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(private, folder)
    finally:
        shutil.rmtree(private, ignore_errors=True)
