"""Seed maps refined by a fully connected CRF."""

from camflow.plan import job
from camflow.refine.crf import crf_labels, params_from_config
from camflow.refine.files import refine_files


def main(snakemake):
    with job.start(snakemake) as task:
        refine_files(task, crf_labels, params_from_config(task.parameters))


if __name__ == "__main__":
    main(snakemake)
