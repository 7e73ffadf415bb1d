"""Maps on the way up (AdvCAM, CVPR 2021, figure 7): the seed of the first T maps, for a few T."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from camflow.data.sample import sampled
from camflow.localize.advcam import AdvCamParams, Pairs, climb
from camflow.localize.extract import Photos, write_seed
from camflow.localize.maps import SeedMaps
from camflow.store import StoreWriter
from camflow.studies.images import Shown, show_images


def successive_maps(
    model: nn.Module,
    catalog: Photos,
    params: AdvCamParams,
    writer: StoreWriter,
    *,
    images: int,
    at: Sequence[int],
    **options,
) -> pd.DataFrame:
    """Write the seeds of a sample of images after each T of ``at``, and say what happened on the way.

    Args:
        model, catalog: classifier and images.
        params: what to climb; its steps are those of ``at``.
        writer: open ``StoreWriter(stage="maps")``; receives ``<image id>@<T>``.
        images: number of images.
        at: numbers of steps, ascending; 1 is the CAM. Counted as at scale 1: smaller scales may climb fewer.
        options: as in ``show_images``.

    Returns:
        columns ``image, class, step, score, other, covered``: at every step of scale 1 the pooled score of the class
        and of the others (both views), and the share of cells above tau of the map's maximum.
    """
    rows = []
    wanted = [dataclasses.replace(params, steps=count) for count in at]
    watched = min(range(len(params.scales)), key=lambda number: abs(params.scales[number] - 1))

    def work(shown: Shown) -> tuple[list[list[np.ndarray]], list[list[float]]]:
        sums: list[list[np.ndarray]] = [[] for _ in at]
        told: list[list[float]] = []
        for number, (views, scale) in enumerate(zip(shown.views, params.scales, strict=True)):
            total, pairs = 0, Pairs.of([shown.classes], [params], views)
            terms = [one.terms(scale) for one in wanted]
            for step in climb(shown.host, views, pairs, params, max(terms)):
                total = total + step.region
                for maps, one, count in zip(sums, wanted, terms, strict=True):
                    if step.t == count - 1:
                        maps.append((total * one.factor).float().cpu().numpy())
                if number == watched:
                    covered = step.mask.float().mean(dim=(1, 2))
                    told.append(torch.stack([step.score, step.other, covered], dim=1).float().cpu().tolist())
        return sums, told

    for shown, (sums, told) in show_images(model, catalog, sampled(catalog, images), params, work, **options):
        for count, maps in zip(at, sums, strict=True):
            seed = SeedMaps(shown.classes, maps, shown.size, shown.frame, model.map_stride)
            write_seed(writer, f"{shown.image_id}@{count}", seed)
        for t, values in enumerate(told):
            for number, (score, other, covered) in zip(shown.classes, values, strict=True):
                row = {"image": shown.image_id, "class": catalog.class_names[number], "step": t}
                rows.append({**row, "score": score, "other": other, "covered": covered})
    return pd.DataFrame(rows)
