"""``camflow bench``: choose the measurements, run them one after the other, show a bar, print the tables."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from camflow.bench.machine import machine
from camflow.bench.stages import NEEDS, STAGES
from camflow.bench.table import print_report
from camflow.bench.worker import Job, in_subprocess
from camflow.errors import ConfigError, did_you_mean

FORMAT = "camflow-bench/1"
RATIO_NAMES = (
    "sweep-loop", "crf-labels", "crf-lattice", "walk", "path-maximum", "cam-threads", "cam-pair", "advcam-loop",
    "advcam-bf16", "lpcam-cost", "lpcam-explicit", "store", "train-threads",
    "box-curves-smooth", "box-curves-noisy",
)  # fmt: skip
GROUPS = {"stages": tuple(STAGES), "ratios": RATIO_NAMES}
BUDGET = 4.0  # seconds of repeats per ratio


def run(
    images: int = 100,
    size: int = 96,
    *,
    photo_size: str = "375x500",
    only: Sequence[str] | None = None,
    json_file: str | Path | None = None,
    console: Console | None = None,
    budget: float = BUDGET,
    launch: Callable[[Job], Any] = in_subprocess,
) -> dict[str, Any]:
    """Measure, print, and return what was measured.

    Args:
        images: dataset size; ten times as many are measured too.
        size: side of the dataset's photos in pixels.
        photo_size: HEIGHTxWIDTH of the photos that the two sides of a ratio are timed on.
        only: names of stages or ratios, or ``stages`` and ``ratios``; None measures everything.
        json_file: where to write the result as well.
        console: where to print.
        budget: seconds of repeats per ratio, which are at least three in any case.
        launch: what carries out a measurement.

    Raises:
        ConfigError: an option that cannot be honoured.
        CamflowError: a measurement failed, or the two sides of a ratio differ.
    """
    console = console or Console(width=None if Console().is_terminal else 132)
    wanted = _wanted(only)
    settings = {"images": images, "size": size, "photo_size": list(_photo_size(photo_size, images, size))}
    report = {
        "format": FORMAT,
        "machine": machine(),
        "settings": settings,
        "stages": [],
        "ratios": [],
        "skipped": [],
        "job_seconds": {},
    }
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="camflow-bench-") as folder:
        jobs = list(_jobs(wanted, settings, folder, budget))
        for job, answer, seconds in _carry_out(jobs, launch):
            report["job_seconds"][f"{job['name']} {job.get('at', '')}".strip()] = seconds
            if job["name"] not in wanted:
                continue
            if job["kind"] == "stage":
                report["stages"].append({"name": job["name"], "at": job["at"], **answer})
            else:
                for row in answer:
                    report["skipped" if "skipped" in row else "ratios"].append(row)
    report["seconds"] = time.perf_counter() - start
    print_report(report, console)
    if json_file is not None:
        from camflow.store import write_json  # here: this process stays small while others are measured

        write_json(json_file, report)
    return report


def _wanted(only: Sequence[str] | None) -> set[str]:
    known = [*STAGES, *RATIO_NAMES]
    found: set[str] = set()
    for name in only or known:
        if name not in known and name not in GROUPS:
            raise ConfigError(f"--only: unknown '{name}'{did_you_mean(name, [*known, *GROUPS])}")
        found.update(GROUPS.get(name, (name,)))
    return found


def _photo_size(text: str, images: int, size: int) -> tuple[int, int]:
    """Parse HEIGHTxWIDTH; refuse sizes that cannot be drawn before anything is measured."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match or not all(32 <= int(n) <= 1024 for n in match.groups()):
        raise ConfigError(f"--photo-size should be HEIGHTxWIDTH in pixels, each from 32 to 1024, not '{text}'")
    if not 1 <= images <= 9999:
        raise ConfigError(f"--images should be from 1 to 9999, not {images}")
    if not 48 <= size <= 1024:
        raise ConfigError(f"--size should be from 48 to 1024 pixels, not {size}")
    return int(match[1]), int(match[2])


def _jobs(wanted: set[str], settings: dict[str, Any], folder: str, budget: float) -> list[Job]:
    """The measurements in order: the dataset, every stage (and what it needs) at both sizes, the ratios."""
    common = {"folder": folder, "images": settings["images"], "size": settings["size"]}
    stages = {stage for name in wanted & set(STAGES) for stage in (name, *NEEDS[name])}
    jobs: list[Job] = [{"kind": "data", "name": "made dataset", **common}] if stages else []
    for name in STAGES:
        if name in stages:
            jobs += [{"kind": "stage", "name": name, "at": at, **common} for at in ("1x", "10x")]
    ratio = {"kind": "ratio", "folder": folder, "photo_size": settings["photo_size"], "budget": budget}
    return jobs + [{**ratio, "name": name} for name in RATIO_NAMES if name in wanted]


def _carry_out(jobs: list[Job], launch: Callable[[Job], Any]) -> Iterator[tuple[Job, Any, float]]:
    """Yield (job, answer, seconds it took in all) under a progress bar on the standard error."""
    columns = TextColumn("{task.description:>16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=len(jobs))
        for job in jobs:
            bar.update(task, description=f"{job['name']} {job.get('at', '')}".strip())
            clock = time.perf_counter()
            yield job, launch(job), time.perf_counter() - clock
            bar.advance(task)
