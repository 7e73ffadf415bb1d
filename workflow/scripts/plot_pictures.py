"""Photos of a dataset with their true masks."""

from camflow.data.catalog import Catalog
from camflow.plan import job
from camflow.plots.overlays import photo_figure
from camflow.plots.style import save

with job.start(snakemake) as task:
    catalog = Catalog(task.input.catalog)
    save(photo_figure(catalog, count=task.sections["report"]["images"], title=task.target), task.output.figure)
