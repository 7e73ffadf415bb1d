"""Join the shards of a split's maps by an index."""

from camflow.plan import job
from camflow.store import join_shards

with job.start(snakemake) as task:
    join_shards(task.output.maps, list(task.input.shards), task.meta())
