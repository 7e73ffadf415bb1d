"""Predictions of a split as the archive that the server of PASCAL VOC takes."""

import tempfile

from camflow.data.catalog import Catalog
from camflow.plan import job
from camflow.segment.export import export_voc, pack
from camflow.store import Store

with job.start(snakemake) as task, tempfile.TemporaryDirectory() as folder:
    predictions = Store(task.input.predictions_crf, stage="masks")
    export_voc(
        predictions,
        f"{folder}/voc",
        competition=task.parameters["competition"],
        split=Catalog(task.input.catalog).split,
    )
    pack(f"{folder}/voc", task.output.archive)
