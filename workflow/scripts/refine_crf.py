"""Seed maps refined by a fully connected CRF."""

from camflow.plan import job
from camflow.refine.crf import crf_labels, params_from_config
from camflow.refine.files import refine_files


def main(snakemake):
    with job.start(snakemake) as task:
        given = dict(task.input.items())
        method, params = crf_labels, params_from_config(task.parameters)
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
