"""Train an AMN on the label maps of another recipe."""

from camflow.plan import job
from camflow.train.amn_files import train_amn_files
from camflow.train.launch import launch


def main(snakemake):
    with job.start(snakemake) as task:
        given = dict(task.input.items())
        arguments = {
            "catalog": task.input.catalog,
            "labels": task.input.labels,
            "warm_start": given.get("warm_start"),
            "parameters": task.parameters,
            **task.training(task.output.classifier),
        }
        launch(train_amn_files, arguments, processes=task.parameters["processes"])


if __name__ == "__main__":
    main(snakemake)
