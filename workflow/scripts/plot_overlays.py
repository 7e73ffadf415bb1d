"""Photo, truth, seed map and mask side by side."""

from camflow.data.catalog import Catalog
from camflow.plan import job
from camflow.plots.overlays import overlay_figure
from camflow.plots.style import save
from camflow.store import Store, read_json

with job.start(snakemake) as task:
    given = dict(task.input.items())
    labelled = given.get("masks", given.get("predictions_crf"))
    figure = overlay_figure(
        Catalog(given["catalog"]),
        Store(given["maps"], stage="maps") if "maps" in given else None,
        Store(labelled, stage="masks") if labelled else None,
        threshold=read_json(given["threshold"])["threshold"] if "threshold" in given else None,
        count=task.sections["report"]["images"],
        title=f"{task.recipe}, {task.split}",
    )
    save(figure, task.output.figure)
