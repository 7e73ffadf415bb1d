"""Download VOC2012 and SBD and put them together."""

from pathlib import Path

from camflow.data.download import Archive, download_voc2012
from camflow.plan import job
from camflow.plan.prepare import made_folder

with job.start(snakemake) as task:
    wanted = task.parameters["download"]
    archives = {name: Archive(**wanted[name]) for name in ("voc", "sbd") if name in wanted}
    folder = Path(task.data_root)
    with made_folder(folder, ("train", "train_aug", "val")) as private:
        private.rmdir()
        # Outside the private folder, so that what was downloaded before a kill is not downloaded again.
        kept = folder.with_name(f".{folder.name}.archives")
        download_voc2012(private, n_train_aug=wanted["train_aug"], archives=kept, **archives)
