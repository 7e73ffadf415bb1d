"""Score instance masks against those of the dataset."""

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.evaluate.objects import score_instances
from camflow.plan import job
from camflow.store import Store, write_json

with job.start(snakemake) as task:
    catalog = Catalog(task.input.catalog)
    with tqdm(total=len(catalog.ids), desc=task.target, unit="image") as bar:
        score = score_instances(Store(task.input.instances, stage="instances"), catalog, progress=bar.update)
    write_json(task.output.score, {**score, **task.envelope()})
