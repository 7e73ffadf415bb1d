"""Photos masked by their maps: the object alone, without it, and without it filled in."""

from camflow.evaluate.masked_accuracy import STAGE, MaskedParams, write_masked_images
from camflow.params import from_config
from camflow.plan import job
from camflow.store import Store
from camflow.task import task_images, task_writer


def main(snakemake):
    with job.start(snakemake) as task:
        catalog, params = task_images(task), from_config(MaskedParams, task.sections["localization"]["masked"])
        with task_writer(task, task.output.masked, STAGE, catalog) as (writer, progress):
            maps = Store(task.input.maps, stage="maps")
            write_masked_images(maps, catalog, writer, params, jobs=task.threads, progress=progress)


if __name__ == "__main__":
    main(snakemake)
