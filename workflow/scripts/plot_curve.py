"""Seed scores over the background threshold."""

from camflow.plan import job
from camflow.plots.curves import threshold_figure
from camflow.plots.style import save
from camflow.store import read_json

with job.start(snakemake) as task:
    save(threshold_figure(read_json(task.input.score), f"{task.recipe}, {task.split}"), task.output.figure)
