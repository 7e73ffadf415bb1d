"""Photos with their true boxes and those of their maps."""

from camflow.data.catalog import Catalog
from camflow.plan import job
from camflow.plots.boxes import box_figure
from camflow.plots.style import save
from camflow.store import Store

with job.start(snakemake) as task:
    figure = box_figure(
        Catalog(task.input.catalog),
        Store(task.input.maps, stage="maps"),
        Store(task.input.box_curves, stage="box_curves"),
        count=task.sections["report"]["images"],
        title=f"{task.recipe}, {task.split}",
    )
    save(figure, task.output.figure)
