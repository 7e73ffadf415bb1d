"""CIFAR-10 or CIFAR-100 as folders of classes."""

from pathlib import Path

from camflow.data.readers.cifar import CifarParams, copied_ids, copy_cifar
from camflow.plan import job
from camflow.plan.prepare import made_folder

with job.start(snakemake) as task:
    given = task.parameters
    splits = ("train", "val", "test") if given["val"] else ("train", "test")
    with made_folder(Path(task.data_root), splits, copied_ids) as private:
        private.rmdir()  # it is made whole, or not at all
        copy_cifar(private, CifarParams(given["dataset"], given["archives"], given["download"], given["val"]))
