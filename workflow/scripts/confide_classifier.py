"""How sure a classifier is of each class of every photo of a split."""

import torch

from camflow.evaluate.classification import evaluation_size, predict_scores
from camflow.models.classifier import load_classifier
from camflow.plan import job
from camflow.task import task_images, task_writer

with job.start(snakemake) as task:
    catalog, size = task_images(task), evaluation_size(task.parameters)
    with task_writer(task, task.output.confidence, "confidence", catalog, long_side=size) as (writer, progress):
        logits = predict_scores(
            load_classifier(task.input.classifier, task.device),
            catalog,
            batch_size=task.runtime["batch_size"],
            device=task.device,
            long_side=size,
            progress=progress,
        )
        for image_id, values in zip(catalog.ids, torch.sigmoid(torch.as_tensor(logits)).numpy(), strict=True):
            writer.write(image_id, values)
