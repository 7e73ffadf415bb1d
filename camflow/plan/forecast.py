"""``camflow plan``: what Snakemake would run, what is there already, and what it will cost, stage by stage."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from camflow.errors import CamflowError, ConfigError
from camflow.plan import records
from camflow.plan.costs import HERE, OTHER, SAME, Costs, Job, Stage, sum_up
from camflow.plan.plan import PROJECT, Plan

ASK = PROJECT / "workflow/jobs.py"
FAR = 10  # times the work of the largest recorded job: from there on an estimate says so
LONG = 30  # characters of a device's name


def forecast(
    plan: Plan,
    targets: Sequence[str],
    *,
    cores: int,
    gpus: int,
    places: Sequence[str | Path] = (),
    save: Path | None = None,
) -> dict[str, Any]:
    """Ask Snakemake for its jobs and sum them up.

    Args:
        plan: the configuration.
        targets: as given to ``snakemake``; none for its default.
        cores, gpus: what it would run on.
        places: folders of benchmarks and files of saved records, besides this folder's own and ``runtime.records``.
        save: where to write all records in one file.

    Raises:
        ConfigError: no core, or a place without records.
        CamflowError: Snakemake refuses the targets; its own words.
    """
    if cores < 1 or gpus < 0:
        raise ConfigError(f"--cores should be 1 or more and --gpus 0 or more, not {cores} and {gpus}")
    own = plan.results / "benchmarks"
    known = records.load([*([own] if own.is_dir() else []), *plan.config["runtime"]["records"], *places])
    if save:
        records.save(known, save)
    jobs = [_job(plan, item) for item in ask_snakemake(plan, targets, cores, gpus)]
    return _report(sum_up(jobs, known, cores, gpus), cores, gpus, len(known))


def ask_snakemake(plan: Plan, targets: Sequence[str], cores: int, gpus: int) -> list[dict[str, Any]]:
    """The jobs of Snakemake's own plan, see ``workflow/jobs.py``. Raises ``CamflowError`` with Snakemake's words."""
    overlays = plan.files[1:]  # the first is what the Snakefile takes by itself
    with tempfile.TemporaryDirectory(prefix="camflow-plan-") as folder:
        out, request = Path(folder, "jobs.json"), Path(folder, "request.json")
        wanted = {"cores": cores, "gpus": gpus, "configfiles": overlays, "config": plan.overrides}
        request.write_text(json.dumps(wanted), encoding="utf-8")
        command = [sys.executable, str(ASK), str(out), str(request), *targets]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
        if done.returncode:
            lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("  File ")]
            raise CamflowError("Snakemake cannot plan this:\n" + "\n".join(lines[-30:]))
        return json.loads(out.read_text(encoding="utf-8"))


def _job(plan: Plan, item: dict[str, Any]) -> Job:
    return Job(
        id=item["id"],
        rule=item["rule"],
        run=item["run"],
        threads=item["threads"],
        gpus=item["gpus"],
        needs=tuple(item["needs"]),
        stored=0 if item["run"] else records.written(item["output"]),
        measured=item["measured"],
        work=records.work_of(plan, item["rule"], json.loads(item["job"])) if item["measured"] else None,
    )


# --- the report ------------------------------------------------------------------------------------------------------


def _report(costs: Costs, cores: int, gpus: int, known: int) -> dict[str, Any]:
    """A plan's costs as JSON-able values; what nothing is known of is null."""
    stages = [_stage(stage) for stage in costs.stages]
    summed = ("jobs_to_run", "jobs_cached", "jobs_without_record", "stored_bytes")
    total = {key: sum(stage[key] for stage in stages) for key in summed}
    foretold = [stage for stage in stages if stage["core_hours"] is not None]
    for key in ("core_hours", "gpu_hours", "new_bytes"):
        total[key] = sum(stage[key] for stage in foretold) if foretold or not costs.unknown else None
    return {
        "cores": cores,
        "gpus": gpus,
        "records": known,
        "stages": stages,
        "total": total,
        "wall_seconds": costs.wall_seconds if total["core_hours"] is not None else None,
        "complete": not costs.unknown,
    }


