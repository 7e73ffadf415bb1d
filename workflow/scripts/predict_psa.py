"""Affinities of one shard of a split."""

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.models.psa import load_affinity_net
from camflow.plan import job
from camflow.refine.affinity import STAGE, write_affinities
from camflow.store import StoreWriter

with job.start(snakemake) as task:
    catalog = Catalog(task.input.catalog).shard(*task.shard)
    model = load_affinity_net(task.input.psa_network, task.device)
    options = {"class_names": catalog.class_names, "compression": task.runtime["compression"]}
    with (
        StoreWriter(task.output.shard, stage=STAGE, meta=task.meta(device=task.device), **options) as writer,
        tqdm(total=len(catalog.ids), desc=f"{task.target} {task.shard[0] + 1}/{task.shard[1]}", unit="image") as bar,
    ):
        write_affinities(model, catalog, writer, device=task.device, progress=bar.update)
