"""Videos as sequences of feature vectors: annotation readers, resampling, and the store that later stages read.

A store of stage ``sequences`` holds one video under its id: float32 (T, D), the features at T steps that divide its
duration evenly. Attributes: ``classes`` int32 (K,) (the labels training sees), ``segments`` float64 (M, 3) (class
index, start, end in seconds; what training must not see), ``ambiguous`` float64 (A, 2) (start, end), ``duration`` in
seconds. The table ``mean`` is the mean feature float64 (D,) over all steps of all videos. The envelope lists under
``excluded`` the videos left out on request.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from camflow.data.paths import expand
from camflow.data.readers.base import read_lines
from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.store import StoreWriter

STAGE = "sequences"
FORMATS = ("thumos14", "activitynet")
AMBIGUOUS = "Ambiguous"  # THUMOS14's name for segments that no detector should be judged on
CLASS_LIST = "detclasslist.txt"  # lines "number name", as THUMOS14 has it
BEYOND = 1.0  # seconds that a segment may start after the end of the features: rounding of rates


@dataclasses.dataclass(frozen=True)
class Video:
    """What is annotated of one video.

    Attributes:
        id: its name.
        classes: sorted class indices of its labels.
        segments: float64 (M, 3): class index, start, end in seconds, in the order of the files.
        ambiguous: float64 (A, 2): start, end in seconds.
        duration: seconds; None when the annotations do not say.
    """

    id: str
    classes: tuple[int, ...]
    segments: np.ndarray
    ambiguous: np.ndarray
    duration: float | None = None


@dataclasses.dataclass(frozen=True)
class Listing:
    """The videos of a split, sorted by id."""

    class_names: tuple[str, ...]
    videos: tuple[Video, ...]
    excluded: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class SequenceParams:
    """Where a split's annotations and features are.

    Attributes:
        annotations: THUMOS14: the folder of ``CLASS_SUBSET.txt``; ActivityNet: the JSON file.
        features: a folder of ``ID.npy``, or an HDF5 file with a dataset (or a group with one dataset) per ID; [n, D].
        subset: THUMOS14: ``val`` or ``test``; ActivityNet: ``training``, ``validation`` ...
        format: ``thumos14`` or ``activitynet``.
        rate: features per second; None: the features cover the annotated duration.
        steps: T, to which every video is resampled.
        exclude: ids of videos to leave out.
        classes: names in order; None: those of THUMOS14's class list or of its files, or all labels of the JSON.
        labels: CSV with columns ``video,class``: labels of further videos, or further labels; None: segments only.
    """

    annotations: str
    features: str
    subset: str
    format: str = "thumos14"
    rate: float | None = 10.0
    steps: int = 2000
    exclude: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    labels: str | None = None

    def __post_init__(self):
        if self.format not in FORMATS:
            raise ConfigError(f"format: unknown '{self.format}'{did_you_mean(self.format, FORMATS)}")
        if self.steps < 1:
            raise ConfigError(f"steps: must be at least 1, not {self.steps}")
        if self.rate is not None and not self.rate > 0:
            raise ConfigError(f"rate: must be above 0 features per second, not {self.rate}")


# --- annotations -----------------------------------------------------------------------------------------------------


def read_videos(params: SequenceParams) -> Listing:
    """Read the annotations of a split; features are not looked at.

    Raises:
        ConfigError: a class that is asked for is unknown to the dataset, or an excluded id is.
        DataError: a file is missing or a line cannot be read.
    """
    path = expand(params.annotations)
    if params.format == "thumos14":
        names, rows, durations = _read_thumos14(path, params.subset)
    else:
        names, rows, durations = _read_activitynet(path, params.subset)
    labels = _read_labels(expand(params.labels)) if params.labels else []
    if params.classes is not None:
        names = tuple(params.classes)
    elif labels:
        names = (*names, *sorted({name for _, name in labels} - set(names)))
    index = {name: c for c, name in enumerate(names)}
    segments: dict[str, list[tuple[float, float, float]]] = {}
    ambiguous: dict[str, list[tuple[float, float]]] = {}
    classes: dict[str, set[int]] = {video: set() for video in durations}
    for video, name, start, end in rows:
        if name == AMBIGUOUS:
            ambiguous.setdefault(video, []).append((start, end))
        elif name in index:
            segments.setdefault(video, []).append((index[name], start, end))
            classes.setdefault(video, set()).add(index[name])
    for video, name in labels:
        if name in index:
            classes.setdefault(video, set()).add(index[name])
    known = {name for _, name, *_ in rows} | {name for _, name in labels}
    unused = [name for name in names if name not in known]
    if params.classes is not None and unused:
        raise ConfigError(f"classes: no video of {path} has '{unused[0]}'{did_you_mean(unused[0], known)}")
    ids = {video for video, found in classes.items() if found}  # a video without any of the classes teaches nothing
    missing = sorted(set(params.exclude) - set(classes) - set(ambiguous))
    if missing:
        raise ConfigError(f"exclude: {path} has no video '{missing[0]}'{did_you_mean(missing[0], classes)}")
    videos = tuple(
        Video(
            video,
            tuple(sorted(classes[video])),
            np.array(segments.get(video, []), np.float64).reshape(-1, 3),
            np.array(ambiguous.get(video, []), np.float64).reshape(-1, 2),
            durations.get(video),
        )
        for video in sorted(ids - set(params.exclude))
    )
    if not videos:
        raise DataError(f"{path}: no video of subset '{params.subset}' is left; check subset, classes and exclude")
    return Listing(names, videos, tuple(sorted(params.exclude)))


def in_classes(listing: Listing, names: Sequence[str], *, drop: bool) -> Listing:
    """The same videos with the indices of another list of classes, as a test split has that of its training split.

    Args:
        listing: the videos.
        names: the classes, in order.
        drop: leave out classes that are not among them, and videos without any other; else they are an error.

    Raises:
        DataError: a class is not among ``names``, or no video is left.
    """
    index = {name: c for c, name in enumerate(names)}
    place = [index.get(name, -1) for name in listing.class_names]
    videos = []
    for video in listing.videos:
        unknown = [listing.class_names[c] for c in video.classes if place[c] < 0]
        if unknown and not drop:
            raise DataError(
                f"video '{video.id}': class '{unknown[0]}' is not among the classes{did_you_mean(unknown[0], names)}"
            )
        kept = video.segments[[place[int(c)] >= 0 for c in video.segments[:, 0]]]
        kept[:, 0] = [place[int(c)] for c in kept[:, 0]]
        classes = tuple(sorted(place[c] for c in video.classes if place[c] >= 0))
        if classes:
            videos.append(dataclasses.replace(video, classes=classes, segments=kept))
    if not videos:
        raise DataError("no video is of any of the classes; check `classes`")
    return Listing(tuple(names), tuple(videos), listing.excluded)


Rows = list[tuple[str, str, float, float]]  # video, class name, start, end


def _read_thumos14(folder: Path, subset: str) -> tuple[tuple[str, ...], Rows, dict[str, float]]:
    ending = f"_{subset}.txt"
    files = {path.name.removesuffix(ending): path for path in sorted(folder.glob(f"*{ending}"))}
    if not files:
        raise DataError(f"{folder}: has no file CLASS{ending}; correct `annotations` or `subset`")
    listed = folder / CLASS_LIST
    if listed.is_file():
        names = tuple(line.split()[-1] for line in read_lines(listed))
    else:
        names = tuple(name for name in files if name != AMBIGUOUS)
    rows: Rows = []
    for name, path in files.items():
        for line in read_lines(path):
            try:
                video, start, end = line.split()
                rows.append(_row(video, name, start, end))
            except ValueError as error:
                raise DataError(f"{path}: '{line}' is not 'video start end' in seconds; correct it") from error
    return names, rows, {}


def _row(video: str, name: str, start: Any, end: Any) -> tuple[str, str, float, float]:
    begin, stop = float(start), float(end)
    if not 0 <= begin <= stop < float("inf"):
        raise ValueError(f"from {start} to {end}")
    return video, name, begin, stop


def _read_activitynet(path: Path, subset: str) -> tuple[tuple[str, ...], Rows, dict[str, float]]:
    """ActivityNet's JSON: database -> id -> subset, duration, annotations of label and segment [start, end]."""
    try:
        database = json.loads(path.read_text(encoding="utf-8"))["database"]
        entries = {video: entry for video, entry in database.items() if entry["subset"] == subset}
        names = tuple(sorted({one["label"] for entry in database.values() for one in entry.get("annotations", [])}))
        durations = {video: float(entry["duration"]) for video, entry in entries.items()}
        rows = [
            _row(video, one["label"], *one["segment"])
            for video, entry in sorted(entries.items())
            for one in entry.get("annotations", [])
        ]
    except FileNotFoundError as error:
        raise DataError(f"{path}: does not exist; correct `annotations`") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: is no ActivityNet annotation ({type(error).__name__}: {error}); correct it"
        ) from error
    if not entries:
        found = sorted({entry["subset"] for entry in database.values()})
        raise DataError(f"{path}: has no subset '{subset}'{did_you_mean(subset, found)}")
    return names, rows, durations


