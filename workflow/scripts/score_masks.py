"""Score label maps, pseudo-masks or predictions, against the true masks."""

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.evaluate.scores import ScoreParams, score_masks
from camflow.params import from_config
from camflow.plan import job
from camflow.segment.selection import conditions
from camflow.store import Store, write_json

with job.start(snakemake) as task:
    given = dict(task.input.items())
    found = next(given[name] for name in ("masks", "predictions", "predictions_crf") if name in given)
    catalog, masks = Catalog(given["catalog"]), Store(found, stage="masks")
    params = from_config(ScoreParams, task.sections["evaluation"])
    with tqdm(total=len(catalog.ids), desc=task.target, unit="image") as bar:
        score = score_masks(masks, catalog, params, progress=bar.update)
    score["threshold"] = masks.meta.get("threshold")
    # What a network started from, how it was chosen and tested moves its score, so each score says it.
    score["conditions"] |= conditions(masks.meta)
    write_json(task.output.score, {**score, **task.envelope()})
