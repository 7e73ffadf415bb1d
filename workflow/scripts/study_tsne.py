"""Features of two classes and the way climbing leads through them."""

from camflow.localize.advcam import AdvCamParams
from camflow.params import from_config
from camflow.plan import job
from camflow.studies.files import study_files
from camflow.studies.tsne import tsne_study

with job.start(snakemake) as task:
    params, settings = from_config(AdvCamParams, task.parameters), task.sections["studies"]["tsne"]
    study_files(task, tsne_study, params, **settings)
