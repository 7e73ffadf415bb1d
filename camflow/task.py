"""From a job to the file that it fills image by image: what the scripts of such steps share.

A task is what ``camflow.plan.job.start`` gives a script.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.store import StoreWriter


class Task(Protocol):
    """What is read of a job.

    Attributes:
        input, output: paths by name.
        target: what is made, for the progress bar.
        parameters, sections, runtime: the method's, the config's and the machine's settings.
        shard: (k, n) when this is the k-th of n shards of the images, else None.
        device: where networks run. threads: cores.
    """

    input: Any
    output: Any
    target: str
    parameters: Mapping[str, Any]
    sections: Mapping[str, Any]
    runtime: Mapping[str, Any]
    shard: Sequence[int] | None
    device: str
    threads: int

    def meta(self, **more: Any) -> dict[str, Any]: ...


def task_images(task: Task) -> Catalog:
    """The images that a task is for: its split, or its shard of it."""
    catalog = Catalog(task.input.catalog)
    return catalog.shard(*task.shard) if task.shard else catalog


@contextlib.contextmanager
def task_writer(
    task: Task, path: str, stage: str, catalog: Catalog, **meta: Any
) -> Iterator[tuple[StoreWriter, Callable[[int], Any]]]:
    """Open the store that a task fills, with a progress bar beside it.

    Args:
        task: the job.
        path: one of its outputs.
        stage: of the store.
        catalog: the images that it will hold.
        meta: more for the store's envelope.

    Returns:
        the writer, and what is to be called with the number of images done since its last call.
    """
    part = f" {task.shard[0] + 1}/{task.shard[1]}" if task.shard else ""
    options = {"class_names": catalog.class_names, "compression": task.runtime["compression"]}
    with (
        StoreWriter(path, stage=stage, meta=task.meta(**meta), **options) as writer,
        tqdm(total=len(catalog.ids), desc=f"{task.target}{part}", unit="image") as bar,
    ):
        yield writer, bar.update
