"""How the parameters of IRN's walk matter: mIoU of the masks over threshold, beta, number of steps and gamma.

The boundaries are those at hand, so only the walk is repeated: affinities once per photo, a transition for each beta, a
walk for each setting, and all thresholds from the one walk.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from camflow.data.catalog import Catalog
from camflow.data.sample import sampled
from camflow.evaluate.confusion import miou
from camflow.evaluate.sweep import SeedSweep
from camflow.localize.maps import checked_seed, stride4_maps
from camflow.refine.driver import ordered_map
from camflow.refine.irn import read_boundaries
from camflow.refine.walk import WalkParams, edge_affinities, enlarge, semantic_scores
from camflow.store import Store
from camflow.studies.scored import Scored

SWEPT = ("beta", "exp_times", "gamma")
LOT = 16  # images that a process scores before it reports


def settings_of(own: WalkParams, values: Mapping[str, Sequence[float]]) -> list[WalkParams]:
    """Every combination of the swept values, the method's own among them, by beta first."""
    axes = [sorted({getattr(own, name), *values.get(name, ())}) for name in SWEPT]
    return [dataclasses.replace(own, **dict(zip(SWEPT, chosen, strict=True))) for chosen in itertools.product(*axes)]


def walk_study(
    catalog: Catalog,
    maps: Store,
    edges: Store,
    own: WalkParams,
    scored: Scored,
    *,
    jobs: int = 1,
    progress: Callable[[int], Any] | None = None,
) -> pd.DataFrame:
    """mIoU at every threshold for every combination of beta, exp_times and gamma.

    Args:
        catalog: images of which some are scored.
        maps, edges: their seed maps and boundaries, see ``camflow.refine.irn``.
        own: the method's own setting.
        scored: the images, other values of ``beta``, ``exp_times`` and ``gamma``, and the thresholds, which the
            method's own joins.
        jobs: worker processes (spawned); the result does not depend on their number.
        progress: called with the number of images done since its last call.

    Returns:
        columns ``beta, exp_times, gamma, threshold, miou, own, images``; ``own`` marks the method's own beta, exp_times
        and gamma.
    """
    chosen = settings_of(own, scored.values)
    grid = sorted({*scored.thresholds, own.threshold})
    ids = sampled(catalog, scored.images, masks=True)
    task = _Task(catalog, maps, edges, chosen, grid)
    totals = [SeedSweep(len(catalog.class_names) + 1, grid) for _ in chosen]
    lots = [ids[k : k + LOT] for k in range(0, len(ids), LOT)]
    for part, done in ordered_map(task, lots, min(jobs, len(lots))):
        for total, sweep in zip(totals, part, strict=True):
            total.merge(sweep)
        if progress is not None:
            progress(done)
    rows = []
    for setting, total in zip(chosen, totals, strict=True):
        named = {name: getattr(setting, name) for name in SWEPT}
        mine = all(getattr(own, name) == value for name, value in named.items())
        for threshold, value in zip(grid, miou(total.result(), scored.rule), strict=True):
            rows.append({**named, "threshold": threshold, "miou": float(value), "own": mine, "images": len(ids)})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class _Task:
    catalog: Catalog
    maps: Store
    edges: Store
    settings: list[WalkParams]
    thresholds: list[float]

    def __call__(self, ids: Sequence[str]) -> tuple[list[SeedSweep], int]:
        sweeps = [SeedSweep(len(self.catalog.class_names) + 1, self.thresholds) for _ in self.settings]
        for image_id in ids:
            truth = self.catalog.mask(image_id)
            seed = checked_seed(self.maps, image_id, truth.shape)
            edge, _ = read_boundaries(self.edges, image_id, seed.size)
            affinities, maps, beta = edge_affinities(edge, self.settings[0].radius), stride4_maps(seed), None
            for setting, sweep in zip(self.settings, sweeps, strict=True):
                if setting.beta != beta:  # settings come by beta, so one transition at a time is kept
                    transition, beta = affinities.transition(setting.beta), setting.beta
                scores = enlarge(semantic_scores(edge, maps, setting, transition), seed.size)
                peak = scores.max(initial=0)
                sweep.update(scores / peak if peak > 0 else scores, seed.classes, truth, image_id)
        return sweeps, len(ids)
