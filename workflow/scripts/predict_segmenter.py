"""Logits of a segmentation network on one shard of a split."""

from camflow.plan import job
from camflow.segment.files import STAGE, write_logits
from camflow.segment.selection import selection
from camflow.segment.tasks import load_any_segmenter, test_params
from camflow.task import task_images, task_writer

with job.start(snakemake) as task:
    network = next(path for name, path in task.input.items() if name.endswith("_network"))
    catalog, model = task_images(task), load_any_segmenter(network, task.device)
    meta = {"device": task.device, **selection(model.meta)}
    with task_writer(task, task.output.shard, STAGE, catalog, **meta) as (writer, progress):
        write_logits(
            model,
            catalog,
            test_params(task.parameters),
            writer,
            quantise=task.parameters["quantise"],
            device=task.device,
            progress=progress,
        )
