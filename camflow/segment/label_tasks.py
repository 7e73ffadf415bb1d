"""What the scripts share that read label maps off the logits of segmentation networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from camflow.refine.crf import crf_params
from camflow.segment.files import STAGE
from camflow.segment.labels import crf_logits, kept_channels, label_logits
from camflow.segment.selection import conditions
from camflow.store import Store
from camflow.task import Task, task_images, task_writer

# Published CRFs, by the preset of DeepLab's training that they belong to.
CRFS = {
    "deeplab_v2": "deeplab_v2",
    "deeplab_v2_balanced": "deeplab_v2",
    "deeplab_v2_coco": "deeplab_v2",
    "large_fov_step": "deeplab_v1",
    "large_fov_poly": "deeplab_v1",
}


def crf_name(entry: Mapping[str, Any]) -> str:
    """The CRF preset of a config entry; null takes that of its ``preset``."""
    return CRFS[entry["preset"]] if entry["crf"] is None else entry["crf"]


def _class_filter(task: Task, ids: list[str]) -> dict[str, np.ndarray] | None:
    """Labels that may win in each photo, bool (n_labels,), where the method asks a classifier; else None."""
    confidence = dict(task.input.items()).get("confidence")
    if confidence is None:
        return None
    store = Store(confidence, stage="confidence")
    return {image_id: kept_channels(store.read(image_id), task.parameters["filter"]) for image_id in ids}


def label_task(task: Task) -> None:
    """Write ``predictions``: the arg-max of the logits of every photo of a task."""
    catalog, logits = task_images(task), Store(task.input.logits, stage=STAGE)
    keep, facts = _class_filter(task, catalog.ids), conditions(logits.meta)
    with task_writer(task, task.output.predictions, "masks", catalog, **facts) as (writer, progress):
        label_logits(logits, catalog, writer, keep=keep, jobs=task.threads, progress=progress)


def crf_task(task: Task) -> None:
    """Write ``predictions``: label maps after a dense CRF on the probabilities of every photo of a task."""
    catalog, logits, item = task_images(task), Store(task.input.logits, stage=STAGE), task.parameters
    preset = crf_name(item)
    facts = {**conditions(logits.meta), "crf": preset, "crf_image": item["crf_image"]}
    keep = _class_filter(task, catalog.ids)
    with task_writer(task, task.output.predictions, "masks", catalog, **facts) as (writer, progress):
        crf_logits(
            logits,
            catalog,
            crf_params(preset),
            writer,
            image=item["crf_image"],
            share=item["crf_skip"],
            keep=keep,
            jobs=task.threads,
            progress=progress,
        )
