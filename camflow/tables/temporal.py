"""The table of temporal average precision: one row a recipe and split, and one a group of seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

RECIPE = ["dataset", "classifier", "localizer", "split"]


def temporal_table(
    scores: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]] | None = None
) -> pd.DataFrame:
    """Mean average precision at every tIoU in per cent, recipes that differ by their seed alone also as their mean.

    Args:
        scores: readable path -> score of kind ``temporal``.
        groups: name of a group of seeds -> its readable paths; those of other scores are passed over.

    Returns:
        columns ``dataset, classifier, localizer, split, seeds, protocol``, ``mAP@T`` by tIoU, ``mean`` over these,
        ``videos``, ``classes``. ``seeds`` is how many scores a row is the mean of.
    """
    groups = {name: paths for name, paths in (groups or {}).items() if set(paths) <= set(scores)}
    together = {**{path: [path] for path in scores}, **groups}
    rows = []
    for name in sorted(together, key=lambda name: (len(together[name]), name)):
        found = [scores[path] for path in together[name]]
        dataset, classifier, localizer, filename = name.split("/")
        conditions = found[0]["conditions"]
        row = dict(zip(RECIPE, (dataset, classifier, localizer, filename.split(".")[1]), strict=True))
        row |= {"seeds": len(found), "protocol": conditions["protocol"]}
        row |= {f"mAP@{level}": _percent(score["map_at"][level] for score in found) for level in found[0]["map_at"]}
        row |= {"mean": _percent(score["map"] for score in found)}
        rows.append({**row, "videos": conditions["n_videos"], "classes": len(conditions["class_names"])})
    return pd.DataFrame(rows)


def _percent(values) -> float:
    return round(100 * float(np.mean(list(values))), 2)
