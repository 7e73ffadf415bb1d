"""Photo, truth and the seed maps of every localizer side by side."""

from camflow.data.catalog import Catalog
from camflow.plan import job
from camflow.plots.overlays import comparison_figure
from camflow.plots.style import save
from camflow.store import Store

with job.start(snakemake) as task:
    seeds = {name.removeprefix("maps_"): path for name, path in task.input.items() if name.startswith("maps_")}
    figure = comparison_figure(
        Catalog(task.input.catalog),
        {name: Store(path, stage="maps") for name, path in seeds.items()},
        count=task.sections["report"]["images"],
        title=f"{task.recipe}, {task.split}",
    )
    save(figure, task.output.figure)
