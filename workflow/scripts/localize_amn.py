"""AMN's maps of one shard of a split."""

from camflow.localize.amn import AmnMapParams, extract_amn_maps
from camflow.localize.files import localize_files
from camflow.params import from_config
from camflow.plan import job
from camflow.store import Store

with job.start(snakemake) as task:
    labels = Store(task.input.labels, stage="masks")
    localize_files(task, extract_amn_maps, from_config(AmnMapParams, task.parameters), labels)
