"""The part that all per-image refiners share: seed maps of a catalog in, label maps out, in parallel, in order.

A refiner is a function ``method(photo, maps, classes, threshold, params) -> Refined``:

    photo       callable giving the uint8 photo (H, W, 3); not called when it is not needed
    maps        float32 (K, H, W), each class max-normalised; K >= 1 and not everything is zero
    classes     (K,) 0-based class indices
    threshold   constant background score
"""

from __future__ import annotations

import functools
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from camflow.errors import ConfigError, DataError
from camflow.localize.maps import SeedMaps, checked_seed, full_size_maps
from camflow.store import Store, StoreWriter

IGNORE = 255  # label of pixels that are not to be learnt from or scored


@dataclass(frozen=True)
class Refined:
    """A label map: uint8 (H, W) in class ids (0 background), and the score of the winner, float32 (H, W)."""

    labels: np.ndarray
    confidence: np.ndarray


Method = Callable[[Callable[[], np.ndarray], np.ndarray, np.ndarray, float, Any], Refined]


class Photos(Protocol):
    """What the driver reads from a catalog."""

    ids: Sequence[str]
    sizes: np.ndarray

    def image(self, image_id: str) -> np.ndarray: ...


def refine_seed(
    photo: Callable[[], np.ndarray], seed: SeedMaps, method: Method, params: Any, threshold: float
) -> Refined:
    """Refine one image. Without a present class, or without any activation, everything is background."""
    maps = full_size_maps(seed)
    if not maps.size or maps.max() <= 0:
        return Refined(np.zeros(seed.size, np.uint8), np.ones(seed.size, np.float32))
    return method(photo, maps, seed.classes, threshold, params)


def class_ids(winner: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Turn local labels (0 background, k the k-th present class) into class ids (0 background, index + 1), uint8.

    Raises ``ConfigError`` for a class that a uint8 label map cannot name (255 means ignore).
    """
    if len(classes) and max(classes) + 1 >= IGNORE:
        raise ConfigError(f"label maps hold at most {IGNORE - 1} classes; class index {max(classes)} has no label")
    return np.concatenate([[0], np.asarray(classes) + 1]).astype(np.uint8)[winner]


def refine_maps(
    maps_store: Store,
    catalog: Photos,
    method: Method,
    params: Any,
    threshold: float,
    writer: StoreWriter,
    *,
    jobs: int = 1,
    confidence: StoreWriter | None = None,
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Refine every image of a catalog into an open ``StoreWriter(stage="masks")``.

    Args:
        maps_store: seed maps, at least of the catalog's images.
        catalog: the images; written in the order of its ids.
        method: a module-level function, so that it can be sent to worker processes.
        params: the method's parameters.
        threshold: constant background score of the seed.
        writer: receives one uint8 label map (H, W) per image.
        jobs: worker processes. They are spawned, so a calling script needs ``if __name__ == "__main__":``.
        confidence: optional second store: the winner's score as uint8, 255 is 1.
        progress: called with the number of images done since its last call.

    Raises:
        StoreError: an image is missing in the store.
        DataError: maps and photo differ in size; names the image.
    """

    def write(image_id: str, labels: np.ndarray, score: np.ndarray | None) -> None:
        writer.write(image_id, labels)
        if confidence is not None:
            confidence.write(image_id, score)

    work = functools.partial(_refined, catalog, method, params, float(threshold), confidence is not None)
    write_in_order(work, maps_store, catalog, write, jobs=jobs, progress=progress)


def _refined(
    catalog: Photos,
    method: Method,
    params: Any,
    threshold: float,
    keep_confidence: bool,
    image_id: str,
    seed: SeedMaps,
) -> tuple[np.ndarray, np.ndarray | None]:
    refined = refine_seed(lambda: photo_of(catalog, image_id, seed.size), seed, method, params, threshold)
    score = np.rint(np.clip(refined.confidence, 0, 1) * 255).astype(np.uint8) if keep_confidence else None
    return refined.labels, score


def photo_of(catalog: Photos, image_id: str, size: tuple[int, int]) -> np.ndarray:
    """The photo of an image, uint8 (H, W, 3). Raises ``DataError`` unless it has the ``size`` of its maps."""
    photo = np.ascontiguousarray(catalog.image(image_id))
    if photo.shape[:2] != size:
        raise DataError(f"image '{image_id}' is {photo.shape[:2]} pixels, its maps are for {size}; make the maps again")
    return photo


# --- processes -------------------------------------------------------------------------------------------------------


def write_in_order(
    work: Callable[[str, SeedMaps], tuple],
    maps_store: Store,
    catalog: Photos,
    write: Callable[..., Any],
    *,
    jobs: int = 1,
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Work on the seed of every image of a catalog and hand on what is found, in the order of the ids.

    Args:
        work: ``work(id, seed)`` gives a tuple; a module-level function, or a ``functools.partial`` of one, so that it
            can be sent to the processes.
        maps_store: seed maps, at least of the catalog's images.
        catalog: the images.
        write: called with the id and the tuple's parts for one image after the other, e.g. ``StoreWriter.write``.
        jobs: worker processes. They are spawned, so a calling script needs ``if __name__ == "__main__":``.
        progress: called with the number of images done since its last call.

    Raises:
        StoreError: an image is missing in the store.
        DataError: maps and photo differ in size; names the image.
    """
    items = list(zip(catalog.ids, catalog.sizes, strict=True))
    for image_id, found in ordered_map(functools.partial(_of_seed, work, maps_store), items, jobs):
        write(image_id, *found)
        if progress is not None:
            progress(1)


def _of_seed(work: Callable[[str, SeedMaps], tuple], store: Store, item: tuple[str, np.ndarray]) -> tuple[str, tuple]:
    image_id, size = item
    return image_id, work(image_id, checked_seed(store, image_id, size))


_task: Callable[[Any], Any] | None = None  # of this worker process: sent once instead of with every item


def _start(task: Callable[[Any], Any]) -> None:
    global _task
    torch.set_num_threads(1)
    _task = task


def _run(item: Any) -> Any:
    assert _task is not None
    return _task(item)


def ordered_map(task: Callable[[Any], Any], items: Iterable[Any], jobs: int) -> Iterator[Any]:
    """Results of a task that can be pickled, in the order of the items, from ``jobs`` spawned processes.

    At most four items per process are under way, so memory stays flat.
    """
    if jobs <= 1:
        yield from map(task, items)
        return
    context = multiprocessing.get_context("spawn")  # forking a process that runs torch threads can hang
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start, initargs=(task,)) as pool:
        pending: deque = deque()
        try:
            for item in items:
                pending.append(pool.submit(_run, item))
                if len(pending) >= 4 * jobs:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
