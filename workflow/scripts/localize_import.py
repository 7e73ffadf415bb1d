"""Seed maps made elsewhere, of one shard of a split."""

from camflow.localize.imported import ImportParams, import_maps
from camflow.params import from_config
from camflow.plan import job
from camflow.task import task_images, task_writer

with job.start(snakemake) as task:
    catalog = task_images(task)
    with task_writer(task, task.output.maps, "maps", catalog) as (writer, progress):
        import_maps(catalog, from_config(ImportParams, task.parameters), writer, progress=progress)
