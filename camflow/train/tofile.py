"""Train a task and write its network: what all training stages share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from camflow.train import distributed
from camflow.train.checkpoint import remove_checkpoints
from camflow.train.loop import Task, fit
from camflow.train.metrics import Row, write_metrics
from camflow.train.settings import TrainSettings


def train_to_file(
    make_task: Callable[[], Task],
    settings: TrainSettings,
    save: Callable[[nn.Module, Row], None],
    *,
    finish: Callable[[nn.Module], None] | None = None,
    metrics_csv: str | Path,
    scratch: str | Path,
    key: str,
    device: str | torch.device = "cpu",
    workers: int = 0,
    progress: bool = True,
) -> nn.Module:
    """Train, then write metrics and network and remove the checkpoints; calling again after a kill resumes.

    Args:
        make_task: builds the task, once the process group stands.
        settings: of the loop.
        save: writes the trained network, given the last row of the metrics; called by one process only.
        finish: what remains to be found for the network after training; called by every process.
        metrics_csv: one row per epoch; in place only when it is whole.
        scratch, key, device, workers, progress: see ``camflow.train.loop.fit``.

    Returns:
        The network in eval mode on its device.
    """
    with distributed.process_group(torch.device(device)) as place:
        task = make_task()
        draft = Path(scratch) / "metrics.csv"
        rows = fit(
            task,
            settings,
            key=key,
            scratch=scratch,
            metrics_csv=draft,
            device=place,
            workers=workers,
            progress=progress,
        )
        if finish is not None:
            finish(task.model)
        if distributed.rank() == 0:
            write_metrics(metrics_csv, rows)
            save(task.model, rows[-1])
            remove_checkpoints(Path(scratch))
            draft.unlink(missing_ok=True)
    return task.model
