"""MCTformer's maps of one shard of a split."""

from camflow.localize.files import localize_files
from camflow.localize.mctformer import MctFormerMapParams, extract_mctformer_maps
from camflow.params import from_config
from camflow.plan import job

with job.start(snakemake) as task:
    localize_files(task, extract_mctformer_maps, from_config(MctFormerMapParams, task.parameters))
