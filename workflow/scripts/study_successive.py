"""Seed maps after a few numbers of steps."""

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.localize.advcam import AdvCamParams
from camflow.models.classifier import load_classifier
from camflow.params import from_config
from camflow.plan import job
from camflow.store import StoreWriter, write_text
from camflow.studies.successive import successive_maps

with job.start(snakemake) as task:
    catalog = Catalog(task.input.catalog)
    options = {"class_names": catalog.class_names, "compression": task.runtime["compression"]}
    with (
        StoreWriter(task.output.maps, stage="maps", meta=task.meta(device=task.device), **options) as writer,
        tqdm(desc=task.target, unit="image") as bar,
    ):
        table = successive_maps(
            load_classifier(task.input.classifier, task.device),
            catalog,
            from_config(AdvCamParams, task.parameters),
            writer,
            **task.sections["studies"]["successive"],
            device=task.device,
            workers=task.threads,
            progress=bar.update,
        )
    write_text(task.output.table, table.to_csv(index=False))
