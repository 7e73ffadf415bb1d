"""Affinities of one shard of a split."""

from camflow.models.psa import load_affinity_net
from camflow.plan import job
from camflow.refine.affinity import STAGE, write_affinities
from camflow.task import task_images, task_writer

with job.start(snakemake) as task:
    catalog, model = task_images(task), load_affinity_net(task.input.psa_network, task.device)
    with task_writer(task, task.output.shard, STAGE, catalog, device=task.device) as (writer, progress):
        write_affinities(model, catalog, writer, device=task.device, progress=progress)
