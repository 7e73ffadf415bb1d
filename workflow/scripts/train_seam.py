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
            "out": task.output.classifier,
            "metrics_csv": task.output.training,
            "scratch": str(task.scratch),
            # A run killed on one kind of device does not go on on another: the arithmetic differs.
            "key": f"{task.key} {task.device.split(':')[0]}",
            "device": task.device,
            "workers": task.runtime["workers"],
            "meta": task.meta(device=task.device),
        }
        launch(train_seam_files, arguments, processes=task.parameters["processes"])


if __name__ == "__main__":
    main(snakemake)
