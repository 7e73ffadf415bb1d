"""LPCAM's prototypes of one class."""

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.localize.prototypes import cluster_class, prototype_params_from_config, write_prototypes
from camflow.models.classifier import load_classifier
from camflow.plan import job
from camflow.store import Store, StoreWriter

with job.start(snakemake) as task:
    catalog = Catalog(task.input.catalog)
    index, _ = task.shard
    name = catalog.class_names[index]
    model = load_classifier(task.input.classifier, task.device)
    params = prototype_params_from_config(task.parameters)
    options = {"class_names": catalog.class_names, "compression": task.runtime["compression"]}
    with (
        StoreWriter(
            task.output.prototypes, stage="prototypes", meta=task.meta(device=task.device), **options
        ) as writer,
        tqdm(desc=f"{task.target} {name}", unit="image") as bar,
    ):
        found = cluster_class(
            model,
            catalog,
            Store(task.input.mask, stage="maps"),
            index,
            params,
            device=task.device,
            workers=max(task.threads, task.runtime["workers"]),
            progress=bar.update,
        )
        write_prototypes(writer, name, found)
