"""Train a SEAM classifier from image labels."""

from camflow.plan import job
from camflow.train.launch import launch
from camflow.train.seam_files import train_seam_files


def main(snakemake):
    with job.start(snakemake) as task:
        given = dict(task.input.items())
        arguments = {
            "catalog": task.input.catalog,
            "monitor": given.get("monitor"),
            "warm_start": given.get("warm_start"),
            "parameters": task.parameters,
            **task.training(task.output.classifier),
        }
        launch(train_seam_files, arguments, processes=task.parameters["processes"])


if __name__ == "__main__":
    main(snakemake)
