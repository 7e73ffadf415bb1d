"""Confident labels of seed maps: a class, background, or ignored where neither is sure."""

from camflow.plan import job
from camflow.refine.confident import confident_labels, confident_params
from camflow.refine.driver import refine_maps
from camflow.store import Store
from camflow.task import task_images, task_writer


def main(snakemake):
    with job.start(snakemake) as task:
        catalog, maps = task_images(task), Store(task.input.maps, stage="maps")
        params = confident_params(**{key: value for key, value in task.parameters.items() if key != "method"})
        with task_writer(task, task.output.masks, "masks", catalog) as (writer, progress):
            refine_maps(
                maps, catalog, confident_labels, params, params.conf_fg, writer, jobs=task.threads, progress=progress
            )


if __name__ == "__main__":
    main(snakemake)
