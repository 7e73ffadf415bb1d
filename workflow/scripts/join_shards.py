"""Join the shards of a store by an index."""

from camflow.plan import job
from camflow.segment.selection import selection
from camflow.store import Store, join_shards

with job.start(snakemake) as task:
    shards = list(task.input.shards)
    join_shards(task.output[0], shards, task.meta(**selection(Store(shards[0]).meta)))
