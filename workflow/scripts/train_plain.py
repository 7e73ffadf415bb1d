"""Train a plain classifier from image labels."""

from camflow.plan import job
from camflow.train.launch import launch
from camflow.train.plain import train_plain


def main(snakemake):
    with job.start(snakemake) as task:
        arguments = {
            "catalog": task.input.catalog,
            "monitor": dict(task.input.items()).get("monitor"),
            "parameters": task.parameters,
            **task.training(task.output.classifier),
        }
        launch(train_plain, arguments, processes=task.parameters["processes"])


if __name__ == "__main__":
    main(snakemake)
