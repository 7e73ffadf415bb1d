"""Class activation maps of one shard of a split."""

from camflow.localize.cam import CamParams, extract_cams
from camflow.localize.files import localize_files
from camflow.params import from_config
from camflow.plan import job

with job.start(snakemake) as task:
    localize_files(task, extract_cams, from_config(CamParams, task.parameters))
