"""Localise a shard of a split from files to a file: what the scripts of all localizers share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from camflow.data.dropped import PixelDropout
from camflow.localize.extract import Views
from camflow.models.classifier import load_classifier
from camflow.task import Task, task_images, task_writer


def localize_files(task: Task, extract: Callable[..., None], params: Views, *more: Any, **options: Any) -> None:
    """Write the seed maps of every image of a task.

    Args:
        task: the job; reads ``catalog`` and ``classifier``, writes ``maps``.
        extract: the localizer over a catalog, ``extract(model, catalog, params, writer, *more, **options)``, with the
            options of ``camflow.localize.extract.extract_maps`` besides its own.
        params: of the localizer.
        more, options: its further arguments.
    """
    catalog: Any = task_images(task)
    model = load_classifier(task.input.classifier, task.device)
    if task.parameters.get("pixel_dropout"):
        catalog = PixelDropout(catalog, model.mean, task.parameters["pixel_dropout"])
    with task_writer(task, task.output.maps, "maps", catalog, device=task.device) as (writer, progress):
        extract(
            model,
            catalog,
            params,
            writer,
            *more,
            **options,
            batch_size=task.runtime["batch_size"],
            device=task.device,
            workers=max(task.threads, task.runtime["workers"]),
            progress=progress,
        )
