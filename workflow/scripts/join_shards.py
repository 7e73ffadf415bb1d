"""Join the shards of a store by an index."""

from camflow.plan import job
from camflow.store import join_shards

with job.start(snakemake) as task:
    join_shards(task.output[0], list(task.input.shards), task.meta())
