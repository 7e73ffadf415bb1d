"""Read the videos of a split once in full, refuse what is wrong with them, write their features at even steps."""

from camflow.data.readers.base import make_reader
from camflow.plan import job
from camflow.store import write_json
from camflow.temporal.check import write_split

with job.start(snakemake) as task:
    reader = make_reader(task.reader, task.recipe)
    options = {"meta": task.meta(), "compression": task.runtime["compression"]}
    write_json(task.output.check, write_split(reader, task.split, task.output.catalog, **options))
