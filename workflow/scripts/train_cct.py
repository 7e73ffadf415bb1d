"""Train a segmentation network by cross-consistency from a few true masks and pseudo-masks."""

from camflow.plan import job
from camflow.train.cct_files import train_cct_files
from camflow.train.launch import launch


def main(snakemake):
    with job.start(snakemake) as task:
        arguments = {
            "files": {name: str(path) for name, path in task.input.items()},
            "parameters": task.parameters,
            "options": task.training(task.output.network),
        }
        launch(train_cct_files, arguments, processes=task.parameters["processes"])


if __name__ == "__main__":
    main(snakemake)
