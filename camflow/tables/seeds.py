"""The table of scores over the seeds of their classifiers: mean and spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from camflow.tables.scores import WITH_CRF

SHOWN = {
    "miou": "mIoU", "object_recall": "recall", "object_precision": "precision", "map": "mAP",
    "maxboxacc_v2": "MaxBoxAccV2", "gt_known_loc": "GT-known", "top1_loc": "Top-1 Loc", "pxap": "PxAP", "le": "LE", "f1": "F1",
}  # fmt: skip


def seeds_table(scores: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """One row a group of recipes that differ by the classifier's seed alone.

    Args:
        scores: readable path -> score.
        groups: name of a group -> its readable paths.

    Returns:
        columns ``recipe, split, kind, seeds`` and for each measure its mean and sample standard deviation over the
        seeds (``mIoU %``, ``mIoU +-``), in per cent; and the main measure of every single seed, in their order, "-" if undefined.
    """
    rows = []
    for name, paths in groups.items():
        found = [scores[path] for path in paths]
        *recipe, filename = name.split("/")
        row: dict[str, Any] = {
            "recipe": "/".join(recipe) + (" +CRF" if filename.startswith(WITH_CRF) else ""),
            "split": filename.split(".")[-2], "kind": found[0]["kind"], "seeds": len(found),
        }  # fmt: skip
        for key, label in SHOWN.items():
            values = np.array([score.get(key, np.nan) for score in found], np.float64) * 100
            if not np.isnan(values).all():
                row[f"{label} %"] = round(float(values.mean()), 1)
                row[f"{label} +-"] = round(float(values.std(ddof=1)), 1)
        main = next(key for key in ("miou", "map", "gt_known_loc", "pxap", "le") if key in found[0])
        row["each"] = ", ".join("-" if score[main] is None else f"{100 * score[main]:.1f}" for score in found)
        rows.append(row)
    frame = pd.DataFrame(rows).sort_values(["split", "kind", "recipe"], ignore_index=True)
    return frame[[*(column for column in frame.columns if column != "each"), "each"]]
