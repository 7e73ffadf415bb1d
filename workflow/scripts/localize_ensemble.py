"""The mean of several recipes' maps, of one shard of a split."""

from camflow.localize.ensemble import EnsembleParams, ensemble_maps
from camflow.params import from_config
from camflow.plan import job
from camflow.store import Store
from camflow.task import task_images, task_writer

with job.start(snakemake) as task:
    given = dict(task.input.items())
    members = [given[name] for name in sorted(given, key=lambda name: (len(name), name)) if name.startswith("member_")]
    catalog = task_images(task)
    with task_writer(task, task.output.maps, "maps", catalog) as (writer, progress):
        params = from_config(EnsembleParams, task.parameters)
        ensemble_maps([Store(path, stage="maps") for path in members], catalog, writer, params, progress=progress)
