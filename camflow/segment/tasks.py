"""What the scripts of segmentation networks share: a trained network of any method, and how it is shown photos."""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from camflow.errors import StoreError
from camflow.models.files import read_content
from camflow.segment.files import STAGE, write_logits
from camflow.segment.predict import TestParams
from camflow.segment.selection import selection
from camflow.task import Task, task_images, task_writer

# Formats of files of networks -> module and function that builds them.
NETWORKS = {
    "camflow-segmenter/1": ("camflow.models.segmenter", "build_segmenter"),
    "camflow-segmenter_cct/1": ("camflow.models.cct", "build_cct"),
}
_DEEPLAB_V2 = {
    "test_scales": (1.0, 0.75, 0.5),
    "test_flip": False,
    "reduce": "max_logit",
    "pad": None,
    "align_corners": False,
}
_LARGE_FOV = {**_DEEPLAB_V2, "test_scales": (1.0,), "pad": 513, "align_corners": True}
# Published test protocols, by the preset of DeepLab's training that they belong to.
PROTOCOLS: dict[str, dict[str, Any]] = {
    "deeplab_v2": _DEEPLAB_V2,
    "deeplab_v2_balanced": _DEEPLAB_V2,
    "deeplab_v2_coco": _DEEPLAB_V2,
    "large_fov_step": _LARGE_FOV,
    "large_fov_poly": _LARGE_FOV,
}


def load_any_segmenter(path: str, device: str | torch.device = "cpu") -> nn.Module:
    """A segmentation network of any method in eval mode. Raises ``StoreError`` for a file that holds none."""
    content = read_content(path, "segmentation network")
    if content.format not in NETWORKS:
        raise StoreError(content.path, f"is no segmentation network of format {' or '.join(NETWORKS)}")
    module, function = NETWORKS[content.format]
    return content.rebuild(getattr(importlib.import_module(module), function), device)


def test_params(entry: Mapping[str, Any]) -> TestParams:
    """How photos are shown to the network, of a config entry; null takes the value of its ``preset``, if it has one."""
    published = PROTOCOLS[entry["preset"]] if "preset" in entry else {}
    given = {**entry, **{key: value for key, value in published.items() if entry[key] is None}}
    return TestParams(
        scales=tuple(given["test_scales"]),
        flip=given["test_flip"],
        pad=given["pad"] or None,  # 0 switches a preset's padding off
        **{name: given[name] for name in ("reduce", "multiple_of", "fill", "align_corners")},
    )


def network_conditions(model: nn.Module, params: TestParams) -> dict[str, Any]:
    """What the logits of a network say of it and of the views, see ``camflow.segment.selection``.

    Args:
        model: of ``load_any_segmenter``.
        params: the views.
    """
    views = {{"scales": "test_scales", "flip": "test_flip"}.get(k, k): v for k, v in dataclasses.asdict(params).items()}
    network = {"architecture": model.spec.get("architecture", "cct"), "backbone": model.spec["backbone"]}
    return {**selection(model.meta), "init": _init(model.meta), **network, **views}


def _init(meta: Mapping[str, Any]) -> str:
    """The initial weights as the config names them; a score holds no path, so ``file`` for any."""
    weights = str((meta.get("parameters") or meta["params"])["weights"])
    return "file" if os.sep in weights or Path(weights).suffix or Path(weights).is_file() else weights


def logits_task(task: Task) -> None:
    """Write ``shard``: the logits of every photo of a task."""
    network = next(path for name, path in task.input.items() if name.endswith("_network"))
    catalog, model, item = task_images(task), load_any_segmenter(network, task.device), task.parameters
    params = test_params(item)
    meta = {"device": task.device, **network_conditions(model, params)}
    with task_writer(task, task.output.shard, STAGE, catalog, **meta) as (writer, progress):
        write_logits(
            model,
            catalog,
            params,
            writer,
            quantise=item["quantise"],
            stride=item.get("logits_stride", 1),
            device=task.device,
            progress=progress,
        )
