"""True masks in place of pseudo-masks."""

from camflow.errors import DataError
from camflow.plan import job
from camflow.task import task_images, task_writer


def main(snakemake):
    with job.start(snakemake) as task:
        catalog = task_images(task)
        with task_writer(task, task.output.masks, "masks", catalog) as (writer, progress):
            for image_id in catalog.ids:
                mask = catalog.mask(image_id)
                if mask is None:
                    raise DataError(f"image '{image_id}' has no true mask, which the refiner gt hands on")
                writer.write(image_id, mask)
                progress(1)


if __name__ == "__main__":
    main(snakemake)
