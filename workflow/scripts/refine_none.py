"""Seed maps cut at a threshold: pseudo-masks without refinement."""

from camflow.plan import job
from camflow.refine.files import refine_files
from camflow.refine.threshold import ThresholdParams, threshold_labels


def main(snakemake):
    with job.start(snakemake) as task:
        refine_files(task, threshold_labels, ThresholdParams())


if __name__ == "__main__":
    main(snakemake)
