"""The table of scores: one row a recipe and split, measured beside published."""

from __future__ import annotations

from typing import Any

import pandas as pd

from camflow.errors import ConfigError, did_you_mean

METRICS = {"seed": "miou", "masks": "miou", "classification": "map"}
FOREGROUND = (("object_precision", "precision %"), ("object_recall", "recall %"), ("noise_ratio", "noise %"))
WITH_CRF = "score_crf."  # scores of a segmentation network's predictions after a CRF
COLUMNS = ["dataset", "classifier", "localizer", "refiner", "segmenter"]


def score_row(path: str, score: dict[str, Any], published: dict[str, Any] | None) -> dict[str, Any]:
    """One row. ``path`` is the readable path of the score, e.g. ``parts/plain/cam/score.val.json``."""
    *steps, filename = path.split("/")
    row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | dict(zip(COLUMNS, steps, strict=False))
    metric = METRICS[score["kind"]]
    row["CRF"] = "yes" if filename.startswith(WITH_CRF) else ""
    row |= {"split": filename.split(".")[1], "metric": metric, "measured %": _percent(score[metric])}
    conditions = score["conditions"]
    row |= {"init": conditions.get("init", ""), "test": _views(conditions)}
    row["selected on"] = conditions.get("selected_on", "")
    row["threshold"] = score.get("threshold")
    for name, column in FOREGROUND:
        row[column] = _percent(score.get(name))
    row["images"] = conditions["n_images"]
    row["published %"] = published["value"] if published else None
    row["source"] = _source(published) if published else ""
    return row


def _views(conditions: dict[str, Any]) -> str:
    """How a segmentation network was shown the photos, e.g. ``1 0.75 0.5 max_logit flip``; empty for other scores."""
    scales = [f"{scale:g}" for scale in conditions.get("test_scales", ())]
    flip = ["flip"] * bool(conditions.get("test_flip"))
    several = len(scales) + len(flip) > 1  # of one view there is nothing to reduce
    return " ".join([*scales, *([conditions["reduce"]] if several else []), *flip])


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 2)


def _source(published: dict[str, Any]) -> str:
    unconfirmed = "" if published.get("confirmed", True) else " (unconfirmed)"
    conditions = f"; {published['conditions']}" if published.get("conditions") else ""
    return f"{published['source']}{unconfirmed}{conditions}"


def scores_table(scores: dict[str, dict[str, Any]], published: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """All rows, sorted by recipe. Raises ``ConfigError`` for a published value of a recipe that is not scored."""
    for path in published:
        if path not in scores:
            raise ConfigError(f"tables.published: '{path}' is not among the scores{did_you_mean(path, scores)}")
    # A recipe after the parts of it: classifier, seed, masks.
    ordered = sorted(scores, key=lambda path: (path.split("/")[:-1], path))
    frame = pd.DataFrame([score_row(path, scores[path], published.get(path)) for path in ordered])
    keep = [
        name
        for name in frame.columns
        if name in ("published %", "source") or frame[name].replace("", None).notna().any()
    ]
    return frame[keep]


def to_markdown(frame: pd.DataFrame) -> str:
    """The table as Markdown; empty cells stay empty."""
    return frame.astype(object).where(frame.notna(), "").to_markdown(index=False)


def to_html(frame: pd.DataFrame) -> str:
    """The table as one HTML page that needs nothing else."""
    body = frame.astype(object).where(frame.notna(), "").to_html(index=False, border=0)
    return (
        "<!doctype html><meta charset='utf-8'><title>camflow scores</title><style>body{font:14px sans-serif;margin:2em}"
        "table{border-collapse:collapse}th,td{padding:.3em .8em;border-bottom:1px solid #ddd;text-align:right}"
        f"th{{text-align:left}}</style><h1>Scores</h1>{body}"
    )
