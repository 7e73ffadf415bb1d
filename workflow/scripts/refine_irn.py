"""Seed maps walked over the boundaries that IRN found."""

from camflow.plan import job
from camflow.refine.irn import BOUNDARIES, walk_from_config, walk_maps
from camflow.store import Store
from camflow.task import task_images, task_writer


def main(snakemake):
    with job.start(snakemake) as task:
        catalog, walk = task_images(task), walk_from_config(task.parameters)
        maps, edges = Store(task.input.maps, stage="maps"), Store(task.input.irn_edges, stage=BOUNDARIES)
        with task_writer(task, task.output.masks, "masks", catalog, threshold=walk.threshold) as (writer, progress):
            walk_maps(maps, edges, catalog, walk, writer, jobs=task.threads, progress=progress)


if __name__ == "__main__":
    main(snakemake)
