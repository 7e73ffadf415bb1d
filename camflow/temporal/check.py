"""From annotations and features to the store of a split, and what was found on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from camflow.errors import DataError
from camflow.store import Store, StoreWriter
from camflow.temporal.data import STAGE, Listing, SequenceParams, prepare_sequences

PRINTED = 10  # videos that a message names


class SplitReader(Protocol):
    """What is read of a dataset, see ``camflow.data.readers.videos``."""

    name: str
    splits: Sequence[str]

    def ids(self, split: str) -> list[str]: ...
    def listing(self, split: str) -> Listing: ...
    def sequence_params(self, split: str) -> SequenceParams: ...


def write_split(
    reader: SplitReader,
    split: str,
    path: str | Path,
    *,
    meta: Mapping[str, Any] | None = None,
    compression: str = "gzip",
) -> dict[str, Any]:
    """Write the sequences of a split as ``Store(stage="sequences")`` and return what was found, JSON-able.

    Raises:
        DataError: features are missing (all of them are named) or do not fit the annotations, or a video is in
            another split too.
    """
    listing, params = reader.listing(split), reader.sequence_params(split)
    _refuse_missing(reader, split, listing, Path(params.features))
    _refuse_shared(reader, split, listing)
    facts = {**(meta or {}), "dataset": reader.name, "split": split, "source": params.format}
    options = {"class_names": listing.class_names, "compression": compression}
    with StoreWriter(path, stage=STAGE, meta=facts, **options) as writer:
        prepare_sequences(listing, params, writer)
    return report(Store(path, stage=STAGE))


def report(store: Store) -> dict[str, Any]:
    """What a store of sequences holds: videos and segments by class, what was left out, steps and channels."""
    videos, segments = (np.zeros(len(store.class_names), int) for _ in range(2))
    ambiguous, seconds = 0, 0.0
    for video in store.ids:
        attrs = store.attrs(video)
        videos[attrs["classes"]] += 1
        np.add.at(segments, attrs["segments"][:, 0].astype(int), 1)
        ambiguous += len(attrs["ambiguous"])
        seconds += float(attrs["duration"])
    steps, channels = store.read(store.ids[0]).shape
    by_class = {
        name: {"videos": int(v), "segments": int(s)}
        for name, v, s in zip(store.class_names, videos, segments, strict=True)
    }
    without = [name for name, count in zip(store.class_names, videos, strict=True) if not count]
    return {
        "dataset": store.meta.get("dataset"),
        "split": store.meta.get("split"),
        "videos": len(store),
        "segments": int(segments.sum()),
        "ambiguous": ambiguous,
        "seconds": round(seconds, 3),
        "steps": int(steps),
        "channels": int(channels),
        "excluded": store.meta["excluded"],
        "by_class": by_class,
        "notes": [f"class '{name}' has no video in this split" for name in without],
    }


def _refuse_missing(reader: SplitReader, split: str, listing: Listing, features: Path) -> None:
    if not features.is_dir():
        return  # one file for all, which names what it lacks
    missing = [video.id for video in listing.videos if not (features / f"{video.id}.npy").is_file()]
    if missing:
        more = f" and {len(missing) - PRINTED} more" if len(missing) > PRINTED else ""
        raise DataError(
            f"dataset '{reader.name}', split '{split}': {features} has no features (ID.npy) of {len(missing)} videos: "
            f"{', '.join(missing[:PRINTED])}{more}; add them, or list the videos under `exclude`"
        )


def _refuse_shared(reader: SplitReader, split: str, listing: Listing) -> None:
    own = {video.id for video in listing.videos}
    for other in reader.splits:
        shared = sorted(own.intersection(reader.ids(other))) if other != split else []
        if shared:
            raise DataError(
                f"dataset '{reader.name}': video '{shared[0]}' is in the splits '{split}' and '{other}' "
                f"({len(shared)} in all), so scores would be flattered; list it under `exclude` of one of them"
            )
