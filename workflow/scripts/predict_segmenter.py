"""Logits of a segmentation network on one shard of a split."""

from camflow.plan import job
from camflow.segment.tasks import logits_task

with job.start(snakemake) as task:
    logits_task(task)
