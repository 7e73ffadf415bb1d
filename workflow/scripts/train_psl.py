"""Train a segmentation network by online prohibitive learning, or on what such a one predicts (PSL++)."""

from camflow.plan import job
from camflow.train.launch import launch
from camflow.train.psl_files import train_psl_files


def main(snakemake):
    with job.start(snakemake) as task:
        arguments = {
            "files": {name: str(path) for name, path in task.input.items()},
            "parameters": task.parameters,
            "options": task.training(task.output.network),
        }
        launch(train_psl_files, arguments, processes=task.parameters["processes"])


if __name__ == "__main__":
    main(snakemake)
