"""Join the shards of a segmentation network's logits by an index, which keeps what they say of the network."""

from camflow.plan import job
from camflow.segment.selection import conditions
from camflow.store import Store, join_shards

with job.start(snakemake) as task:
    shards = list(task.input.shards)
    join_shards(task.output.joined, shards, task.meta(**conditions(Store(shards[0]).meta)))
