"""The embedded set of feature sequences as files: annotations in THUMOS14's form, features as ``ID.npy``.

Read back, they give the sequences of ``camflow.temporal.made.write_made``, value for value: times are written in full.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from camflow.store import write_text
from camflow.temporal.data import AMBIGUOUS, CLASS_LIST
from camflow.temporal.made import SPLITS, MadeParams, made_videos


def write_made_files(folder: Path, params: MadeParams) -> None:
    """Write every split: ``annotations/CLASS_SPLIT.txt``, the class list, and ``features/ID.npy`` float32 [n, D]."""
    annotations, features = folder / "annotations", folder / "features"
    annotations.mkdir(parents=True)
    features.mkdir()
    names = params.class_names
    write_text(annotations / CLASS_LIST, "\n".join(f"{number} {name}" for number, name in enumerate(names, 1)))
    for split in SPLITS:
        lines: dict[str, list[str]] = {name: [] for name in (*names, AMBIGUOUS)}
        for video, array in made_videos(params, split):
            np.save(features / f"{video.id}.npy", array)
            rows = [(names[int(c)], start, end) for c, start, end in video.segments.tolist()]
            for name, start, end in (*rows, *((AMBIGUOUS, *row) for row in video.ambiguous.tolist())):
                lines[name].append(f"{video.id} {start!r} {end!r}")
        for name, found in lines.items():
            write_text(annotations / f"{name}_{split}.txt", "\n".join(found))


def made_ids(folder: Path, split: str) -> list[str]:
    """Ids of a split of what ``write_made_files`` wrote."""
    return sorted(path.stem for path in (folder / "features").glob(f"{split}_*.npy"))
