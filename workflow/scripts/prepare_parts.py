"""Generate the embedded dataset."""

from pathlib import Path

from camflow.data.parts import PartsParams, generate_parts
from camflow.plan import job
from camflow.plan.prepare import made_folder

with job.start(snakemake) as task, made_folder(Path(task.data_root), ("train", "val")) as folder:
    fields = PartsParams.__dataclass_fields__
    generate_parts(folder, PartsParams(**{name: task.parameters[name] for name in fields}))
