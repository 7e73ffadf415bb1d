"""LPCAM maps of one shard of a split."""

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.localize.lpcam import class_vectors, extract_lpcams, params_from_config
from camflow.localize.prototypes import read_prototypes
from camflow.models.classifier import load_classifier
from camflow.plan import job
from camflow.store import Store, StoreWriter

with job.start(snakemake) as task:
    catalog = Catalog(task.input.catalog).shard(*task.shard)
    model = load_classifier(task.input.classifier, task.device)
    params = params_from_config(task.parameters)
    prototypes = Store(task.input.lpcam_prototypes, stage="prototypes")
    vectors = class_vectors((read_prototypes(prototypes, name) for name in catalog.class_names), params)
    options = {"class_names": catalog.class_names, "compression": task.runtime["compression"]}
    with (
        StoreWriter(task.output.maps, stage="maps", meta=task.meta(device=task.device), **options) as writer,
        tqdm(total=len(catalog.ids), desc=f"{task.target} {task.shard[0] + 1}/{task.shard[1]}", unit="image") as bar,
    ):
        extract_lpcams(
            model,
            catalog,
            params,
            writer,
            vectors,
            batch_size=task.runtime["batch_size"],
            device=task.device,
            workers=max(task.threads, task.runtime["workers"]),
            progress=bar.update,
        )
