"""Train a classifier and its masker by CASM."""

from camflow.plan import job
from camflow.train.casm_files import train_casm_files
from camflow.train.launch import launch


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
        launch(train_casm_files, arguments, processes=task.parameters["processes"])


if __name__ == "__main__":
    main(snakemake)
