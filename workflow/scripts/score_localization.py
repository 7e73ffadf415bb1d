"""Localisation scores, read from the curves of a split."""

from camflow.data.catalog import Catalog
from camflow.evaluate.localization import LocalizationParams, score_curves
from camflow.params import from_config
from camflow.plan import job
from camflow.store import Store, write_json

with job.start(snakemake) as task:
    given = dict(task.input.items())
    score = score_curves(
        Store(given["box_curves"], stage="box_curves"),
        Store(given["confidence"], stage="confidence") if "confidence" in given else None,
        Catalog(given["catalog"]),
        from_config(LocalizationParams, task.sections["localization"]["reductions"]),
    )
    write_json(task.output.score, {**score, **task.envelope()})
