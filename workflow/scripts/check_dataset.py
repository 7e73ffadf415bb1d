"""Read a split once in full, list everything wrong with it, write its catalog."""

from camflow.data.check import check_dataset, write_catalog
from camflow.data.readers.base import make_reader
from camflow.plan import job

with job.start(snakemake) as task:
    reader = make_reader({**task.parameters, "root": task.data_root}, task.recipe)
    result = check_dataset(reader, task.split, jobs=task.threads, report=task.output.check)
    write_catalog(result, task.output.catalog, meta=task.meta(), jobs=task.threads)
