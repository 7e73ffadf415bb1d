"""How much climbing amplifies what the classifier saw at once and what it did not (AdvCAM, CVPR 2021, figure 2).

With the CAM of the photo, max-normalised, R_D are the cells at .5 and above, R_ND those between .1 and .5. Of every
image and class, s_t is the mean over a region's cells of CAM(x_t) / CAM(x_0), both un-normalised, so that the two stand
on one scale. Regularisation is to hold R_D back while R_ND grows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from camflow.data.sample import sampled
from camflow.localize.advcam import AdvCamParams, Pairs, climb
from camflow.localize.extract import Photos
from camflow.studies.images import Shown, show_images

DISCRIMINATIVE, SEEN = 0.5, 0.1
REGIONS = ("discriminative", "non-discriminative")


def regions(cam: torch.Tensor) -> torch.Tensor:
    """(P, h, w) -> (P, 2, h, w) bool: R_D and R_ND of each map."""
    share = cam / cam.amax(dim=(1, 2), keepdim=True)
    return torch.stack([share >= DISCRIMINATIVE, (share > SEEN) & (share < DISCRIMINATIVE)], dim=1)


def amplification(
    model: nn.Module, catalog: Photos, params: AdvCamParams, *, images: int | None, steps: int, **options
) -> pd.DataFrame:
    """Growth of both regions at scale 1, with and without regularisation.

    Args:
        model, catalog: classifier and images.
        params: what to climb; its lambda is "with", 0 is "without".
        images: number of images, None for all.
        steps: updates.
        options: ``device``, ``workers`` and ``progress`` of ``show_images``.

    Returns:
        columns ``lambda, step, region, mean, q25, median, q75, pairs`` over the pairs (image, class) that have the
        region.
    """
    params = dataclasses.replace(params, scales=(1.0,))
    settings = [params, dataclasses.replace(params, lambda_=0.0)] if params.lambda_ else [params]

    def work(shown: Shown) -> np.ndarray:
        views = shown.views[0]
        pairs = Pairs.of([shown.classes], settings, views)
        found, first = [], None
        for step in climb(shown.host, views, pairs, params, steps + 1):
            if first is None:
                first, inside = step.cam, regions(step.cam)
            growth = torch.where(inside, (step.cam / first)[:, None], 0).sum(dim=(2, 3)) / inside.sum(dim=(2, 3))
            found.append(growth)
        return torch.stack(found).unflatten(1, (-1, len(settings))).float().cpu().numpy()  # steps, K, settings, 2

    chosen = sampled(catalog, images)
    parts = [found for _, found in show_images(model, catalog, chosen, params, work, **options)]
    growth = np.concatenate(parts, axis=1)
    return pd.DataFrame(list(_rows(growth, [s.lambda_ for s in settings])))


def _rows(growth: np.ndarray, lambdas: Sequence[float]):
    for n, value in enumerate(lambdas):
        for t in range(len(growth)):
            for r, region in enumerate(REGIONS):
                values = growth[t, :, n, r]
                values = values[np.isfinite(values)]
                low, middle, high = np.quantile(values, (0.25, 0.5, 0.75)) if len(values) else [np.nan] * 3
                yield {
                    "lambda": value, "step": t, "region": region, "mean": values.mean() if len(values) else np.nan,
                    "q25": low, "median": middle, "q75": high, "pairs": len(values),
                }  # fmt: skip
