"""SEAM's maps of one shard of a split."""

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.localize.seam import SeamMapParams, extract_seam_maps
from camflow.models.classifier import load_classifier
from camflow.params import from_config
from camflow.plan import job
from camflow.store import StoreWriter

with job.start(snakemake) as task:
    catalog = Catalog(task.input.catalog).shard(*task.shard)
    model = load_classifier(task.input.classifier, task.device)
    params = from_config(SeamMapParams, task.parameters)
    options = {"class_names": catalog.class_names, "compression": task.runtime["compression"]}
    with (
        StoreWriter(task.output.maps, stage="maps", meta=task.meta(device=task.device), **options) as writer,
        tqdm(total=len(catalog.ids), desc=f"{task.target} {task.shard[0] + 1}/{task.shard[1]}", unit="image") as bar,
    ):
        extract_seam_maps(
            model,
            catalog,
            params,
            writer,
            batch_size=task.runtime["batch_size"],
            device=task.device,
            workers=max(task.threads, task.runtime["workers"]),
            progress=bar.update,
        )
