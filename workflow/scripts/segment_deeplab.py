"""Label maps of DeepLab: the arg-max of its logits."""

from camflow.plan import job
from camflow.segment.label_tasks import label_task


def main(snakemake):
    with job.start(snakemake) as task:
        label_task(task)


if __name__ == "__main__":
    main(snakemake)
