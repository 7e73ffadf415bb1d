"""Instance masks: seed maps walked over IRN's boundaries, an object each."""

from camflow.plan import job
from camflow.refine.irn import BOUNDARIES, INSTANCES, instances_from_config, walk_instances
from camflow.store import Store
from camflow.task import task_images, task_writer


def main(snakemake):
    with job.start(snakemake) as task:
        catalog, (walk, params) = task_images(task), instances_from_config(task.parameters)
        maps, edges = Store(task.input.maps, stage="maps"), Store(task.input.irn_edges, stage=BOUNDARIES)
        with task_writer(task, task.output.instances, INSTANCES, catalog) as (writer, progress):
            walk_instances(maps, edges, catalog, walk, params, writer, jobs=task.threads, progress=progress)


if __name__ == "__main__":
    main(snakemake)
