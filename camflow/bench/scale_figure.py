"""The picture of a scale run: seconds, memory, planning and files against the number of photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from camflow.plots.style import save


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw a report of ``camflow.bench.scale`` as four panels on the number of photos.

    Args:
        report: what ``scale`` returned.
        path: the PNG, replaced atomically.
    """
    runs = report["runs"]
    photos = [run["images"] for run in runs]
    figure, axes = plt.subplots(2, 2, figsize=(7.2, 5.0))
    seconds, memory, planning, files = axes.flat
    for column, stage in enumerate(runs[0]["stages"]):
        rows = [run["stages"][column] for run in runs]
        seconds.plot(photos, [row["cpu_seconds"] for row in rows], marker="o", markersize=3, label=stage["name"])
        memory.plot(photos, [row["peak_mb"] for row in rows], marker="o", markersize=3)
    for name, label in (("first", "reading every photo"), ("again", "nothing made yet"), ("done", "everything made")):
        planning.plot(
            photos, [run["plans"][name]["cpu_seconds"] for run in runs], marker="o", markersize=3, label=label
        )
    files.plot(photos, [run["files"]["count"] for run in runs], marker="o", markersize=3, label="results")
    files.plot(photos, [run["snakemake_files"]["count"] for run in runs], marker="o", markersize=3, label=".snakemake")
    titles = {
        seconds: "CPU seconds by stage",
        memory: "peak MB by stage",
        planning: "snakemake -n, CPU seconds",
        files: "files",
    }
    for axis, title in titles.items():
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("photos", fontsize=8)
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=7)
        if axis is not memory:
            axis.legend(fontsize=6, frameon=False)
    figure.tight_layout()
    save(figure, path)