def _stage(stage: Stage) -> dict[str, Any]:
    known = bool(stage.tiers)
    used = stage.records
    return {
        "rule": stage.rule,
        "measured": stage.measured,
        "jobs_to_run": stage.run,
        "jobs_cached": stage.cached,
        "jobs_without_record": stage.unknown,
        "stored_bytes": stage.stored,
        "core_hours": stage.core_seconds / 3600 if known else None,
        "gpu_hours": stage.gpu_seconds / 3600 if known else None,
        "new_bytes": round(stage.new) if known else None,
        "stands_on": {
            "records": len(used),
            "stretch": stage.stretch if known else None,
            "estimates": dict(sorted(stage.tiers.items())),
            "datasets": sorted({item.work.dataset for item in used}),
            "devices": sorted({item.device for item in used}),
        },
    }


def show(report: dict[str, Any], console: Console) -> None:
    """Print a report for people."""
    total = report["total"]
    if not total["jobs_to_run"]:
        console.print(
            f"Nothing to run: {_count(total['jobs_cached'], 'job')} cached, {_size(total['stored_bytes'])} on disk."
        )
        return
    console.print(_table(report))
    if not any(item["jobs_to_run"] for item in report["stages"] if item["measured"]):
        console.print("Only links, figures and tables are to be made; they are not measured.")
        return
    where = _count(report["cores"], "core") + (f" and {_count(report['gpus'], 'GPU')}" if total["gpu_hours"] else "")
    if report["wall_seconds"] is None:
        console.print(f"How long it takes cannot be said: of {report['records']} records none is of such a job.")
    elif report["complete"]:
        console.print(f"About {_time(report['wall_seconds'])} on {where}.")
    else:
        console.print(
            f"At least {_time(report['wall_seconds'])} on {where}, and what {_count(total['jobs_without_record'], 'job')} "
            "without a record take."
        )
    if any(OTHER in item["stands_on"]["estimates"] for item in report["stages"]):
        console.print(f"'{OTHER}': parameters differ from those of the recorded jobs, so expect another order of size.")
    if any((item["stands_on"]["stretch"] or 0) >= FAR for item in report["stages"]):
        console.print(
            "'x the work': far more than was recorded; what a stage does once counts as if it grew too, so expect less."
        )
    console.print("Estimates grow with images and epochs, not with the size of the photos.")


def _table(report: dict[str, Any]) -> Table:
    table = Table()
    table.add_column("stage")
    for heading in ("to run", "cached", "core-hours", "GPU-hours", "writes", "on disk"):
        table.add_column(heading, justify="right")
    table.add_column("stands on")
    for item in report["stages"]:
        if item["measured"]:
            table.add_row(item["rule"], *_cells(item), _basis(item))
    quick = [item for item in report["stages"] if not item["measured"]]
    if quick:
        summed = {key: sum(item[key] for item in quick) for key in ("jobs_to_run", "jobs_cached", "stored_bytes")}
        unknown = dict.fromkeys(("core_hours", "gpu_hours", "new_bytes"))
        table.add_row("links, figures, tables", *_cells({**summed, **unknown}), "not measured")
    table.add_section()
    table.add_row("total", *_cells(report["total"]), "" if report["complete"] else "what is known")
    return table


def _cells(item: dict[str, Any]) -> list[str]:
    return [
        str(item["jobs_to_run"] or ""),
        str(item["jobs_cached"] or ""),
        _number(item["core_hours"]),
        _number(item["gpu_hours"] or None),
        "" if item["new_bytes"] is None else _size(item["new_bytes"]),
        _size(item["stored_bytes"]) if item["jobs_cached"] else "",
    ]


def _basis(item: dict[str, Any]) -> str:
    """What a stage's estimate stands on, such as ``3 runs, same settings and dataset, on parts, AMD EPYC``."""
    if not item["jobs_to_run"]:
        return "cached"
    basis = item["stands_on"]
    parts = []
    if basis["records"]:
        tiers = " / ".join(tier for tier in (HERE, SAME, OTHER) if tier in basis["estimates"])
        devices = ", ".join(name[:LONG].strip() for name in basis["devices"])
        parts.append(f"{_count(basis['records'], 'run')}, {tiers} ({', '.join(basis['datasets'])}; {devices})")
        if basis["stretch"] >= FAR:
            parts[-1] += f", {basis['stretch']:.0f} x the work"
    if item["jobs_without_record"]:
        parts.append("no record yet" if not parts else f"{item['jobs_without_record']} without a record")
    return "; ".join(parts)


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _number(value: float | None) -> str:
    """Two or three significant digits; nothing for nothing."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 9.95 else f"{value:.2g}"


def _size(count: float) -> str:
    """Bytes in the largest decimal unit below them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 9.95 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _time(seconds: float) -> str:
    """``40 s``, ``5 min``, ``3.2 hours``, ``2.5 days``."""
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    if seconds < 7170:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} hours" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
