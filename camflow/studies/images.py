"""The part that the studies share: a sample of images, each shown to the network by itself, in a fixed order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from camflow.localize.advcam import frozen
from camflow.localize.extract import (
    Photos,
    Views,
    check_classes,
    frame_size,
    load_batch,
    normalisation_table,
    numerics,
    ordered,
    to_views,
)
from camflow.models.host import Host, given_labels

Result = TypeVar("Result")


@dataclass(frozen=True)
class Shown:
    """One image as the network sees it.

    Attributes:
        image_id: its id.
        classes: (K,) present classes, at least one.
        size: (H, W) of the photo. frame: (H, W) shown at scale 1.
        views: one (1, V, 3, h, w) normalised tensor per scale.
        host: the network, told the classes if it is conditioned on labels.
    """

    image_id: str
    classes: np.ndarray
    size: tuple[int, int]
    frame: tuple[int, int]
    views: list[torch.Tensor]
    host: Host


def show_images(
    model: nn.Module,
    catalog: Photos,
    ids: Sequence[str],
    params: Views,
    work: Callable[[Shown], Result],
    *,
    device: str | torch.device = "cpu",
    workers: int = 1,
    progress: Callable[[int], object] | None = None,
) -> Iterator[tuple[Shown, Result]]:
    """Run ``work`` on images one by one; images without a present class are left out.

    On the CPU ``workers`` images run at a time with one intra-op thread each, so that the numbers do not depend on
    their count (see ``camflow.localize.extract``); weights need no gradient within.
    """
    check_classes(model, catalog)
    device = torch.device(device)
    model = model.to(device, memory_format=torch.channels_last).eval()
    table = normalisation_table(model.mean, model.std).to(device, next(model.parameters()).dtype)
    sizes = dict(zip(catalog.ids, catalog.sizes, strict=True))
    ids = [image_id for image_id in ids if catalog.label(image_id).any()]

    def run(image_id: str) -> tuple[Shown, Result]:
        size = (int(sizes[image_id][0]), int(sizes[image_id][1]))
        batch = load_batch(catalog, [image_id], size, params)
        views = [to_views(pixels.to(device), table, params.flip) for pixels in batch.pixels]
        host = given_labels(model, batch.classes)
        shown = Shown(image_id, batch.classes[0], size, frame_size(size, params.long_side), views, host)
        with torch.autocast(device.type, torch.bfloat16, enabled=params.precision == "bfloat16"):
            return shown, work(shown)

    if ids:  # a catalog reads its tables on first use, which two threads must not do at once
        catalog.image(ids[0])
    threads = 1 if device.type == "cuda" else max(1, workers)
    with numerics(device, params.precision), frozen(model), ThreadPoolExecutor(threads) as pool:
        for found in ordered(pool, run, ids, ahead=2 * threads):
            if progress is not None:
                progress(1)
            yield found
