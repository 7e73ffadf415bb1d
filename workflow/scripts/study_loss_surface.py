"""The classification loss around photos."""

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.localize.advcam import AdvCamParams
from camflow.models.classifier import load_classifier
from camflow.params import from_config
from camflow.plan import job
from camflow.store import write_text
from camflow.studies.loss_surface import loss_surface

with job.start(snakemake) as task, tqdm(desc=task.target, unit="image") as bar:
    settings = task.sections["studies"]["loss_surface"]
    table = loss_surface(
        load_classifier(task.input.classifier, task.device),
        Catalog(task.input.catalog),
        from_config(AdvCamParams, task.parameters),
        **settings,
        device=task.device,
        workers=task.threads,
        progress=bar.update,
    )
    write_text(task.output.table, table.to_csv(index=False))
