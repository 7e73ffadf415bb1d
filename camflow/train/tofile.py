"""Train a task and write its network: what all training stages share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Required, TypedDict, Unpack

import torch
from torch import nn

from camflow.train import distributed
from camflow.train.checkpoint import remove_checkpoints
from camflow.train.loop import Task, fit
from camflow.train.metrics import write_metrics
from camflow.train.settings import TrainSettings


class Run(TypedDict, total=False):
    """Where a training writes and on what it runs: keyword arguments of every ``train_<method>``.

    Attributes:
        out: the network's file.
        metrics_csv: one row per epoch; in place only when it is whole.
        scratch: folder for checkpoints, which are removed once ``out`` is written.
        key: fingerprint of what determines the result.
        device, workers, progress: no influence on what is computed, see ``camflow.train.loop.fit``.
        meta: further facts to save with the network.
    """

    out: Required[str | Path]
    metrics_csv: Required[str | Path]
    scratch: Required[str | Path]
    key: Required[str]
    device: str | torch.device
    workers: int
    progress: bool
    meta: Mapping[str, Any] | None


def train_to_file(
    make_task: Callable[[], Task],
    params: TrainSettings,
    save: Callable[..., None],
    *,
    method: str,
    class_names: Sequence[str],
    finish: Callable[[nn.Module], None] = lambda model: None,
    network_of: Callable[[nn.Module], nn.Module] = lambda model: model,
    **run: Unpack[Run],
) -> nn.Module:
    """Train, then write metrics and network and remove the checkpoints; calling again after a kill resumes and ends in
    the same bytes.

    Args:
        make_task: builds the task, once the process group stands.
        params: of the method, with those of the loop.
        save: writes the network: path, network, ``class_names``, ``meta``. Called by one process only.
        method: name saved with the network, where ``meta`` has none.
        class_names: foreground classes.
        finish: what remains to be found for the task's model after training; called by every process.
        network_of: the part of the task's model that is written and returned.
        run: see ``Run``.

    Returns:
        The network in eval mode on its device, with its ``class_names`` and ``meta`` in the process that wrote it: the
        method, the parameters, the last row of the metrics, ``Task.facts`` and the facts given.
    """
    scratch = Path(run["scratch"])
    with distributed.process_group(torch.device(run.get("device", "cpu"))) as place:
        task = make_task()
        draft = scratch / "metrics.csv"
        rows = fit(
            task,
            params.settings(),
            key=run["key"],
            scratch=scratch,
            metrics_csv=draft,
            device=place,
            workers=run.get("workers", 0),
            progress=run.get("progress", True),
        )
        finish(task.model)
        network = network_of(task.model)
        if distributed.rank() == 0:
            write_metrics(run["metrics_csv"], rows)
            facts = {"params": dataclasses.asdict(params), "metrics": rows[-1], **task.facts()}
            network.class_names = list(class_names)
            network.meta = {"method": method, **(run.get("meta") or {}), **facts}
            save(run["out"], network, class_names=network.class_names, meta=network.meta)
            remove_checkpoints(scratch)
            draft.unlink(missing_ok=True)
    return network
