"""Features of two classes and the way climbing leads through them."""

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.localize.advcam import AdvCamParams
from camflow.models.classifier import load_classifier
from camflow.params import from_config
from camflow.plan import job
from camflow.store import write_text
from camflow.studies.tsne import tsne_study

with job.start(snakemake) as task, tqdm(desc=task.target, unit="image") as bar:
    settings = task.sections["studies"]["tsne"]
    table = tsne_study(
        load_classifier(task.input.classifier, task.device),
        Catalog(task.input.catalog),
        from_config(AdvCamParams, task.parameters),
        **settings,
        device=task.device,
        workers=task.threads,
        progress=bar.update,
    )
    write_text(task.output.table, table.to_csv(index=False))
