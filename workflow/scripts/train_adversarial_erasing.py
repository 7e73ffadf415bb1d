"""Train the classifier of one round of adversarial erasing."""

from camflow.plan import job
from camflow.train.erasing import train_erasing
from camflow.train.launch import launch


def main(snakemake):
    with job.start(snakemake) as task:
        given = dict(task.input.items())
        arguments = {
            "catalog": task.input.catalog,
            "monitor": given.get("monitor"),
            "erased": given.get("erased_before"),
            "before": given.get("after"),
            "parameters": task.parameters,
            **task.training(task.output.classifier),
        }
        launch(train_erasing, arguments, processes=task.parameters["processes"])


if __name__ == "__main__":
    main(snakemake)
