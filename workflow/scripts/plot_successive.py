"""Seed maps after a few numbers of steps, side by side."""

from camflow.data.catalog import Catalog
from camflow.plan import job
from camflow.plots.studies import successive_figure
from camflow.plots.style import save
from camflow.store import Store

with job.start(snakemake) as task:
    figure = successive_figure(
        Catalog(task.input.catalog),
        Store(task.input.successive_maps, stage="maps"),
        task.sections["studies"]["successive"]["at"],
        f"{task.recipe}, {task.split}",
    )
    save(figure, task.output.figure)
