"""Seed maps and their background walked along PSA's affinities."""

from camflow.plan import job
from camflow.refine.affinity import STAGE, propagate_from_config, walk_affinities
from camflow.store import Store
from camflow.task import task_images, task_writer


def main(snakemake):
    with job.start(snakemake) as task:
        catalog, params = task_images(task), propagate_from_config(task.parameters)
        maps, affinities = Store(task.input.maps, stage="maps"), Store(task.input.psa_affinities, stage=STAGE)
        with task_writer(task, task.output.masks, "masks", catalog) as (writer, progress):
            walk_affinities(maps, affinities, catalog, params, writer, jobs=task.threads, progress=progress)


if __name__ == "__main__":
    main(snakemake)
