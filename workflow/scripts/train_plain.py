"""Train a plain classifier from image labels."""

from camflow.plan import job
from camflow.train.files import train_plain
from camflow.train.launch import launch


def main(snakemake):
    with job.start(snakemake) as task:
        arguments = {
            "catalog": task.input.catalog,
            "monitor": dict(task.input.items()).get("monitor"),
            "parameters": task.parameters,
            "out": task.output.classifier,
            "metrics_csv": task.output.training,
            "scratch": str(task.scratch),
            "key": task.key,
            "device": task.device,
            "workers": task.runtime["workers"],
            "meta": task.meta(),
        }
        launch(train_plain, arguments, processes=task.runtime["processes"])


if __name__ == "__main__":
    main(snakemake)
