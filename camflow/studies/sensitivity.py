"""How LPCAM's parameters matter (Chen & Sun, CVPR 2023, sensitivity of K, tau, mu_f and mu_b).

A setting is one vector a class, so all settings are scored in one pass over the images: the features of a photo are
computed once and compared with every setting's vectors. Only another tau gathers features anew and only another K or tau
clusters anew; mu_f and mu_b choose among the centres that are there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from camflow.data.catalog import Catalog
from camflow.data.sample import sampled
from camflow.evaluate.sweep import SeedSweep
from camflow.localize.lpcam import LpcamParams, class_vectors, seen
from camflow.localize.maps import SeedMaps, full_size_maps
from camflow.localize.prototypes import PrototypeParams, cluster_points, collect, images_of_class
from camflow.store import Store
from camflow.studies.images import Shown, show_images
from camflow.studies.scored import Scored, best_row

SWEPT = ("clusters", "tau", "mu_f", "mu_b")


def settings_of(
    prototypes: PrototypeParams, selection: LpcamParams, values: Mapping[str, Sequence[float]]
) -> list[tuple[str, float, PrototypeParams, LpcamParams]]:
    """(panel, value, parameters): for every swept parameter its values and the method's own, ascending."""
    own = {
        "clusters": prototypes.clusters, "tau": prototypes.tau, "mu_f": selection.mu_f, "mu_b": selection.context[1],
    }  # fmt: skip
    found = []
    for name in SWEPT:
        for value in sorted({own[name], *values.get(name, ())}):
            if name == "mu_b":
                low = selection.context[0]  # stays where it is, unless it would not be the lower one
                chosen = dataclasses.replace(selection, context=(low if low < value else value / 2, value))
            else:
                chosen = dataclasses.replace(selection, mu_f=value) if name == "mu_f" else selection
            changed = {name: int(value) if name == "clusters" else value} if name in ("clusters", "tau") else {}
            found.append((name, value, dataclasses.replace(prototypes, **changed), chosen))
    return found


def sensitivity_study(
    model: nn.Module,
    catalog: Catalog,
    training: Catalog,
    masks: Store,
    prototypes: PrototypeParams,
    selection: LpcamParams,
    scored: Scored,
    **options: Any,
) -> pd.DataFrame:
    """Best mIoU over the thresholds, with precision and recall there, for every value of every swept parameter.

    Args:
        model: the classifier.
        catalog: images that are scored, those with a mask.
        training, masks: images that are clustered, and their seed maps.
        prototypes, selection: the method's own setting.
        scored: the thresholds, and other values of ``clusters`` (K), ``tau``, ``mu_f`` and ``mu_b`` (the upper bound of
            the context).
        options: ``device``, ``workers`` and ``progress`` of ``show_images``.

    Returns:
        columns ``panel, value, threshold, miou, precision, recall, images``.
    """
    chosen = settings_of(prototypes, selection, scored.values)
    clustered = _cluster_all(model, training, masks, [setting for _, _, setting, _ in chosen], options)
    vectors = [class_vectors(clustered[setting], select) for _, _, setting, select in chosen]
    sweeps = [SeedSweep(len(catalog.class_names) + 1, scored.thresholds) for _ in chosen]

    def work(shown: Shown) -> list[list[np.ndarray]]:
        """For each setting one (K, h, w) array a scale."""
        found: list[list[np.ndarray]] = [[] for _ in chosen]
        with torch.inference_mode():
            for views in shown.views:
                similar = seen(shown.host, views, selection.fusion)
                for maps, own in zip(found, vectors, strict=True):
                    maps.append(similar(own, [shown.classes])[0].cpu().numpy())
        return found

    ids, used = sampled(catalog, scored.images, masks=True), 0
    for shown, found in show_images(model, catalog, ids, selection, work, **options):
        truth, used = catalog.mask(shown.image_id), used + 1
        for sweep, maps in zip(sweeps, found, strict=True):
            seed = SeedMaps(shown.classes, maps, shown.size, shown.frame, model.map_stride)
            sweep.update(full_size_maps(seed), shown.classes, truth, shown.image_id)
    return pd.DataFrame(
        {"panel": panel, "value": value, **best_row(sweep, scored, ("precision", "recall")), "images": used}
        for (panel, value, _, _), sweep in zip(chosen, sweeps, strict=True)
    )


def _cluster_all(model, training, masks, settings, options) -> dict[PrototypeParams, list]:
    """Clusters of every class under every distinct setting; features are gathered once for each tau."""
    found: dict[PrototypeParams, list] = {setting: [] for setting in settings}
    for index, name in enumerate(training.class_names):
        for tau in sorted({setting.tau for setting in found}):
            same = [setting for setting in found if setting.tau == tau]
            sides = collect(model, training, masks, index, same[0], **options)
            count = sum(images_of_class(training, index, same[0]).values())
            for setting in same:
                found[setting].append(cluster_points(model, name, index, sides, setting, images=count))
    return found