def _read_labels(path: Path) -> list[tuple[str, str]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            return [(row["video"].strip(), row["class"].strip()) for row in csv.DictReader(handle)]
    except (OSError, UnicodeDecodeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: cannot be read as CSV with the columns video,class ({error})") from error


# --- features --------------------------------------------------------------------------------------------------------


def read_features(path: str | Path, ids: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (id, float32 [n, D]) for each id, from a folder of ``ID.npy`` or an HDF5 file.

    Raises:
        DataError: features are missing, empty, not finite or of the wrong shape; names the video.
    """
    path = expand(path)
    if path.is_dir():
        for video in ids:
            try:
                array = np.load(path / f"{video}.npy", allow_pickle=False)
            except FileNotFoundError as error:
                raise _no_features(video, path) from error
            except (OSError, ValueError) as error:
                raise DataError(f"{path / video}.npy: cannot be read ({error}); replace it") from error
            yield video, _checked(array, video, path)
        return
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise DataError(f"{path}: is neither a folder of ID.npy nor an HDF5 file; correct `features`") from error
    with file:
        for video in ids:
            item = file.get(video)
            while isinstance(item, h5py.Group) and len(item) == 1:
                item = next(iter(item.values()))
            if not isinstance(item, h5py.Dataset):
                raise _no_features(video, path)
            yield video, _checked(item[()], video, path)


def _no_features(video: str, path: Path) -> DataError:
    return DataError(f"{path}: has no features of video '{video}'; add them, or list the video under `exclude`")


def _checked(array: np.ndarray, video: str, path: Path) -> np.ndarray:
    if array.ndim != 2 or not array.size or array.dtype.kind not in "fiu":
        raise DataError(f"{path}: features of '{video}' must be numbers [n, D], not {array.dtype} {array.shape}")
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise DataError(f"{path}: features of '{video}' are not finite; extract them again")
    return array


def resample(features: np.ndarray, steps: int) -> np.ndarray:
    """Spread [n, D] over ``steps`` even parts of the duration: (steps, D).

    A step takes the feature at its middle, so features are repeated or left out, never mixed.
    """
    middle = (2 * np.arange(steps) + 1) * len(features) // (2 * steps)
    return features[middle]


# --- the stage -------------------------------------------------------------------------------------------------------


def prepare_sequences(listing: Listing, params: SequenceParams, writer: StoreWriter) -> None:
    """Write the features of a split into an open ``StoreWriter(stage="sequences", class_names=listing.class_names)``.

    Raises:
        DataError: features are missing or do not fit the annotations.
    """
    by_id = {video.id: video for video in listing.videos}
    found = read_features(params.features, list(by_id))
    write_sequences(
        ((_timed(by_id[video], len(features), params.rate), features) for video, features in found),
        writer,
        steps=params.steps,
        excluded=listing.excluded,
    )


def _timed(video: Video, count: int, rate: float | None) -> Video:
    duration = video.duration if rate is None else count / rate
    if duration is None:
        raise DataError(f"video '{video.id}': its duration is not annotated; give `rate`, the features per second")
    starts = [*video.segments[:, 1], *video.ambiguous[:, 0]]
    if max(starts, default=0) > duration + BEYOND:
        raise DataError(
            f"video '{video.id}': a segment starts at {max(starts):g} s, but its features end at {duration:g} s; "
            "correct `rate`, or list the video under `exclude`"
        )
    return dataclasses.replace(video, duration=duration)


def write_sequences(
    videos: Iterable[tuple[Video, np.ndarray]],
    writer: StoreWriter,
    *,
    steps: int,
    excluded: Sequence[str] = (),
) -> None:
    """Write videos with a duration and their features [n, D], resampled to ``steps``, and the mean of them all.

    Raises ``DataError`` when features have another width than those of the first video.
    """
    total: np.ndarray | None = None
    count = 0
    for video, features in videos:
        sequence = resample(np.asarray(features, np.float32), steps)
        if total is not None and len(total) != sequence.shape[1]:
            raise DataError(
                f"video '{video.id}': its features have {sequence.shape[1]} channels, those before it {len(total)}; "
                "extract all with one network"
            )
        writer.write(video.id, sequence, **_attrs(video))
        total = sequence.sum(axis=0, dtype=np.float64) + (0 if total is None else total)
        count += steps
    writer.table("mean", np.zeros(0) if total is None else total / count)
    writer.meta["excluded"] = list(excluded)


def _attrs(video: Video) -> Mapping[str, Any]:
    return {
        "classes": np.array(video.classes, np.int32),
        "segments": video.segments,
        "ambiguous": video.ambiguous,
        "duration": float(video.duration),
    }
