"""Seed maps cut at a threshold: pseudo-masks without refinement."""

from camflow.plan import job
from camflow.refine.files import refine_files
from camflow.refine.threshold import ThresholdParams, threshold_labels


def main(snakemake):
    with job.start(snakemake) as task:
        given = dict(task.input.items())
        method, params = threshold_labels, ThresholdParams()
        refine_files(
            method,
            params,
            task.parameters["threshold"],
            maps=given["maps"],
            catalog=given["catalog"],
            score=given.get("threshold"),
            out=task.output.masks,
            meta=task.meta(),
            jobs=task.threads,
            compression=task.runtime["compression"],
            title=task.target,
        )


if __name__ == "__main__":
    main(snakemake)
