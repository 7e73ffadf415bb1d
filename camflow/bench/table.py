"""The printed form of a benchmark."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def print_report(report: dict[str, Any], console: Console) -> None:
    """Print the machine and the tables of what was measured."""
    machine, settings = report["machine"], report["settings"]
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load']}; "
        f"{machine['system']}, Python {machine['python']}, torch {machine['torch']}, numpy {machine['numpy']}",
        highlight=False,
    )
    if report["stages"]:
        console.print(_stages(report["stages"], settings))
    if report["ratios"]:
        console.print(_ratios(report["ratios"], settings))
    for row in report["skipped"]:
        console.print(f"{row['name']}: not measured, {row['skipped']}", highlight=False)
    console.print(f"measured in {report['seconds']:.0f} s", highlight=False)


def _stages(stages: list[dict[str, Any]], settings: dict[str, Any]) -> Table:
    small, large = settings["images"], 10 * settings["images"]
    side = settings["size"]
    table = Table(title=f"Stages on {small} and {large} photos of {side}x{side} pixels, one core, CPU")
    table.add_column("stage")
    headings = (f"images/s\nat {small}", f"images/s\nat {large}", f"seconds\nat {small}", f"seconds\nat {large}")
    memory = ("MB at\nstart", f"peak MB\nat {small}", f"peak MB\nat {large}", "peak\nratio")
    for heading in (*headings, *memory):
        table.add_column(heading, justify="right")
    for name in dict.fromkeys(stage["name"] for stage in stages):
        one, ten = (next(s for s in stages if (s["name"], s["at"]) == (name, at)) for at in ("1x", "10x"))
        peaks = one["peak_mb"], ten["peak_mb"]
        table.add_row(
            name,
            *(number(value) for value in (one["rate"], ten["rate"], one["seconds"], ten["seconds"])),
            f"{ten['start_mb']:.0f}",
            *(f"{peak:.0f}" for peak in peaks),
            f"{peaks[1] / peaks[0]:.2f}",
        )
    return table


def _ratios(ratios: list[dict[str, Any]], settings: dict[str, Any]) -> Table:
    height, width = settings["photo_size"]
    table = Table(
        title=f"A against B on photos of {height}x{width} pixels (networks: some smaller), medians of repeats"
    )
    for heading in ("ratio", "A", "B"):
        table.add_column(heading)
    for heading in ("A takes", "B takes", "unit", "A / B", "range", "repeats"):
        table.add_column(heading, justify="right")
    table.add_column("same result")
    for row in ratios:
        low, high = row["ratio_range"]
        table.add_row(
            row["name"], row["a"], row["b"], number(row["a_value"]), number(row["b_value"]), row["unit"],
            f"{row['ratio']:.2f}", f"{low:.2f} to {high:.2f}", str(row["repeats"]), row["same"],
        )  # fmt: skip
    return table


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}"
