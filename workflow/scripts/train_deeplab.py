"""Train a segmentation network on pseudo-masks."""

from camflow.plan import job
from camflow.train.launch import launch
from camflow.train.segment_files import train_deeplab_files


def main(snakemake):
    with job.start(snakemake) as task:
        arguments = {
            "files": {name: str(path) for name, path in task.input.items()},
            "parameters": task.parameters,
            "options": task.training(task.output.network),
        }
        launch(train_deeplab_files, arguments, processes=task.parameters["processes"])


if __name__ == "__main__":
    main(snakemake)
