"""The check that runs before any network: reads a split once, reports everything wrong by name, writes the catalog."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from camflow.data.images import decode_image
from camflow.data.readers.base import EVALUATION_SPLITS, Reader, Record
from camflow.errors import ConfigError, DataError
from camflow.store import StoreWriter, write_json

PRINTED = 50  # problems in the error message; the report has all of them
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Problem:
    """One finding. ``image_id`` is None when it concerns the whole split; a ``note`` stops and drops nothing."""

    kind: str
    message: str
    image_id: str | None = None
    note: bool = False


@dataclass
class Checked:
    """What one image turned out to be."""

    id: str
    image: Path | None = None
    size: tuple[int, int] = (0, 0)  # H, W
    n_bytes: int = 0
    digest: bytes = b""
    labels: tuple[int, ...] = ()  # indices of the classes present
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 5), np.int32))
    mask_path: Path | None = None
    has_mask: bool = False
    problems: list[Problem] = field(default_factory=list)


@dataclass
class CheckResult:
    """The outcome of a check.

    Attributes:
        reader, split: what was checked.
        images: the images kept, sorted by id.
        problems: everything found, notes included, in the order of the ids.
        dropped: ids of the images left out (``on_bad_image="skip"``).
    """

    reader: Reader
    split: str
    images: list[Checked]
    problems: list[Problem]
    dropped: list[str]

    @property
    def ids(self) -> list[str]:
        return [image.id for image in self.images]

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if not problem.note]

    @property
    def notes(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.note]

    def images_per_class(self) -> dict[str, int]:
        """Number of kept images that show each class."""
        counts = np.zeros(len(self.reader.class_names), int)
        for image in self.images:
            counts[list(image.labels)] += 1
        return dict(zip(self.reader.class_names, counts.tolist(), strict=True))

    def report(self) -> dict[str, Any]:
        """JSON-able summary with every finding."""
        return {
            "dataset": self.reader.name,
            "split": self.split,
            "images": len(self.images),
            "masks": sum(image.has_mask for image in self.images),
            "boxes": sum(len(image.boxes) for image in self.images),
            "images_per_class": self.images_per_class(),
            "dropped": self.dropped,
            "problems": [vars(problem) for problem in self.errors],
            "notes": [vars(problem) for problem in self.notes],
        }


def check_dataset(
    reader: Reader,
    split: str,
    *,
    on_bad_image: str | None = None,
    on_duplicate: str | None = None,
    against: Sequence[str] | None = None,
    jobs: int = 1,
    progress: bool = True,
    report: str | Path | None = None,
) -> CheckResult:
    """Read a whole split once and collect every problem.

    Per image: the photo decodes; its label map decodes, has the photo's shape and only known values; its labels are
    known and at least one; its boxes lie inside. Over the split: it is not empty, no id is listed twice, no two photos
    are the same bytes, no photo is also in an evaluation split (or the other way round), every class has an image.

    Args:
        reader: the dataset.
        split: which split.
        on_bad_image: ``"error"`` raises when anything is wrong; ``"skip"`` leaves out the images concerned. None: what
            the dataset's config says.
        on_duplicate: whether photos of equal bytes are an ``"error"`` or a ``"note"``. None: what the config says.
        against: splits that must not share photos with this one. None: the evaluation splits ``val`` and ``test`` for
            a training split, and the training splits ``train`` and ``train_aug`` for those.
        jobs: threads; decoding releases the interpreter lock.
        progress: show a progress bar.
        report: where to write the full list as JSON, before anything is raised.

    Raises:
        DataError: any problem (``error``), or nothing usable is left (``skip``); the message lists the first 50.
        ConfigError: ``on_bad_image`` or ``on_duplicate`` is not one of its values.
    """
    on_bad_image = _choice(on_bad_image, reader, "on_bad_image", ("error", "skip"))
    duplicate_is_note = _choice(on_duplicate, reader, "on_duplicate", ("error", "note")) == "note"
    listed = reader.ids(split)
    general = _problems_of_list(listed) + [Problem("file", message) for message in reader.prepare(split)]
    unreadable_tables = any(problem.kind == "file" for problem in general)
    images: list[Checked] = []
    if not unreadable_tables:  # without them every single image would only repeat the same message
        bar = tqdm(desc=f"check {reader.name}/{split}", total=len(set(listed)), unit="image", disable=not progress)
        for image in in_order(lambda image_id: _check_image(reader, image_id, split), sorted(set(listed)), jobs):
            images.append(image)
            bar.update()
        bar.close()
        _find_duplicates(images, duplicate_is_note)
        _find_leaks(images, reader, split, reader.opponents(split) if against is None else against, duplicate_is_note)
        general += _missing_masks(images)
    result = _conclude(reader, split, images, general, skip=on_bad_image == "skip")
    if report is not None:
        write_json(report, result.report())
    fatal = result.errors if on_bad_image == "error" else [item for item in result.errors if item.image_id is None]
    if fatal:
        raise DataError(_message(reader, split, fatal, report))
    return result


def in_order(function: Callable[[Item], Result], items: Iterable[Item], jobs: int) -> Iterator[Result]:
    """``map`` over threads, results in order, with a bounded number of them in memory at any time."""
    if jobs <= 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(jobs) as pool:
        waiting: deque = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= 4 * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


# --- one image -------------------------------------------------------------------------------------------------------


def _check_image(reader: Reader, image_id: str, split: str) -> Checked:
    """Read one image and all that belongs to it; never raises ``DataError``."""
    checked = Checked(image_id)
    try:
        record = reader.record(image_id, split)
    except DataError as error:
        checked.problems.append(Problem("missing image", str(error), image_id))
        return checked
    checked.image, checked.mask_path = record.image, record.mask_path
    steps = (("image", _check_photo), ("mask", _check_mask), ("labels", _check_labels), ("boxes", _check_boxes))
    messages: set[str] = set()
    for kind, step in steps:
        try:
            step(checked, record, reader)
        except DataError as error:
            if str(error) not in messages:  # labels read from an unreadable mask fail for the same reason
                checked.problems.append(Problem(kind, str(error), image_id))
            messages.add(str(error))
    return checked


def _check_photo(checked: Checked, record: Record, reader: Reader) -> None:
    try:
        data = record.image.read_bytes()
    except OSError as error:
        raise DataError(f"{record.image}: cannot be read ({error.strerror}); check its permissions") from error
    checked.n_bytes, checked.digest = len(data), _digest(data)
    checked.size = decode_image(data, record.image).shape[:2]


def _check_mask(checked: Checked, record: Record, reader: Reader) -> None:
    mask = record.mask
    checked.has_mask = mask is not None
    if mask is None or checked.size == (0, 0) or mask.shape == checked.size:
        return
    (h, w), (mask_h, mask_w) = checked.size, mask.shape
    hint = "; the photo is turned by its EXIF tag, turn the label map too" if (mask_h, mask_w) == (w, h) else ""
    raise DataError(
        f"{record.mask_path or record.id}: the label map is {mask_h}x{mask_w} (height x width) but the photo "
        f"{record.image} is {h}x{w}{hint or '; make them equal'}"
    )


def _check_labels(checked: Checked, record: Record, reader: Reader) -> None:
    checked.labels = tuple(np.flatnonzero(record.labels).tolist())
    if not checked.labels and not reader.params["allow_unlabelled"]:
        raise DataError(f"image '{record.id}': shows none of the classes; take it out of the list, "
                        "or set allow_unlabelled: true")  # fmt: skip


def _check_boxes(checked: Checked, record: Record, reader: Reader) -> None:
    boxes = record.boxes
    if not len(boxes) or checked.size == (0, 0):
        checked.boxes = boxes
        return
    height, width = checked.size
    limit = np.array([width, height, width, height], np.int32)
    clipped = np.clip(boxes[:, 1:], 0, limit)
    if reader.params["clip_boxes"]:
        inside = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
        checked.boxes = np.hstack([boxes[:, :1], clipped])[inside]
        return
    empty = (boxes[:, 3] <= boxes[:, 1]) | (boxes[:, 4] <= boxes[:, 2])
    # One pixel too far is how annotation tools round; it is cut off silently.
    outside = (np.abs(boxes[:, 1:] - clipped) > 1).any(axis=1)
    for row, is_empty, is_outside in zip(boxes, empty, outside, strict=True):
        if is_empty or is_outside:
            what = "has no area" if is_empty else f"leaves the image (width {width}, height {height})"
            corners = ", ".join(map(str, row[1:]))
            raise DataError(f"image '{record.id}': the box ({corners}) of class '{reader.class_names[row[0]]}' {what}; "
                            "correct it, check `box_format`, or set clip_boxes: true")  # fmt: skip
    checked.boxes = np.hstack([boxes[:, :1], clipped])


# --- the whole split -------------------------------------------------------------------------------------------------


def _choice(value: str | None, reader: Reader, key: str, choices: tuple[str, ...]) -> str:
    value = reader.params[key] if value is None else value
    if value not in choices:
        raise ConfigError(f"{key}: '{value}' is neither {' nor '.join(choices)}")
    return value


def _problems_of_list(listed: Sequence[str]) -> list[Problem]:
    if not listed:
        return [Problem("empty", "the split lists no image; check its list or folder")]
    counts: dict[str, int] = {}
    for image_id in listed:
        counts[image_id] = counts.get(image_id, 0) + 1
    # A repeated line drops nothing when skipping: the image itself is fine and is taken once.
    return [
        Problem("duplicate id", f"image '{i}': is listed {n} times; keep one line", i)
        for i, n in counts.items()
        if n > 1
    ]


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _find_duplicates(images: list[Checked], is_note: bool) -> None:
    first: dict[bytes, Checked] = {}
    for image in images:
        other = first.setdefault(image.digest, image) if image.digest else image
        if other is not image:
            message = f"image '{image.id}': is the same file, byte for byte, as '{other.id}'; keep one of them"
            image.problems.append(Problem("duplicate image", message, image.id, is_note))


def _find_leaks(images: list[Checked], reader: Reader, split: str, against: Sequence[str], is_note: bool) -> None:
    """Photos that another split holds too. Only files of equal size are read."""
    for other in against:
        by_size: dict[int, list[Path]] = {}
        for paths in reader.sources(other).images.values():
            for path in filter(Path.is_file, paths[:1]):
                by_size.setdefault(path.stat().st_size, []).append(path)
        digests: dict[Path, bytes] = {}
        for image in images:
            for path in by_size.get(image.n_bytes, ()) if image.digest else ():
                if path not in digests:
                    digests[path] = image.digest if path == image.image else _digest(path.read_bytes())
                if digests[path] == image.digest:
                    message = (f"image '{image.id}': its photo is also in split '{other}' ({path}), so scores there "
                               "would be flattered; take it out of one of the two")  # fmt: skip
                    # The evaluation split stays whole; it is the training split that gives the photo up.
                    keeps = is_note and path != image.image
                    image.problems.append(Problem("leak", message, image.id, keeps))
                    break


def _missing_masks(images: list[Checked]) -> list[Problem]:
    """A note per image without a label map, when others have one; labels and scores say themselves if they need it."""
    readable = [image for image in images if image.image is not None]
    if not any(image.has_mask for image in readable):
        return [Problem("no masks", "no image has a label map; segmentation scores need them", note=True)]
    # An unreadable label map has been reported already, and so has one that the labels were to come from.
    lacking = [image for image in readable if not image.has_mask and not image.problems]
    return [Problem("missing mask", f"image '{image.id}': has no label map", image.id, note=True) for image in lacking]


def _conclude(reader: Reader, split: str, images: list[Checked], general: list[Problem], *, skip: bool) -> CheckResult:
    problems = general + [problem for image in images for problem in image.problems]
    kept, dropped = images, []
    if skip:
        keep_leaks = split in EVALUATION_SPLITS
        bad = {p.image_id for i in images for p in i.problems if not p.note and not (keep_leaks and p.kind == "leak")}
        kept = [image for image in images if image.id not in bad]
        dropped = sorted(bad)
    result = CheckResult(reader, split, kept, problems, dropped)
    if images and not kept:
        problems.append(Problem("empty", "no image is usable"))
    elif images:
        # Nothing can be learnt about a class without images; a small evaluation split may well lack one.
        is_note = skip or split in EVALUATION_SPLITS
        for name, count in result.images_per_class().items():
            if count == 0:
                message = f"class '{name}' has no image; take it out of `classes`"
                problems.append(Problem("class without images", message, None, is_note))
    return result


def _message(reader: Reader, split: str, problems: list[Problem], report: str | Path | None) -> str:
    shown = [f"  - {problem.message}" for problem in problems[:PRINTED]]
    if len(problems) > PRINTED:
        shown.append(f"  and {len(problems) - PRINTED} more" + (f", all listed in {report}" if report else ""))
    images = any(problem.image_id for problem in problems)
    remedy = "\nMend them, or set on_bad_image: skip to leave these images out." if images else ""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return f"dataset '{reader.name}', split '{split}': {count}:\n" + "\n".join(shown) + remedy


# --- the catalog -----------------------------------------------------------------------------------------------------


def write_catalog(result: CheckResult, path: str | Path, *, meta: dict[str, Any] | None = None, jobs: int = 1) -> None:
    """Write the catalog of the images kept: a store of stage ``catalog`` that ``Catalog`` reads.

    Tables: ``image_id``, ``image`` and ``mask`` (paths below the root where possible; an empty string: no label map),
    ``size`` (N, 2) H, W, ``label_index`` with ``label_offset`` (N + 1), ``box`` (M, 5) with ``box_offset``, and
    ``mask_lut`` (256,) where label maps are files. Label maps drawn from annotations are stored per image.

    Args:
        result: of ``check_dataset``.
        path: the target file.
        meta: further facts for the envelope.
        jobs: threads that draw label maps.
    """
    reader, images = result.reader, result.images
    root = str(reader.params["root"])
    facts = {**(meta or {}), "dataset": reader.name, "split": result.split, "root": root,
             "masks_stored": reader.renders_masks}  # fmt: skip
    with StoreWriter(path, stage="catalog", class_names=reader.class_names, meta=facts) as writer:
        if reader.renders_masks:
            masks = in_order(lambda image: reader.record(image.id, result.split).mask, images, jobs)
            for image, mask in zip(images, masks, strict=True):
                writer.write(image.id, mask)
        writer.table("image_id", [image.id for image in images])
        writer.table("image", [_below(image.image, reader.root) for image in images])
        writer.table("mask", [_below(image.mask_path, reader.root) for image in images])
        writer.table("size", np.array([image.size for image in images], np.int32).reshape(-1, 2))
        writer.table("label_index", np.array([k for image in images for k in image.labels], np.int32))
        writer.table("label_offset", _offsets([len(image.labels) for image in images]))
        writer.table("box", np.concatenate([np.zeros((0, 5), np.int32), *(image.boxes for image in images)]))
        writer.table("box_offset", _offsets([len(image.boxes) for image in images]))
        if reader.mask_lut is not None:
            writer.table("mask_lut", reader.mask_lut)


def _below(path: Path | None, root: Path) -> str:
    if path is None:
        return ""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _offsets(counts: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
