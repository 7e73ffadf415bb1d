"""Maps of a masker of one shard of a split."""

from camflow.localize.files import localize_files
from camflow.localize.masker import MaskerParams, extract_masker_maps
from camflow.params import from_config
from camflow.plan import job

with job.start(snakemake) as task:
    localize_files(task, extract_masker_maps, from_config(MaskerParams, task.parameters))
