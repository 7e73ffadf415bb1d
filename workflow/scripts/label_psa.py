"""Scores of two CRFs for one shard of the training split, what AffinityNet is trained on."""

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.plan import job
from camflow.refine.affinity import confident_from_config
from camflow.refine.psa_labels import STAGE, write_confident_scores
from camflow.store import Store, StoreWriter

with job.start(snakemake) as task:
    catalog = Catalog(task.input.catalog).shard(*task.shard)
    params = confident_from_config(task.parameters)
    options = {"class_names": catalog.class_names, "compression": task.runtime["compression"]}
    with (
        StoreWriter(task.output.shard, stage=STAGE, meta=task.meta(), **options) as writer,
        tqdm(total=len(catalog.ids), desc=f"{task.target} {task.shard[0] + 1}/{task.shard[1]}", unit="image") as bar,
    ):
        write_confident_scores(Store(task.input.maps, stage="maps"), catalog, params, writer, progress=bar.update)
