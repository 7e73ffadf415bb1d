"""Boundaries and displacements of one shard of a split."""

from camflow.models.irn import load_irn
from camflow.plan import job
from camflow.refine.irn import BOUNDARIES, write_boundaries
from camflow.task import task_images, task_writer

with job.start(snakemake) as task:
    catalog, model = task_images(task), load_irn(task.input.irn_network, task.device)
    with task_writer(task, task.output.shard, BOUNDARIES, catalog, device=task.device) as (writer, progress):
        write_boundaries(model, catalog, task.parameters["canvas"], writer, device=task.device, progress=progress)
