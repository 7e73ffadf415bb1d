"""Boundaries and displacements of one shard of a split."""

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.models.irn import load_irn
from camflow.plan import job
from camflow.refine.irn import BOUNDARIES, write_boundaries
from camflow.store import StoreWriter

with job.start(snakemake) as task:
    catalog = Catalog(task.input.catalog).shard(*task.shard)
    model = load_irn(task.input.irn_network, task.device)
    options = {"class_names": catalog.class_names, "compression": task.runtime["compression"]}
    with (
        StoreWriter(task.output.shard, stage=BOUNDARIES, meta=task.meta(device=task.device), **options) as writer,
        tqdm(total=len(catalog.ids), desc=f"{task.target} {task.shard[0] + 1}/{task.shard[1]}", unit="image") as bar,
    ):
        write_boundaries(model, catalog, task.parameters["canvas"], writer, device=task.device, progress=bar.update)
