"""The one training loop: every network of the project is trained by ``fit``.

What makes a run exactly repeatable, however often it is killed: order and augmentation are functions of (seed, epoch,
sample id); torch's generators are seeded anew before every step; every epoch ends in a checkpoint; the metrics table is
rewritten from the checkpoint's rows. So a resumed run repeats the epoch it was killed in and ends in the same bits.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm

from camflow.errors import CamflowError, ConfigError
from camflow.train import distributed
from camflow.train.checkpoint import load_latest, remove_leftovers, save_checkpoint
from camflow.train.metrics import Row, write_metrics
from camflow.train.optim import build_optimizer, schedule_factor, set_learning_rate
from camflow.train.order import MicroBatches, derive_seed, sample_generator, steps_per_epoch
from camflow.train.settings import TrainSettings

log = logging.getLogger(__name__)

_CUDA_CHECK_EVERY = 25  # steps between two looks at the loss on CUDA; each look waits for the device


class Samples(Protocol):
    """Training samples by index; must be picklable when workers are used."""

    ids: Sequence[str]

    def sample(self, index: int, rng: np.random.Generator) -> Any:
        """Return sample ``index`` (a dict of arrays, say), drawing all randomness from ``rng``."""


class Task:
    """What is trained: subclass it, set ``model`` and ``dataset``, and define ``step``.

    Attributes:
        model: holds every trained parameter and all state; saved in checkpoints.
        dataset: the training samples.
        collate: list of samples -> batch.
        epoch_share: an epoch ends after this share of its steps (rounded up); the order is drawn anew for each.
    """

    model: nn.Module
    dataset: Samples
    collate: Callable[[list[Any]], Any] = staticmethod(default_collate)
    epoch_share: float = 1.0

    def step(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor | float]]:
        """Return (loss, values to log) of a batch on the model's device.

        The loss must be a mean over the batch's samples for accumulation and several processes to equal one big batch.
        Logged values are averaged over the epoch, weighted by samples, and appear as ``train_<name>``.
        """
        raise NotImplementedError

    def evaluate(self) -> Row:
        """Return metrics after an epoch; called on every process in eval mode without gradients."""
        return {}

    def param_groups(self) -> list[dict[str, Any]]:
        """Return parameter groups: ``params``, and optionally ``lr_mult`` and ``weight_decay``."""
        return [{"params": list(self.model.parameters())}]

    def optimizers(self, settings: TrainSettings) -> dict[str, torch.optim.Optimizer]:
        """Return the optimisers by name; their groups have an ``initial_lr``, which the schedule multiplies."""
        return {"all": build_optimizer(self.param_groups(), settings)}

    def facts(self) -> dict[str, Any]:
        """Return what the trained network's file says besides parameters and metrics (JSON-able)."""
        return {}

    def begin_epoch(self, epoch: int) -> None:
        """Called before every epoch (from 0)."""

    def after_step(self) -> None:
        """Called after every optimiser step."""

    def state_dict(self) -> dict[str, Any]:
        """Return state outside ``model`` for the checkpoint (tensors and plain values)."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""


@dataclass(frozen=True)
class Update:
    """One step of one optimiser.

    Attributes:
        loss: a mean over the batch's samples; only the optimiser's own parameters get gradients.
        optimizer: its name.
        clip: largest norm of the gradient of all its parameters, None for any.
        retain_graph: a later update goes back through the same graph.
    """

    loss: torch.Tensor
    optimizer: str
    clip: float | None = None
    retain_graph: bool = False


class AlternatingTask(Task):
    """A task that updates several optimisers in turn with every batch; ``accumulate`` must be 1.

    Define ``updates`` instead of ``step``.
    """

    def updates(self, batch: Any) -> Generator[Update, None, dict[str, torch.Tensor | float]]:
        """Yield the updates of a batch, each made before the generator goes on; return the values to log.

        Among these is ``loss``, which must stay finite. Every process yields the same updates.
        """
        raise NotImplementedError


def fit(
    task: Task,
    settings: TrainSettings,
    *,
    key: str,
    scratch: str | Path,
    metrics_csv: str | Path | None = None,
    device: str | torch.device = "cpu",
    workers: int = 0,
    progress: bool = True,
) -> list[Row]:
    """Train ``task.model`` in place; return the rows of the metrics table.

    Args:
        task: see ``Task``.
        settings: see ``TrainSettings``.
        key: fingerprint of everything that determines the result; checkpoints of another key are ignored.
        scratch: folder of the checkpoints and of ``timing.csv`` (seconds per epoch); call again with the same folder to
            resume.
        metrics_csv: table with one row per epoch; no clock values, so equal runs give equal bytes.
        device: ``cpu`` or ``cuda``; under ``torchrun`` each process takes its own GPU.
        workers: loader processes; 0 loads in this one. No influence on the result.
        progress: show a bar per epoch.

    Raises:
        CamflowError: the loss stopped being finite.
        ConfigError: settings that cannot be honoured.
    """
    if not len(task.dataset.ids):
        raise ConfigError("the training set is empty")
    if len(set(task.dataset.ids)) != len(task.dataset.ids):
        raise ConfigError("the training set has duplicate sample ids, which order and augmentation derive from")
    with _numerics(settings), distributed.process_group(torch.device(device)) as place:
        run = _Run(task, settings, place, key, Path(scratch), metrics_csv, progress and distributed.rank() == 0)
        run.resume()
        loader = _Loader(task, settings, workers, pin=place.type == "cuda")
        for epoch in range(run.epochs_done, settings.epochs):
            run.epoch(epoch, loader)
        task.model.eval()
        return run.rows


# --- surroundings ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _numerics(settings: TrainSettings) -> Iterator[None]:
    """Set torch's threads and determinism for the run and put them back behind it."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked for by deterministic cuBLAS
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    fill = torch.utils.deterministic
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        fill.fill_uninitialized_memory,
        (cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32),
    )
    torch.set_num_threads(settings.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    fill.fill_uninitialized_memory = False  # a debugging aid that costs a pass over every new tensor
    cudnn.benchmark = False
    cudnn.allow_tf32 = matmul.allow_tf32 = settings.precision != "fp32"
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=before[2])
        fill.fill_uninitialized_memory = before[3]
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before[4]


