"""Curves of the best IoU of boxes at every threshold, of every image with boxes of a split."""

from camflow.evaluate.localization import CurveParams, box_curves_of
from camflow.params import from_config
from camflow.plan import job
from camflow.store import Store
from camflow.task import task_images, task_writer

with job.start(snakemake) as task:
    catalog, params = task_images(task), from_config(CurveParams, task.sections["localization"]["curves"])
    with task_writer(task, task.output.curves, "box_curves", catalog) as (writer, progress):
        box_curves_of(catalog, Store(task.input.maps, stage="maps"), writer, params, progress)
