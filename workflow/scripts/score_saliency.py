"""Scores of class-agnostic maps, as CASM has them."""

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.evaluate.masked_accuracy import classifier_network
from camflow.evaluate.saliency import SaliencyParams, score_saliency
from camflow.models.classifier import load_classifier
from camflow.params import from_config
from camflow.plan import job
from camflow.store import Store, write_json

with job.start(snakemake) as task:
    given, recogniser = dict(task.input.items()), None
    catalog = Catalog(given["catalog"])
    if "classifier" in given:
        model = load_classifier(given["classifier"], task.device)
        recogniser = classifier_network(model, catalog, name=task.recipe.split("/")[1], device=task.device)
    with tqdm(total=len(catalog.ids), desc=task.target, unit="image") as bar:
        score = score_saliency(
            Store(given["maps"], stage="maps"),
            catalog,
            Store(given["confidence"], stage="confidence") if "confidence" in given else None,
            from_config(SaliencyParams, task.sections["localization"]["saliency"]),
            recogniser=recogniser,
            progress=bar.update,
        )
    write_json(task.output.score, {**score, **task.envelope()})
