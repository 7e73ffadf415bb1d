"""Train an MCTformer from image labels."""

from camflow.plan import job
from camflow.train.launch import launch
from camflow.train.mctformer_files import train_mctformer_files


def main(snakemake):
    with job.start(snakemake) as task:
        arguments = {
            "catalog": task.input.catalog,
            "monitor": dict(task.input.items()).get("monitor"),
            "parameters": task.parameters,
            **task.training(task.output.classifier),
        }
        launch(train_mctformer_files, arguments, processes=task.parameters["processes"])


if __name__ == "__main__":
    main(snakemake)
