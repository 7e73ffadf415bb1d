"""What every job does before and after its stage: log, check its key against the disk, fail with one clear sentence."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import logging
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from camflow.errors import CamflowError, DataError, RecipeError, StoreError
from camflow.plan import records
from camflow.plan.content import changed_since
from camflow.plan.origin import check_origin
from camflow.plan.plan import Plan, parse_target
from camflow.store import is_full, write_json

_LOGGER = logging.getLogger("camflow")
_VERSIONED = ("torch", "torchvision", "numpy", "h5py", "pydensecrf2", "pillow", "scipy", "scikit-learn", "timm")


class Job:
    """A planned job: its description (see ``Plan.job``) and the files Snakemake gives it."""

    def __init__(self, snakemake):
        self.description: dict[str, Any] = json.loads(snakemake.params.job)
        self.input = snakemake.input
        self.output = snakemake.output
        self.rule = snakemake.rule
        self.threads = int(snakemake.threads)
        self.gpus = int(snakemake.resources.get("gpu", 0))
        self.log = Path(snakemake.log[0]) if snakemake.log else None

    def __getattr__(self, name: str) -> Any:
        try:
            return self.description[name]
        except KeyError as error:
            raise AttributeError(name) from error

    @functools.cached_property
    def device(self) -> str:
        """``runtime.device`` with ``auto`` resolved to what the machine has."""
        import torch

        wanted = self.runtime["device"]
        if wanted == "auto":
            given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            if torch.cuda.is_available():
                return "cuda"
            if given[:1].isdigit() or given.startswith("GPU"):
                _LOGGER.warning("GPU %s was given to this job, but torch sees none: it runs on the CPU", given)
            return "cpu"
        if wanted.startswith("cuda") and not torch.cuda.is_available():
            raise CamflowError(
                f"runtime.device is {wanted}, but this machine shows no GPU to torch; set it to cpu or auto"
            )
        if wanted.startswith("cuda:") and int(wanted[5:]) >= torch.cuda.device_count():
            raise CamflowError(
                f"runtime.device is {wanted}, but this machine has {torch.cuda.device_count()} GPUs, counted from 0"
            )
        return wanted

    @property
    def key(self) -> str:
        """Key of the recipe's last segment."""
        return self.segments[-1].rsplit("-", 1)[-1]

    @property
    def scratch(self) -> Path:
        """Folder for checkpoints, keyed like the target; Snakemake does not know it and never deletes it."""
        place = Path("results/scratch").joinpath(*self.segments)
        return place / f"{self.file}-{self.token}" if self.step else place

    def meta(self, **more: Any) -> dict[str, Any]:
        """The envelope of what this job writes."""
        return {
            "recipe": self.recipe,
            "target": self.target,
            "segments": self.segments,
            "key": self.key,
            "token": self.token,
            "parameters": self.parameters,
            "software": software(),
            **more,
        }

    def training(self, out: str) -> dict[str, Any]:
        """Arguments that every training takes from its job: its files, what it may go on from and what it runs on.

        Args:
            out: the output that holds the network.
        """
        # A run killed on one kind of device does not go on on another: the arithmetic differs.
        key = " ".join(filter(None, (self.key, self.token if self.step else "", self.device.split(":")[0])))
        return {
            "out": out,
            "metrics_csv": self.output.training,
            "scratch": str(self.scratch),
            "key": key,
            "device": self.device,
            "workers": self.runtime["workers"],
            "meta": self.meta(device=self.device),
        }

    def envelope(self) -> dict[str, Any]:
        """What a score says of its origin. Software versions stay out, so that equal scores are equal bytes."""
        return {"target": self.target, "recipe": self.recipe, "segments": self.segments, "token": self.token}

    def verify(self) -> None:
        """Refuse to run when config, code or data on disk no longer give the path this job was planned for."""
        plan = Plan.load(self.files, self.overrides)
        now = plan.output_now(self.description)
        if self.description.get("segments"):
            for name, (key, parts) in plan.explain(parse_target(self.target)).items():
                entry = plan.register(name) / f"{key}.json"
                if not entry.exists():
                    write_json(entry, parts)
        plan.save_caches()
        self._marks = plan.marks()
        if now != self.description["output"]:
            raise RecipeError(
                f"{self.description['output']} was planned, but config, code and data on disk now give {now}: something "
                "was edited after planning. Nothing was written; start Snakemake again."
            )
        self._record = records.place(plan, self.log, self.target) if self.log else None
        self._work = records.work_of(plan, self.rule, self.description)

    def verify_data(self) -> None:
        """Refuse the result when a file of the dataset was written while the job ran; its outputs are removed."""
        changed = changed_since(self._marks)
        if changed:
            for path in self.output:
                Path(path).unlink(missing_ok=True)
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise DataError(
                f"{changed[0]}{more}: changed while this job was reading the data. Run the same command again."
            )

    def leave_record(self, seconds: float, cpu: float) -> None:
        """Write down what this job had to do and how long its stage took, for ``camflow plan``."""
        if self._record:
            records.leave(
                self._record,
                self._work,
                stage=seconds,
                cpu=cpu,
                threads=self.threads,
                gpus=self.gpus,
                outputs=map(str, self.output),
            )


