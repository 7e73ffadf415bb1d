"""What the studies share that score seeds or masks over the values of a method's parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from camflow.evaluate.confusion import miou, noise_ratio, object_precision, object_recall
from camflow.evaluate.scores import ScoreParams, first_best
from camflow.evaluate.sweep import SeedSweep

MEASURES = {"noise": noise_ratio, "precision": object_precision, "recall": object_recall}


@dataclass(frozen=True)
class Scored:
    """What a study scores, and how.

    Attributes:
        images: number of images, of those with a class and a mask; None for all.
        values: swept parameter -> its other values; what is not swept may be among them.
        thresholds: background scores of the sweep, ascending.
        rule: of the mean, see ``camflow.evaluate.confusion.miou``.
    """

    images: int | None
    values: Mapping[str, Any]
    thresholds: Sequence[float]
    rule: str = "present"


def scored_from_config(sections: Mapping[str, Any], name: str) -> Scored:
    """What the study ``name`` scores by the sections ``studies`` and ``evaluation`` of the config."""
    settings, evaluation = sections["studies"][name], sections["evaluation"]
    thresholds = ScoreParams(thresholds=evaluation["thresholds"]).thresholds
    return Scored(settings["images"], settings, thresholds, evaluation["miou"])


def best_row(sweep: SeedSweep, scored: Scored, measures: Sequence[str] = tuple(MEASURES)) -> dict[str, float]:
    """The threshold with the best mIoU, the lowest of equal ones, as in the papers; that mIoU, and ``measures`` there.

    Args:
        sweep: over the thresholds of ``scored``.
        scored: the thresholds and the rule.
        measures: keys of MEASURES.
    """
    confusions = sweep.result()
    curve = miou(confusions, scored.rule)
    best = first_best(curve)
    found = {name: float(MEASURES[name](confusions[best])) for name in measures}
    return {"threshold": scored.thresholds[best], "miou": float(curve[best]), **found}
