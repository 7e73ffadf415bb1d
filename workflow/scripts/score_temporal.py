"""Temporal average precision of the proposals of a split."""

from camflow.params import from_config
from camflow.plan import job
from camflow.store import Store, write_json
from camflow.temporal.cam import STAGE
from camflow.temporal.data import STAGE as SEQUENCES
from camflow.temporal.evaluate import TemporalScoreParams, score_proposals

with job.start(snakemake) as task:
    score = score_proposals(
        Store(task.input.catalog, stage=SEQUENCES),
        Store(task.input.maps, stage=STAGE),
        from_config(TemporalScoreParams, task.sections["evaluation"]["temporal"]),
    )
    write_json(task.output.score, {**score, **task.envelope()})
