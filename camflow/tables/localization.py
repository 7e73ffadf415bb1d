"""The table of scores against boxes: one row a recipe and split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

RECIPE = ["dataset", "classifier", "localizer", "split"]
# Kind of score -> its scalars, by column.
SHOWN = {
    "localization": {
        "MaxBoxAcc": "maxboxacc", "MaxBoxAccV2": "maxboxacc_v2", "GT-known": "gt_known_loc", "Top-1 Loc": "top1_loc",
        "Top-5 Loc": "top5_loc", "Top-1 Cls": "top1_cls",
    },
    "pxap": {"PxAP": "pxap"},
    "saliency": {"LE": "le", "OM": "om_top1", "F1": "f1", "pointing": "pointing"},
}  # fmt: skip


def localization_table(scores: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """All scores against boxes, in per cent; what was not asked for has no column.

    GT-known and Top-k Loc stand at MaxBoxAcc's threshold, which is the best of the scored split, and beside them at the
    first fixed fraction of the maximum (the box of the largest component), which nothing was chosen for.

    Args:
        scores: readable path -> score of kind ``localization``, ``pxap`` or ``saliency``.
    """
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for path, score in scores.items():
        dataset, classifier, localizer, filename = path.split("/")
        key = (dataset, classifier, localizer, filename.split(".")[1])
        row = rows.setdefault(key, dict(zip(RECIPE, key, strict=True)))
        row |= {column: _percent(score.get(name)) for column, name in SHOWN[score["kind"]].items()}
        if score["kind"] == "localization":
            row |= {"threshold": score["threshold"], **_fixed(score["fixed"])}
        row["images"] = score["conditions"]["n_images"]
    frame = pd.DataFrame([rows[key] for key in sorted(rows)])
    frame = frame[[*(name for name in frame.columns if name != "images"), "images"]]
    return frame.dropna(axis=1, how="all")


def _fixed(fixed: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    found = next(((fraction, rules["component"]) for fraction, rules in fixed.items() if "component" in rules), None)
    if found is None:
        return {}
    fraction, values = found
    names = {"GT-known": "gt_known_loc", "Top-1 Loc": "top1_loc"}
    return {f"{column} at {fraction}": _percent(values.get(name)) for column, name in names.items()}


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 2)
