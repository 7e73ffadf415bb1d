"""Seed scores over the steps of the climb and over its parameters."""

from camflow.localize.advcam import AdvCamParams
from camflow.params import from_config
from camflow.plan import job
from camflow.studies.climb import climb_study
from camflow.studies.files import study_files
from camflow.studies.scored import scored_from_config

with job.start(snakemake) as task:
    params, steps = from_config(AdvCamParams, task.parameters), task.sections["studies"]["climb"]["steps"]
    study_files(task, climb_study, params, scored_from_config(task.sections, "climb"), steps=steps)
