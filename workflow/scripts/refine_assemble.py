"""Labels put together from class regions and a saliency."""

from pathlib import Path

from camflow.params import from_config
from camflow.plan import job
from camflow.refine.assemble import AssembleParams, MapSaliency, PngSaliency, assemble_maps
from camflow.refine.files import threshold_of
from camflow.store import Store
from camflow.task import task_images, task_writer


def main(snakemake):
    with job.start(snakemake) as task:
        given, source = dict(task.input.items()), task.parameters["saliency"]
        catalog, maps, threshold = task_images(task), Store(given["maps"], stage="maps"), threshold_of(task)
        if "saliency" in given:
            saliency = MapSaliency(Store(given["saliency"], stage="maps"))
        else:
            saliency = MapSaliency(maps) if source == "low_cam" else PngSaliency(Path(source).expanduser())
        params = from_config(AssembleParams, task.parameters)
        with task_writer(task, task.output.masks, "masks", catalog, threshold=threshold) as (writer, progress):
            assemble_maps(maps, catalog, saliency, params, threshold, writer, jobs=task.threads, progress=progress)


if __name__ == "__main__":
    main(snakemake)
