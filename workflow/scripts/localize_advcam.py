"""AdvCAM maps of one shard of a split."""

from camflow.localize.advcam import AdvCamParams, extract_advcams
from camflow.localize.files import localize_files
from camflow.params import from_config
from camflow.plan import job

with job.start(snakemake) as task:
    localize_files(task, extract_advcams, from_config(AdvCamParams, task.parameters), pairs=task.runtime["pairs"])
