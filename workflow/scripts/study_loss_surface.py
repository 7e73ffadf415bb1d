"""The classification loss around photos."""

from camflow.localize.advcam import AdvCamParams
from camflow.params import from_config
from camflow.plan import job
from camflow.studies.files import study_files
from camflow.studies.loss_surface import loss_surface

with job.start(snakemake) as task:
    params, settings = from_config(AdvCamParams, task.parameters), task.sections["studies"]["loss_surface"]
    study_files(task, loss_surface, params, **settings)
