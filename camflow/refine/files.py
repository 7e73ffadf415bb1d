"""Refine a split from files to a file: what the scripts of all per-image refiners share."""

from __future__ import annotations

from typing import Any

from camflow.errors import ConfigError
from camflow.refine.driver import Method, refine_maps
from camflow.store import Store, read_json
from camflow.task import Task, task_images, task_writer


def refine_files(task: Task, method: Method, params: Any) -> None:
    """Refine every image of a task.

    Args:
        task: the job; reads ``catalog`` and ``maps``, writes ``masks`` with the threshold used in their envelope. The
            parameter ``threshold`` is the background score, or ``"best"`` for the one of the seed's score, which is then
            the input ``threshold``.
        method, params: see ``camflow.refine.driver``.
    """
    catalog, maps, threshold = task_images(task), Store(task.input.maps, stage="maps"), threshold_of(task)
    with task_writer(task, task.output.masks, "masks", catalog, threshold=threshold) as (writer, progress):
        refine_maps(maps, catalog, method, params, threshold, writer, jobs=task.threads, progress=progress)


def threshold_of(task: Task) -> float:
    """The parameter ``threshold`` of a task; for ``best`` that of the seed's score, its input ``threshold``."""
    threshold = task.parameters["threshold"]
    if threshold != "best":
        return float(threshold)
    score = dict(task.input.items()).get("threshold")
    if score is None:
        raise ConfigError("threshold: best needs the score of the seed; give a number instead")
    return float(read_json(score)["best"]["threshold"])
