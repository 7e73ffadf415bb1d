"""How much climbing amplifies discriminative and other regions."""

from camflow.localize.advcam import AdvCamParams
from camflow.params import from_config
from camflow.plan import job
from camflow.studies.amplification import amplification
from camflow.studies.files import study_files

with job.start(snakemake) as task:
    params, settings = from_config(AdvCamParams, task.parameters), task.sections["studies"]["amplification"]
    study_files(task, amplification, params, **settings)