class _Indexed(Dataset):
    """Samples addressed by (epoch, index), so that a worker needs no state."""

    def __init__(self, samples: Samples, seed: int):
        self.samples, self.seed = samples, seed

    def __getitem__(self, item: tuple[int, int]) -> Any:
        epoch, index = item
        return self.samples.sample(index, sample_generator(self.seed, epoch, self.samples.ids[index]))


class _Loader:
    """The loader of one process: per optimiser step its micro-batches with their share of the step's samples."""

    def __init__(self, task: Task, settings: TrainSettings, workers: int, pin: bool):
        self.n_steps = _steps_per_epoch(task, settings)
        self.plan = MicroBatches(
            task.dataset.ids,
            seed=settings.seed,
            batch_size=settings.batch_size,
            drop_last=settings.drop_last,
            accumulate=settings.accumulate,
            rank=distributed.rank(),
            world=distributed.world_size(),
        )
        self.loader = DataLoader(
            _Indexed(task.dataset, settings.seed),
            batch_sampler=self.plan,
            num_workers=workers,
            collate_fn=task.collate,
            pin_memory=pin,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # keeps the loader from drawing from the global generator
        )

    def steps(self, epoch: int) -> Iterator[Iterator[tuple[Any, int, int]]]:
        """Yield per step a lazy iterator of its micro-batches: (batch, its samples, the samples of the whole step)."""
        self.plan.set_epoch(epoch)
        self.plan.steps, self.plan.sizes = self.plan.steps[: self.n_steps], self.plan.sizes[: self.n_steps]
        batches = iter(self.loader)
        for parts, size in zip(self.plan.steps, self.plan.sizes, strict=True):
            yield _parts(batches, parts, size)


def _steps_per_epoch(task: Task, settings: TrainSettings) -> int:
    whole = steps_per_epoch(len(task.dataset.ids), settings.batch_size, settings.drop_last)
    return max(1, math.ceil(round(whole * task.epoch_share, 6)))  # 35 * 0.2 is 7.000000000000001


def _parts(batches: Iterator[Any], parts: list[list[int]], size: int) -> Iterator[tuple[Any, int, int]]:
    for part in parts:
        yield next(batches), len(part), size


# --- one run ---------------------------------------------------------------------------------------------------------


