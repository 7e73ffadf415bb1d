"""A study of a classifier from files to a table: what the scripts of such studies share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.models.classifier import load_classifier
from camflow.store import write_text
from camflow.task import Task


def study_files(task: Task, study: Callable[..., pd.DataFrame], *arguments: Any, **settings: Any) -> None:
    """Write the table of a study.

    Args:
        task: the job; reads ``classifier`` and ``catalog``, writes ``table``.
        study: ``study(model, catalog, *arguments, **settings)``, with the options of
            ``camflow.studies.images.show_images`` besides its own; gives the table.
        arguments, settings: its own.
    """
    with tqdm(desc=task.target, unit="image") as bar:
        table = study(
            load_classifier(task.input.classifier, task.device),
            Catalog(task.input.catalog),
            *arguments,
            **settings,
            device=task.device,
            workers=task.threads,
            progress=bar.update,
        )
    write_text(task.output.table, table.to_csv(index=False))
