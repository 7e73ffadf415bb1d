"""What one network recognises of masked photos."""

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.evaluate.masked_accuracy import STAGE, classifier_network, imagenet_network, score_masked
from camflow.models.classifier import load_classifier
from camflow.plan import job
from camflow.store import Store, write_json

with job.start(snakemake) as task:
    given, settings = dict(task.input.items()), task.sections["localization"]["masked"]
    catalog = Catalog(given["catalog"])
    if "classifier" in given:
        model = load_classifier(given["classifier"], task.device)
        network = classifier_network(model, catalog, name=task.recipe.split("/")[1], device=task.device)
    else:
        name = task.target.rsplit("/", 1)[1].split(".")[0].removeprefix("masked_")
        weights = settings["weights"].get(name, "IMAGENET1K_V1")
        network = imagenet_network(name, weights, catalog.class_names, classes=settings["classes"], device=task.device)
    with tqdm(total=len(catalog.ids), desc=task.target, unit="image") as bar:
        store = Store(given["masked_images"], stage=STAGE)
        score = score_masked(store, catalog, network, batch_size=task.runtime["batch_size"], progress=bar.update)
    write_json(task.output.score, {**score, **task.envelope()})
