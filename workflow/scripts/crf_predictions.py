"""Label maps of a segmentation network after a fully connected CRF."""

from camflow.plan import job
from camflow.segment.label_tasks import crf_task


def main(snakemake):
    with job.start(snakemake) as task:
        crf_task(task)


if __name__ == "__main__":
    main(snakemake)
