"""Score pseudo-masks against the true masks."""

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.evaluate.scores import ScoreParams, score_masks
from camflow.params import from_config
from camflow.plan import job
from camflow.store import Store, write_json

with job.start(snakemake) as task:
    catalog = Catalog(task.input.catalog)
    masks = Store(task.input.masks, stage="masks")
    params = from_config(ScoreParams, task.sections["evaluation"])
    with tqdm(total=len(catalog.ids), desc=task.target, unit="image") as bar:
        score = score_masks(masks, catalog, params, progress=bar.update)
    score["threshold"] = masks.meta.get("threshold")
    write_json(task.output.score, {**score, **task.envelope()})
