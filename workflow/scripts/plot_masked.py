"""Photos, their masks, and what masking leaves of them."""

from camflow.data.catalog import Catalog
from camflow.evaluate.masked_accuracy import MaskedParams
from camflow.params import from_config
from camflow.plan import job
from camflow.plots.masked_images import masked_figure
from camflow.plots.style import save
from camflow.store import Store

with job.start(snakemake) as task:
    figure = masked_figure(
        Catalog(task.input.catalog),
        Store(task.input.maps, stage="maps"),
        from_config(MaskedParams, task.sections["localization"]["masked"]),
        count=task.sections["report"]["images"],
        title=f"{task.recipe}, {task.split}",
    )
    save(figure, task.output.figure)
