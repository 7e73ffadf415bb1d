"""Where climbing leads in feature space (AdvCAM, CVPR 2021, figure 8).

Pooled last features of images that show one of two classes alone, and are classified so, beside the trajectory of one
image of each class; all points are embedded together. The climb should leave the boundary and stay near the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from sklearn.manifold import TSNE
from torch import nn

from camflow.data.catalog import Catalog
from camflow.data.sample import sample
from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.localize.advcam import AdvCamParams, Pairs, climb
from camflow.models.host import Host
from camflow.studies.images import Shown, show_images

FEWEST = 5  # points that a map of two classes needs at least


def tsne_study(
    model: nn.Module,
    catalog: Catalog,
    params: AdvCamParams,
    *,
    classes: Sequence[str] | None,
    images: int,
    steps: int,
    perplexity: float,
    seed: int,
    **options,
) -> pd.DataFrame:
    """Points of the map.

    Args:
        model, catalog: classifier and images.
        params: what to climb, at scale 1.
        classes: names of the two classes; None takes the two that most images show alone.
        images: at most so many images of each class.
        steps: updates of the two trajectories.
        perplexity, seed: of t-SNE; the perplexity is cut to a third of the points.
        options: as in ``show_images``.

    Returns:
        columns ``image, class, step, x, y``; step is 0 for a photo, and for the two climbed images counts on.
    """
    params = dataclasses.replace(params, scales=(1.0,))
    names = list(classes) if classes else _frequent(catalog)
    for name in names:
        if name not in catalog.class_names:
            raise ConfigError(f"studies.tsne.classes: there is no '{name}'{did_you_mean(name, catalog.class_names)}")
    alone = {name: _alone(catalog, catalog.class_names.index(name)) for name in names}
    chosen = sorted(i for ids in alone.values() for i in sample(ids, images))

    def pooled(host: Host, x: torch.Tensor) -> torch.Tensor:
        return host.pool(host.features(x)).flatten(1).float()

    def work(shown: Shown) -> tuple[np.ndarray, bool]:
        with torch.no_grad():
            x = shown.views[0][:, 0]
            logits = shown.host(x).float()[0]
            right = bool((logits > 0).sum() == 1 and logits.argmax() == shown.classes[0])
            return pooled(shown.host, x).cpu().numpy(), right

    def path(shown: Shown) -> np.ndarray:
        pairs = Pairs.of([shown.classes], [params], shown.views[0])
        with torch.no_grad():
            states = climb(shown.host, shown.views[0], pairs, params, steps + 1)
            return torch.cat([pooled(shown.host, step.images[:, 0]) for step in states]).cpu().numpy()

    rows, points, climbed = [], [], {}
    for shown, (feature, right) in show_images(model, catalog, chosen, params, work, **options):
        name = catalog.class_names[shown.classes[0]]
        if right:
            climbed.setdefault(name, shown.image_id)
            rows.append({"image": shown.image_id, "class": name, "step": 0})
            points.append(feature)
    if len(climbed) < 2 or len(points) < FEWEST:
        counts = ", ".join(f"{sum(row['class'] == name for row in rows)} of {name}" for name in names)
        raise DataError(
            f"split '{catalog.split}' of '{catalog.dataset}' has too few images with one class alone that are classified "
            f"so ({counts}); name other classes in studies.tsne.classes or study a larger split"
        )
    for shown, states in show_images(model, catalog, sorted(climbed.values()), params, path, **options):
        name = catalog.class_names[shown.classes[0]]
        rows += [{"image": shown.image_id, "class": name, "step": t} for t in range(1, len(states))]
        points.append(states[1:])
    values = np.concatenate(points)
    embed = TSNE(perplexity=min(perplexity, (len(values) - 1) / 3), init="pca", random_state=seed, n_jobs=1)
    place = embed.fit_transform(values.astype(np.float64))
    return pd.DataFrame(rows).assign(x=place[:, 0], y=place[:, 1])


def _alone(catalog: Catalog, index: int) -> list[str]:
    return [i for i in catalog.ids if catalog.label(i)[index] and catalog.label(i).sum() == 1]


def _frequent(catalog: Catalog) -> list[str]:
    counts = {name: len(_alone(catalog, n)) for n, name in enumerate(catalog.class_names)}
    return sorted(counts, key=lambda name: (-counts[name], name))[:2]
