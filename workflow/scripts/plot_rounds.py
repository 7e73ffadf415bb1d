"""What each round of erasing found, and the score after each."""

from camflow.data.catalog import Catalog
from camflow.data.erased import ErasedStore
from camflow.models.backbones import IMAGENET_MEAN
from camflow.plan import job
from camflow.plots.erasing import erasing_figure
from camflow.plots.style import save
from camflow.store import read_json

with job.start(snakemake) as task:
    given = dict(task.input.items())
    numbers = range(1, 1 + sum(name.startswith("erased_") for name in given))
    scores = [read_json(given[f"score_{number}"]) for number in numbers if f"score_{number}" in given]
    figure = erasing_figure(
        Catalog(given["catalog"]),
        [ErasedStore(given[f"erased_{number}"]) for number in numbers],
        IMAGENET_MEAN,
        scores=[score["miou"] for score in scores],
        count=task.sections["report"]["images"],
        title=f"{task.recipe}, {task.split}",
    )
    save(figure, task.output.figure)
