"""Pixel average precision of the seed maps of a split."""

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.evaluate.pxap import PxapParams, score_pxap
from camflow.params import from_config
from camflow.plan import job
from camflow.store import Store, write_json

with job.start(snakemake) as task:
    catalog = Catalog(task.input.catalog)
    with tqdm(total=len(catalog.ids), desc=task.target, unit="image") as bar:
        params = from_config(PxapParams, task.sections["localization"]["pxap"])
        score = score_pxap(Store(task.input.maps, stage="maps"), catalog, params, bar.update)
    write_json(task.output.score, {**score, **task.envelope()})