def _cpu_seconds() -> float:
    """Processor time of this process and of those it has waited for."""
    return sum(os.times()[:4])


def software() -> dict[str, str]:
    """Versions of what computes the numbers."""
    versions = {"python": platform.python_version()}
    for name in _VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


class _Log:
    """The stream of a job: everything into the log, and to the terminal where a person looks at one.

    A progress bar redraws itself many times a second; the log keeps one line of it in a while.
    """

    BAR_SECONDS = 20.0

    def __init__(self, log: TextIO, terminal: TextIO):
        self._log, self._terminal = log, terminal
        self._last_bar = 0.0

    def write(self, text: str) -> int:
        if self._terminal.isatty():
            self._terminal.write(text)
        if "\r" not in text:
            self._keep(text)
            return len(text)
        now = time.monotonic()
        if now - self._last_bar >= self.BAR_SECONDS and text.strip():
            self._last_bar = now
            self._keep(text.strip("\r\n ") + "\n")
        return len(text)

    def _keep(self, text: str) -> None:
        with contextlib.suppress(OSError):  # what cannot be logged on a full disk must not end the stage
            self._log.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._log.flush()
        if self._terminal.isatty():
            self._terminal.flush()

    def isatty(self) -> bool:
        return self._terminal.isatty()

    def fileno(self) -> int:
        return self._log.fileno()


@contextlib.contextmanager
def start(snakemake) -> Iterator[Job]:
    """Run a stage: log its output, verify its key, turn a user's error into one sentence and exit code 1.

    Library modules are imported by the script before this is entered, so that the code verified is not older than the
    code loaded. A damaged or foreign input is moved aside, so that the next run makes it anew.

    A ``Job`` in place of Snakemake's object (``camflow apply``) is run as it is; its errors are its caller's.
    """
    if isinstance(snakemake, Job):
        yield snakemake
        return
    job = Job(snakemake)
    terminal = sys.stderr
    with _logged(job, terminal) as log:
        try:
            job.verify()
            for path in job.input:
                check_origin(Path(str(path)))
            clock, cpu = time.perf_counter(), _cpu_seconds()
            yield job
            job.verify_data()
            job.leave_record(time.perf_counter() - clock, _cpu_seconds() - cpu)
        except Exception as error:
            lines = [f"{job.target}: {_sentence(job, error)}"]
            if isinstance(error, StoreError):
                lines += [
                    f"Moved aside as {path}; run the same command again to make it anew."
                    for path in _set_aside(job, error)
                ]
            text = "\nERROR: " + "\n".join(lines) + "\n"
            expected = isinstance(error, CamflowError) or is_full(error)
            for stream in filter(None, (terminal, log)):
                with contextlib.suppress(OSError):
                    print("" if expected else traceback.format_exc(), text, sep="", file=stream, flush=True)
            raise SystemExit(1) from None


@contextlib.contextmanager
def _logged(job: Job, terminal: TextIO) -> Iterator[TextIO | None]:
    """Send what is printed and logged into the job's log, which is yielded."""
    with contextlib.ExitStack() as stack:
        log, stream = None, terminal
        if job.log:
            log = open(job.log, "w", encoding="utf-8", buffering=1)  # noqa: SIM115  (closed below)
            stack.callback(_close, log)
            stream = _Log(log, terminal)
            stack.enter_context(contextlib.redirect_stderr(stream))
            stack.enter_context(contextlib.redirect_stdout(stream))
        handler = logging.StreamHandler(stream)
        _LOGGER.addHandler(handler)
        _LOGGER.setLevel(logging.INFO)
        stack.callback(_LOGGER.removeHandler, handler)
        yield log


def _close(log: TextIO) -> None:
    with contextlib.suppress(OSError):  # a full disk
        log.close()


def _sentence(job: Job, error: Exception) -> str:
    if isinstance(error, CamflowError):
        return str(error)
    if is_full(error):
        path = getattr(error, "filename", None) or job.description["output"]
        return f"{path}: no space left on the device; free some and run again (nothing was written)"
    return f"unexpected failure, see {job.log}"


def _set_aside(job: Job, error: StoreError) -> list[Path]:
    """Rename a damaged input (and, for a shard, the index over it) so that it is made again."""
    damaged = error.path.absolute()
    moved = []
    for given in job.input:
        path = Path(str(given)).absolute()
        split = ".".join(path.name.split("-")[0].split(".")[:2])
        shards = path.with_name(f"{split}.shards")
        if damaged == path or damaged.parent == shards:
            for file in {damaged, path}:
                if file.exists():
                    aside = file.with_name(file.name + ".corrupt")
                    file.replace(aside)
                    moved.append(aside)
    return moved
