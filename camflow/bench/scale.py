"""``camflow bench scale``: the real workflow on growing datasets, to see that time is linear and memory flat.

Each size is a dataset of its own in VOC layout, drawn into a temporary folder, with one recipe from the check to the
score of the pseudo-masks, on a network so small that what is around the networks shows. A first dry run has to read
every photo; a second one only looks at them; after the run, a third plans with everything there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from camflow.bench.machine import machine
from camflow.bench.table import number
from camflow.errors import CamflowError, ConfigError

FORMAT = "camflow-scale/1"
SIZES = (1000, 2500, 5000, 10000)
PROJECT = Path(__file__).resolve().parents[2]
RECIPE = "made/plain/cam/crf"
TARGET = f"results/{RECIPE}/score.train.json"
VAL = 8  # photos of the other split, which is checked before anything is trained; fewer than of the training split
STAGES = {
    "check_dataset": "check",
    "train_plain": "train",
    "localize_cam": "cam",
    "join_maps": "join",
    "score_maps": "seed score",
    "refine_crf": "crf",
    "score_masks": "score",
}
PLANS = {"first": "reads every photo", "again": "nothing made yet", "done": "everything made"}


def scale(
    sizes: Sequence[int] = SIZES,
    side: int = 48,
    *,
    cores: int = 1,
    json_file: Path | None = None,
    figure: Path | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run the workflow at every size, print what it took, and return it.

    Args:
        sizes: numbers of training photos.
        side: of the square photos in pixels.
        cores: that Snakemake may use. With one, no stage slows another down.
        json_file, figure: where to write the numbers and a picture of them.
        console: where to print.

    Raises:
        ConfigError: an option that cannot be honoured.
        CamflowError: a run failed.
    """
    if not sizes or not all(10 <= size <= 99_999 for size in sizes) or not 48 <= side <= 1024 or cores < 1:
        raise ConfigError("--images should be from 10 to 99999, --size from 48 to 1024 pixels, --cores 1 or more")
    report = {"format": FORMAT, "machine": machine(), "side": side, "cores": cores, "runs": []}
    columns = TextColumn("{task.description:>24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=5 * len(sizes))

        def step(name: str) -> None:
            bar.update(task, description=name)
            bar.advance(task)

        for size in sorted(sizes):
            with tempfile.TemporaryDirectory(prefix="camflow-scale-") as folder:
                report["runs"].append(measure(Path(folder), size, side, cores, step))
            if json_file:  # after each size, since the next one takes longer
                from camflow.store import write_json  # here: this process stays small while others are measured

                write_json(json_file, report)
    show(report, console or Console(width=None if sys.stdout.isatty() else 132))
    if figure:
        from camflow.bench.scale_figure import draw

        draw(report, figure)
    return report


def measure(folder: Path, images: int, side: int, cores: int, step=lambda name: None) -> dict[str, Any]:
    """One size: draw, plan twice, run, plan again, count. Seconds, MB (2^20 bytes), bytes."""
    step(f"{images} photos: drawing")
    _python(folder, f"from camflow.bench.scale import prepare; prepare({images}, {side})")
    plans = {}
    for name in ("first", "again"):
        step(f"{images} photos: planning {name}")
        plans[name] = _snakemake(folder, "-n", cores=cores)
    step(f"{images} photos: running")
    whole = _snakemake(folder, cores=cores)
    step(f"{images} photos: planning done")
    plans["done"] = _snakemake(folder, "-n", cores=cores)
    score = json.loads((folder / TARGET).read_text(encoding="utf-8"))
    if score["conditions"]["n_images"] != images:
        raise CamflowError(f"the run on {images} photos scored {score['conditions']['n_images']}")
    return {
        "images": images,
        "plans": plans,
        "run": whole,
        "stages": _stages(folder, images),
        "files": _count(folder / "results"),
        "snakemake_files": _count(folder / ".snakemake"),
    }


def prepare(images: int, side: int) -> None:
    """Draw the dataset into the working folder and write the config of the run beside it."""
    from camflow.data.parts import PartsParams, generate_parts
    from camflow.store import write_json

    params = PartsParams(train=images, val=VAL, size=side)
    generate_parts(Path("data"), params)
    write_json("config.yaml", config(side, params.class_names))  # JSON is YAML


def config(side: int, class_names: Sequence[str]) -> dict[str, Any]:
    """One recipe on a folder in VOC layout, with a network of a few thousand weights trained for one epoch."""
    network = {"backbone": "tiny", "width": 4, "weights": "none", "output_stride": None}
    training = {
        "crop": side, "scale": None, "epochs": 1, "batch_size": 32, "lr": 0.05, "momentum_slot": "paper",
        "freeze_bn": False, "freeze_stem": False, "detach": "none",
    }  # fmt: skip
    layout = {"labels": "labels.json", "masks": ["SegmentationClass"], "mask_values": "index"}
    return {
        "recipes": [RECIPE],
        "datasets": {"made": {"format": "voc", "root": "data", "classes": list(class_names), **layout}},
        "classifiers": {"plain": {"method": "plain", **network, **training}},
        "localizers": {"cam": {"method": "cam", "scales": [1.0]}},
        "refiners": {"crf": {"method": "crf"}},
        "runtime": {"device": "cpu", "jobs": 1, "shards": 2},
    }


def _snakemake(folder: Path, *more: str, cores: int) -> dict[str, float]:
    profile = ["--workflow-profile", str(PROJECT / "profiles/default"), "--snakefile", str(PROJECT / "Snakefile")]
    command = [sys.executable, "-m", "snakemake", "--cores", str(cores), "--quiet", "rules", *profile, *more, TARGET]
    return _measured(folder, command)


def _python(folder: Path, code: str) -> None:
    _measured(folder, [sys.executable, "-c", code])


def _measured(folder: Path, command: list[str]) -> dict[str, float]:
    """Seconds and peak memory of a command (its own process, not those it starts). Raises ``CamflowError``."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryFile("w+", errors="replace") as text:
        clock = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, stdout=text, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, **threads, "PYTHONPATH": path},
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - clock
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            text.seek(0)
            raise CamflowError(f"{' '.join(command[1:4])} ... failed:\n{text.read()[-3000:].strip()}")
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss * unit / 2**20,
    }


def _stages(folder: Path, images: int) -> list[dict[str, Any]]:
    """What each stage took, by the records that its jobs left, the training split alone."""
    from camflow.plan import records

    found = []
    for rule, name in STAGES.items():
        jobs = [item for item in records.load([folder / "results/benchmarks"]) if item.work.rule == rule]
        most = max(item.work.units for item in jobs)
        jobs = [item for item in jobs if item.work.units == most]
        seconds = sum(item.stage for item in jobs)
        found.append(
            {
                "name": name,
                "jobs": len(jobs),
                "images": round(sum(item.work.images or 0 for item in jobs)) or images,  # none of an index over shards
                "seconds": seconds,
                "cpu_seconds": sum(item.cpu for item in jobs),
                "whole_seconds": sum(item.seconds for item in jobs),
                "peak_mb": max(item.peak_mb for item in jobs),
                "bytes": sum(item.size for item in jobs),
            }
        )
    return found


def _count(folder: Path) -> dict[str, int]:
    files = [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]
    return {"count": len(files), "bytes": sum(path.lstat().st_size for path in files)}


# --- printing --------------------------------------------------------------------------------------------------------


def show(report: dict[str, Any], console: Console) -> None:
    """Print the tables of a report."""
    found, runs = report["machine"], report["runs"]
    console.print(
        f"{found['cpu']}, {found['cores']} cores, load {found['load']}, Python {found['python']}, torch {found['torch']}; "
        f"photos of {report['side']}x{report['side']}, Snakemake on {report['cores']}",
        highlight=False,
    )
    console.print(_by_size("seconds", runs, lambda stage: number(stage["seconds"])))
    console.print(_by_size("CPU seconds", runs, lambda stage: number(stage["cpu_seconds"])))
    console.print(
        _by_size("images/CPU s", runs, lambda stage: number(stage["images"] / max(stage["cpu_seconds"], 1e-2)))
    )
    console.print(_by_size("peak MB", runs, lambda stage: f"{stage['peak_mb']:.0f}"))
    console.print(_around(runs))


def _by_size(title: str, runs: Sequence[dict[str, Any]], cell) -> Table:
    table = Table()
    table.add_column(title, min_width=34)
    for run in runs:
        table.add_column(str(run["images"]), justify="right")
    for row in zip(*(run["stages"] for run in runs), strict=True):
        table.add_row(row[0]["name"], *map(cell, row))
    return table


def _around(runs: Sequence[dict[str, Any]]) -> Table:
    table = Table()
    table.add_column("snakemake -n, the run, what it leaves", min_width=34)
    for run in runs:
        table.add_column(str(run["images"]), justify="right")
    for name, meaning in PLANS.items():
        for key, unit in (("seconds", "s"), ("cpu_seconds", "CPU s")):
            table.add_row(f"planning {unit}, {meaning}", *(number(run["plans"][name][key]) for run in runs))
    table.add_row("planning peak MB", *(f"{max(p['peak_mb'] for p in run['plans'].values()):.0f}" for run in runs))
    table.add_row("run s", *(number(run["run"]["seconds"]) for run in runs))
    table.add_row("files of results", *(str(run["files"]["count"]) for run in runs))
    table.add_row("files of .snakemake", *(str(run["snakemake_files"]["count"]) for run in runs))
    table.add_row("MB of results", *(number(run["files"]["bytes"] / 1e6) for run in runs))
    return table
