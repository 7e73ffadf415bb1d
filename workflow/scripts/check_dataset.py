"""Read a split once in full, list everything wrong with it, write its catalog."""

from camflow.data.check import check_dataset, write_catalog
from camflow.data.readers.base import make_reader
from camflow.plan import job
from camflow.store import write_json

with job.start(snakemake) as task:
    reader = make_reader(task.reader, task.recipe)
    # The list of problems stands beside the log too: Snakemake deletes the outputs of a check that fails.
    report = task.log.with_suffix(".json")
    result = check_dataset(reader, task.split, jobs=task.threads, report=report)
    write_json(task.output.check, result.report())
    write_catalog(result, task.output.catalog, meta=task.meta(), jobs=task.threads)
