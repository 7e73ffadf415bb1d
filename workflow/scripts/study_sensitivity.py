"""Seed scores over the parameters of LPCAM."""

from camflow.data.catalog import Catalog
from camflow.localize.lpcam import params_from_config
from camflow.localize.prototypes import prototype_params_from_config
from camflow.plan import job
from camflow.store import Store
from camflow.studies.files import study_files
from camflow.studies.scored import scored_from_config
from camflow.studies.sensitivity import sensitivity_study

with job.start(snakemake) as task:
    clustered = Catalog(task.input.step_catalog), Store(task.input.step_mask, stage="maps")
    params = prototype_params_from_config(task.parameters), params_from_config(task.parameters)
    study_files(task, sensitivity_study, *clustered, *params, scored_from_config(task.sections, "sensitivity"))