class _Run:
    """State of one run of ``fit``: model, optimisers, scaler, rows."""

    def __init__(
        self,
        task: Task,
        settings: TrainSettings,
        device: torch.device,
        key: str,
        scratch: Path,
        metrics_csv: str | Path | None,
        progress: bool,
    ):
        self.task, self.settings, self.device = task, settings, device
        self.key, self.scratch, self.metrics_csv, self.progress = key, scratch, metrics_csv, progress
        if settings.sync_bn and distributed.world_size() > 1:
            if device.type != "cuda":
                raise ConfigError("sync_bn needs GPUs; on CPUs freeze the batch norms or leave their statistics local")
            task.model = nn.SyncBatchNorm.convert_sync_batchnorm(task.model)
        layout = torch.channels_last if settings.channels_last else torch.preserve_format
        task.model.to(device, memory_format=layout)
        distributed.broadcast_module(task.model)
        self.optimizers = task.optimizers(settings)
        self.amp = _autocast_dtype(settings.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp is torch.float16)
        self.steps_per_epoch = _steps_per_epoch(task, settings)
        self.rows: list[Row] = []
        self.epochs_done = 0

    def resume(self) -> None:
        """Take up the newest checkpoint of this key, if there is one."""
        writer = distributed.rank() == 0
        if writer:
            self.scratch.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.scratch)
        # Rank 0 sorts out bad files first, so all processes then find the same one.
        state = load_latest(self.scratch, self.key) if writer else None
        found = distributed.broadcast_object(state["epochs_done"] if state else 0)
        if not found:
            return
        state = state or load_latest(self.scratch, self.key)
        if state is None or state["epochs_done"] != found:
            raise CamflowError(f"{self.scratch}: checkpoints must lie in a folder that all processes share")
        self.task.model.load_state_dict(state["model"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.scaler.load_state_dict(state["scaler"])
        self.task.load_state_dict(state["task"])
        self.rows, self.epochs_done = state["rows"], found
        log.info("resuming after epoch %d of %d", found, self.settings.epochs)
        if writer and self.metrics_csv is not None:  # the run may have died between checkpoint and table
            write_metrics(self.metrics_csv, self.rows)

    def epoch(self, epoch: int, loader: _Loader) -> None:
        """Train and evaluate one epoch and write its checkpoint and metrics."""
        started = time.monotonic()
        self.task.begin_epoch(epoch)
        row: Row = {"epoch": epoch + 1, **self._train(epoch, loader)}
        every = self.settings.evaluate_every
        if epoch + 1 == self.settings.epochs or (every and (epoch + 1) % every == 0):
            self.task.model.eval()
            with torch.no_grad(), self._autocast():
                row.update(self.task.evaluate())
        self.rows.append(row)
        self.epochs_done = epoch + 1
        if distributed.rank() == 0:
            self._write(time.monotonic() - started)

    def _train(self, epoch: int, loader: _Loader) -> Row:
        self.task.model.train()
        sums = _Averages(self.device)
        bar = tqdm(
            loader.steps(epoch),
            total=self.steps_per_epoch,
            desc=f"epoch {epoch + 1}/{self.settings.epochs}",
            disable=not self.progress,
            leave=False,
        )
        for step, parts in enumerate(bar):
            self._step(epoch, step, parts, sums)
            last = step + 1 == self.steps_per_epoch
            if self.device.type == "cpu" or last or step % _CUDA_CHECK_EVERY == 0:
                sums.require_finite(epoch, step)
        distributed.broadcast_buffers(self.task.model)  # local batch statistics differ; rank 0's are the saved ones
        first = next(iter(self.optimizers.values()))
        return {"lr": first.param_groups[0]["lr"], **sums.result()}

    def _step(self, epoch: int, step: int, parts: Iterator[tuple[Any, int, int]], sums: _Averages) -> None:
        """The update, or updates, of one batch over this process's micro-batches."""
        now = epoch * self.steps_per_epoch + step
        for optimizer in self.optimizers.values():
            set_learning_rate(optimizer, schedule_factor(self.settings, now, self.steps_per_epoch))
            optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(derive_seed("step", self.settings.seed, epoch, step, distributed.rank()))
        if isinstance(self.task, AlternatingTask):
            self._alternate(self.task, parts, sums)
        else:
            self._accumulate(parts, sums)
        self.task.after_step()

    def _accumulate(self, parts: Iterator[tuple[Any, int, int]], sums: _Averages) -> None:
        """One step of the optimiser, with the gradients of all micro-batches."""
        (optimizer,) = self.optimizers.values()
        for batch, samples, of_step in parts:
            batch = _move(batch, self.device, self.settings.channels_last)
            with self._autocast():
                loss, logs = self.task.step(batch)
            self.scaler.scale(loss * (samples / of_step)).backward()
            sums.add({"loss": loss, **logs}, samples)
        distributed.sum_gradients(p for group in optimizer.param_groups for p in group["params"])
        self.scaler.step(optimizer)
        self.scaler.update()

    def _alternate(self, task: AlternatingTask, parts: Iterator[tuple[Any, int, int]], sums: _Averages) -> None:
        """All updates of a task of several optimisers."""
        whole = list(parts)
        if len(whole) != 1:
            raise ConfigError(
                "a task of several optimisers takes a batch in one part, of which every process has a share; "
                "set accumulate to 1, and batch_size to the number of processes at least"
            )
        ((batch, samples, of_step),) = whole
        updates = task.updates(_move(batch, self.device, self.settings.channels_last))
        while True:
            try:
                with self._autocast():
                    update = next(updates)
            except StopIteration as end:
                sums.add(end.value, samples)
                return
            self._update(update, samples / of_step)

    def _update(self, update: Update, share: float) -> None:
        optimizer = self.optimizers[update.optimizer]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        loss = self.scaler.scale(update.loss * share)
        loss.backward(inputs=parameters, retain_graph=update.retain_graph)
        distributed.sum_gradients(parameters)
        if update.clip is not None:
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters, update.clip)
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def _autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, dtype=self.amp, enabled=self.amp is not None)

    def _write(self, seconds: float) -> None:
        state = {
            "model": self.task.model.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "scaler": self.scaler.state_dict(),
            "task": self.task.state_dict(),
            "rows": self.rows,
        }
        save_checkpoint(self.scratch, self.epochs_done, state, self.key)
        if self.metrics_csv is not None:
            write_metrics(self.metrics_csv, self.rows)
        samples = self.steps_per_epoch * min(self.settings.batch_size, len(self.task.dataset.ids))
        with open(self.scratch / "timing.csv", "a", encoding="utf-8") as handle:
            handle.write(f"{self.epochs_done},{seconds:.3f},{samples / seconds:.1f}\n")
        values = ", ".join(f"{name} {value:.4g}" for name, value in self.rows[-1].items())
        log.info("%s; %.1f s, %.0f samples/s", values, seconds, samples / seconds)


