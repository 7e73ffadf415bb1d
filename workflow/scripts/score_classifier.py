"""Score a classifier's image-level predictions."""

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.evaluate.classification import evaluation_size, predict_scores, score_classification
from camflow.models.classifier import load_classifier
from camflow.plan import job
from camflow.store import write_json

with job.start(snakemake) as task:
    catalog = Catalog(task.input.catalog)
    model = load_classifier(task.input.classifier, task.device)
    size = evaluation_size(task.parameters)
    with tqdm(total=len(catalog.ids), desc=task.target, unit="image") as bar:
        logits = predict_scores(
            model,
            catalog,
            batch_size=task.runtime["batch_size"],
            device=task.device,
            long_side=size,
            progress=bar.update,
        )
    conditions = {"dataset": catalog.dataset, "split": catalog.split, "n_images": len(catalog.ids), "long_side": size}
    score = score_classification(logits, catalog.labels, catalog.class_names, conditions=conditions)
    write_json(task.output.score, {**score, **task.envelope()})
