"""The seed after every step of the climb, and under other settings (AdvCAM, CVPR 2021, figure 6 a-e).

One climb gives the seed of every number of steps: with T steps it is the sum of the first T maps. So panels a and b (mIoU
and noise over T, with and without regularisation) cost two climbs, and c-e (lambda, tau, step size) one for each value;
all settings of an image climb side by side from one forward pass of its photo.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from camflow.data.catalog import Catalog
from camflow.data.sample import sampled
from camflow.evaluate.sweep import SeedSweep
from camflow.localize.advcam import AdvCamParams, Pairs, climb
from camflow.localize.maps import SeedMaps, full_size_maps
from camflow.studies.images import Shown, show_images
from camflow.studies.scored import Scored, best_row

SWEPT = ("lambda", "tau", "step_size")


def settings_of(params: AdvCamParams, values: Mapping[str, Sequence[float]]) -> list[tuple[list[str], AdvCamParams]]:
    """Distinct settings with the panels each belongs to: the method's own first, lambda 0 second.

    Args:
        params: the method's own setting, part of every panel.
        values: swept parameter -> its other values.
    """
    found: dict[AdvCamParams, list[str]] = {params: ["steps", *SWEPT]}
    if params.lambda_:
        found[dataclasses.replace(params, lambda_=0.0)] = ["steps"]
    for name in SWEPT:
        for value in values.get(name, ()):
            key = "lambda_" if name == "lambda" else name
            panels = found.setdefault(dataclasses.replace(params, **{key: float(value)}), [])
            if name not in panels:
                panels.append(name)
    return [(panels, setting) for setting, panels in found.items()]


def climb_study(
    model: nn.Module,
    catalog: Catalog,
    params: AdvCamParams,
    scored: Scored,
    *,
    steps: int,
    **options,
) -> pd.DataFrame:
    """Best mIoU over the thresholds, with noise, precision and recall there, for every setting and number of steps.

    Args:
        model, catalog: classifier and images, of which those with a mask are used.
        params: the method's own setting.
        scored: the images, the thresholds and other values of ``lambda``, ``tau`` and ``step_size``.
        steps: largest T; the settings of panels c-e are scored at ``params.steps`` alone.
        options: as in ``show_images``.

    Returns:
        columns ``panel, lambda, tau, step_size, steps, threshold, miou, noise, precision, recall, images``. Panel
        ``steps`` has every T from 1, the others one row a value.
    """
    chosen = settings_of(params, scored.values)
    last = max(steps, params.steps)
    counts = [list(range(1, last + 1)) if "steps" in panels else [params.steps] for panels, _ in chosen]
    sweeps = [[SeedSweep(len(catalog.class_names) + 1, scored.thresholds) for _ in own] for own in counts]
    longest = dataclasses.replace(params, steps=last)
    every = [dataclasses.replace(params, steps=t) for t in range(1, last + 1)]
    at_scale = [[one.terms(scale) for one in every] for scale in params.scales]
    factors = np.array([one.factor for one in every], np.float32)

    def work(shown: Shown) -> list[np.ndarray]:
        """One array (setting, K, T, h, w) a scale: sums of the first T maps, T counted as at scale 1."""
        found = []
        for views, terms in zip(shown.views, at_scale, strict=True):
            pairs = Pairs.of([shown.classes], [setting for _, setting in chosen], views)
            maps = torch.stack([step.region for step in climb(shown.host, views, pairs, longest, max(terms))], dim=1)
            sums = maps.double().cumsum(1)[:, torch.tensor(terms) - 1]
            found.append(sums.unflatten(0, (-1, len(chosen))).transpose(0, 1).float().cpu().numpy())
        return found

    ids = sampled(catalog, scored.images, masks=True)
    used = 0
    for shown, found in show_images(model, catalog, ids, params, work, **options):
        truth, used = catalog.mask(shown.image_id), used + 1
        for number, own in enumerate(counts):
            for position, count in enumerate(own):
                maps = [m[number, :, count - 1] * factors[count - 1] for m in found]
                seed = SeedMaps(shown.classes, maps, shown.size, shown.frame, model.map_stride)
                sweeps[number][position].update(full_size_maps(seed), shown.classes, truth, shown.image_id)
    rows = [
        {"panel": panel, **_values(setting), "steps": count, **best_row(sweep, scored), "images": used}
        for (panels, setting), own, results in zip(chosen, counts, sweeps, strict=True)
        for panel in panels
        for count, sweep in zip(own, results, strict=True)
        if panel == "steps" or count == params.steps
    ]
    order = ["steps", *SWEPT]
    return pd.DataFrame(
        sorted(rows, key=lambda r: (order.index(r["panel"]), r["lambda"], r["tau"], r["step_size"], r["steps"]))
    )


def _values(setting: AdvCamParams) -> dict[str, float]:
    return {"lambda": setting.lambda_, "tau": setting.tau, "step_size": setting.step_size}
