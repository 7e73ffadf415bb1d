"""Generate the embedded set of feature sequences."""

from pathlib import Path

from camflow.params import from_config
from camflow.plan import job
from camflow.plan.prepare import made_folder
from camflow.temporal.made import SPLITS, MadeParams
from camflow.temporal.made_files import made_ids, write_made_files

with job.start(snakemake) as task, made_folder(Path(task.data_root), SPLITS, made_ids) as folder:
    write_made_files(folder, from_config(MadeParams, task.parameters))
