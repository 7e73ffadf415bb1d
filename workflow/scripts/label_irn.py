"""Confident labels of one shard of the training split, what IRN is trained on."""

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.plan import job
from camflow.refine.confident import confident_labels, confident_params
from camflow.refine.driver import refine_maps
from camflow.store import Store, StoreWriter

with job.start(snakemake) as task:
    catalog = Catalog(task.input.catalog).shard(*task.shard)
    params = confident_params(**{key: value for key, value in task.parameters.items() if key != "split"})
    options = {"class_names": catalog.class_names, "compression": task.runtime["compression"]}
    with (
        StoreWriter(task.output.shard, stage="confident labels", meta=task.meta(), **options) as writer,
        tqdm(total=len(catalog.ids), desc=f"{task.target} {task.shard[0] + 1}/{task.shard[1]}", unit="image") as bar,
    ):
        maps = Store(task.input.maps, stage="maps")
        refine_maps(maps, catalog, confident_labels, params, params.conf_fg, writer, progress=bar.update)
