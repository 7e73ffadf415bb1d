"""The prototypes of all classes in one file."""

from camflow.localize.prototypes import read_prototypes, write_prototypes
from camflow.plan import job
from camflow.store import Store, StoreWriter

with job.start(snakemake) as task:
    stores = [Store(path, stage="prototypes") for path in task.input.shards]
    options = {"class_names": stores[0].class_names, "compression": task.runtime["compression"]}
    with StoreWriter(task.output.prototypes, stage="prototypes", meta=task.meta(), **options) as writer:
        for name, store in zip(stores[0].class_names, stores, strict=True):
            write_prototypes(writer, name, read_prototypes(store, name))
