"""What is erased after a round of adversarial erasing, of one shard of a split."""

from camflow.data.erased import STAGE, ErasedStore
from camflow.localize.erasing import ErasingParams, write_erased
from camflow.models.classifier import load_classifier
from camflow.plan import job
from camflow.task import task_images, task_writer

with job.start(snakemake) as task:
    catalog, item = task_images(task), task.parameters
    before = dict(task.input.items()).get("erased_before")
    with task_writer(task, task.output.erased, STAGE, catalog, device=task.device) as (writer, progress):
        write_erased(
            load_classifier(task.input.classifier, task.device),
            catalog,
            ErasedStore(before) if before else None,
            ErasingParams(scales=tuple(item["erase_scales"]), rule=item["rule"], share=item["share"]),
            writer,
            batch_size=task.runtime["batch_size"],
            device=task.device,
            workers=max(task.threads, task.runtime["workers"]),
            progress=progress,
        )
