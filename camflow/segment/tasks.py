"""What the scripts of segmentation networks share: a trained network of any method, its logits, and labels of them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from camflow.errors import StoreError
from camflow.models.files import read_content
from camflow.refine.crf import crf_params
from camflow.segment.files import STAGE, crf_logits, label_logits
from camflow.segment.predict import TestParams
from camflow.segment.psl import kept_channels
from camflow.segment.selection import selection
from camflow.store import Store
from camflow.task import Task, task_images, task_writer

# Formats of files of networks -> module and function that builds them.
NETWORKS = {
    "camflow-segmenter/1": ("camflow.models.segmenter", "build_segmenter"),
    "camflow-segmenter_cct/1": ("camflow.models.cct", "build_cct"),
}


def load_any_segmenter(path: str, device: str | torch.device = "cpu") -> nn.Module:
    """A segmentation network of any method in eval mode. Raises ``StoreError`` for a file that holds none."""
    content = read_content(path, "segmentation network")
    if content.format not in NETWORKS:
        raise StoreError(content.path, f"is no segmentation network of format {' or '.join(NETWORKS)}")
    module, function = NETWORKS[content.format]
    return content.rebuild(getattr(importlib.import_module(module), function), device)


def test_params(entry: Mapping[str, Any]) -> TestParams:
    """How photos are shown to the network, of a config entry."""
    return TestParams(
        scales=tuple(entry["test_scales"]),
        flip=entry["test_flip"],
        **{name: entry[name] for name in ("reduce", "pad", "multiple_of", "fill", "align_corners")},
    )


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
    keep, chosen = _class_filter(task, catalog.ids), selection(logits.meta)
    with task_writer(task, task.output.predictions, "masks", catalog, **chosen) as (writer, progress):
        label_logits(logits, catalog, writer, keep=keep, jobs=task.threads, progress=progress)


def crf_task(task: Task) -> None:
    """Write ``predictions``: label maps after a dense CRF on the probabilities of every photo of a task."""
    catalog, logits, item = task_images(task), Store(task.input.logits, stage=STAGE), task.parameters
    keep, chosen = _class_filter(task, catalog.ids), selection(logits.meta)
    with task_writer(task, task.output.predictions, "masks", catalog, **chosen) as (writer, progress):
        crf_logits(
            logits,
            catalog,
            crf_params(item["crf"]),
            writer,
            image=item["crf_image"],
            share=item["crf_skip"],
            keep=keep,
            jobs=task.threads,
            progress=progress,
        )
