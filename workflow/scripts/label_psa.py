"""Scores of two CRFs for one shard of the training split, what AffinityNet is trained on."""

from camflow.plan import job
from camflow.refine.affinity import confident_from_config
from camflow.refine.psa_labels import STAGE, write_confident_scores
from camflow.store import Store
from camflow.task import task_images, task_writer

with job.start(snakemake) as task:
    catalog, maps = task_images(task), Store(task.input.maps, stage="maps")
    params = confident_from_config(task.parameters)
    with task_writer(task, task.output.shard, STAGE, catalog) as (writer, progress):
        write_confident_scores(maps, catalog, params, writer, progress=progress)
