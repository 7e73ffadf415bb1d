"""Seed scores over the parameters of LPCAM."""

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.evaluate.scores import ScoreParams
from camflow.localize.lpcam import params_from_config
from camflow.localize.prototypes import prototype_params_from_config
from camflow.models.classifier import load_classifier
from camflow.plan import job
from camflow.store import Store, write_text
from camflow.studies.sensitivity import sensitivity_study

with job.start(snakemake) as task, tqdm(desc=task.target, unit="image") as bar:
    settings = task.sections["studies"]["sensitivity"]
    table = sensitivity_study(
        load_classifier(task.input.classifier, task.device),
        Catalog(task.input.catalog),
        Catalog(task.input.step_catalog),
        Store(task.input.step_mask, stage="maps"),
        prototype_params_from_config(task.parameters),
        params_from_config(task.parameters),
        images=settings["images"],
        values=settings,
        thresholds=ScoreParams(thresholds=task.sections["evaluation"]["thresholds"]).thresholds,
        rule=task.sections["evaluation"]["miou"],
        device=task.device,
        workers=task.threads,
        progress=bar.update,
    )
    write_text(task.output.table, table.to_csv(index=False))
