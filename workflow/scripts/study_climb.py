"""Seed scores over the steps of the climb and over its parameters."""

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.evaluate.scores import ScoreParams
from camflow.localize.advcam import AdvCamParams
from camflow.models.classifier import load_classifier
from camflow.params import from_config
from camflow.plan import job
from camflow.store import write_text
from camflow.studies.climb import climb_study

with job.start(snakemake) as task, tqdm(desc=task.target, unit="image") as bar:
    settings = task.sections["studies"]["climb"]
    table = climb_study(
        load_classifier(task.input.classifier, task.device),
        Catalog(task.input.catalog),
        from_config(AdvCamParams, task.parameters),
        images=settings["images"],
        steps=settings["steps"],
        values=settings,
        thresholds=ScoreParams(thresholds=task.sections["evaluation"]["thresholds"]).thresholds,
        rule=task.sections["evaluation"]["miou"],
        device=task.device,
        workers=task.threads,
        progress=bar.update,
    )
    write_text(task.output.table, table.to_csv(index=False))