class _Averages:
    """Sample-weighted averages of logged values; kept on the device so that no step waits for it."""

    def __init__(self, device: torch.device):
        self.device = device
        self.sums: dict[str, torch.Tensor] = {}
        self.weight = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, values: dict[str, torch.Tensor | float], weight: float) -> None:
        for name, value in values.items():
            value = torch.as_tensor(value, device=self.device).detach().double()
            self.sums[name] = self.sums.get(name, torch.zeros_like(self.weight)) + value * weight
        self.weight = self.weight + weight

    def require_finite(self, epoch: int, step: int) -> None:
        loss = self.sums.get("loss")
        if loss is not None and not bool(torch.isfinite(loss)):
            raise CamflowError(
                f"the training loss stopped being finite in epoch {epoch + 1}, at or shortly before step {step + 1}; "
                "lower lr (and check momentum_slot, precision and the initial weights)"
            )

    def result(self) -> Row:
        names = sorted(set().union(*distributed.gather_objects(list(self.sums))))
        zero = torch.zeros_like(self.weight)
        total = distributed.sum_tensor(torch.stack([self.weight, *(self.sums.get(n, zero) for n in names)]))
        weight, *sums = total.tolist()
        return {f"train_{name}": value / weight for name, value in zip(names, sums, strict=True)}


def _autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    if precision != "fp32" and device.type != "cuda":
        # The precision is in the result's key, so another one must not be taken in silence.
        raise ConfigError(f"precision: {precision} needs a GPU, and this is a {device.type}; set precision: fp32")
    return dtype


def _move(value: Any, device: torch.device, channels_last: bool) -> Any:
    """Move every tensor in nested dicts, lists and tuples; floating 4-D ones into the chosen layout."""
    if isinstance(value, torch.Tensor):
        images = channels_last and value.ndim == 4 and value.is_floating_point()
        layout = torch.channels_last if images else torch.preserve_format
        return value.to(device, non_blocking=True, memory_format=layout)
    if isinstance(value, dict):
        return {name: _move(item, device, channels_last) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_move(item, device, channels_last) for item in value)
    return value
