"""Confident labels, what IRN is trained on (Ahn, Cho and Kwak, CVPR 2019, and its code).

The seed is cut at a high and at a low background threshold, and both labellings pass the dense CRF. What is foreground
at the high threshold is sure foreground, what is background at the low one is sure background, the rest is ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from camflow.errors import ConfigError, did_you_mean
from camflow.refine.crf import PUBLISHED as CRF_PUBLISHED
from camflow.refine.crf import CrfParams, dense_crf_many, unary_from_labels
from camflow.refine.driver import IGNORE, Refined, class_ids
from camflow.refine.threshold import winners


@dataclass(frozen=True)
class ConfidentParams:
    """Parameters of confident labels; the defaults are IRN's.

    For maps of another kind users take about the best threshold of the seed + 0.1 and - 0.1.

    Attributes:
        conf_fg: background score against which a pixel must win to be sure foreground.
        conf_bg: background score that must win for a pixel to be sure background.
        crf: of both labellings, on hard labels.
    """

    conf_fg: float = 0.30
    conf_bg: float = 0.05
    crf: CrfParams = field(default_factory=lambda: CRF_PUBLISHED["irn"])

    def __post_init__(self):
        if not 0 <= self.conf_bg <= self.conf_fg <= 1:
            raise ConfigError(
                f"irn: 0 <= conf_bg <= conf_fg <= 1 is needed, not conf_bg {self.conf_bg} and conf_fg {self.conf_fg}"
            )
        if self.crf.unary != "labels":
            raise ConfigError("irn: the CRF of confident labels starts from hard labels; set unary: labels")


PUBLISHED: dict[str, ConfidentParams] = {
    "irn": ConfidentParams(),
    "advcam": ConfidentParams(conf_fg=0.35, conf_bg=0.15),
    "lpcam": ConfidentParams(conf_fg=0.45, conf_bg=0.25),
    "amn": ConfidentParams(conf_fg=0.45, conf_bg=0.15),  # of its own maps; it learns from those of irn
}


def confident_params(preset: str = "irn", **overrides: Any) -> ConfidentParams:
    """A published parameter set, some of it replaced. Raises ``ConfigError`` for a name that is not published."""
    if preset not in PUBLISHED:
        raise ConfigError(f"irn: unknown preset '{preset}'{did_you_mean(preset, PUBLISHED)}")
    return replace(PUBLISHED[preset], **overrides)


def merge(foreground: np.ndarray, background: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Combine the two labellings into class ids, uint8 (H, W) of {0 .. C, 255}.

    Args:
        foreground: local labels (0 background, k the k-th class) at the high threshold. Where it is not 0 it counts,
            whatever the other says.
        background: local labels at the low threshold. Where both are 0 the pixel is background.
        classes: (K,) 0-based class indices.
    """
    labels = class_ids(foreground, classes)
    labels[(foreground == 0) & (background != 0)] = IGNORE
    return labels


def confident_labels(
    photo: Callable[[], np.ndarray],
    maps: np.ndarray,
    classes: np.ndarray,
    threshold: float,
    params: ConfidentParams,
) -> Refined:
    """Refiner (see ``camflow.refine.driver``) that gives labels {0 .. C, 255}; ``threshold`` is not used.

    The photo's CRF lattices are built once for both labellings, which saves a seventh to a quarter. The confidence is the
    marginal of the label in the labelling that decided, 0 where the pixel is ignored.
    """
    count = len(maps) + 1
    cut = [winners(maps, level) for level in (params.conf_fg, params.conf_bg)]
    unaries = [unary_from_labels(labels, count, params.crf.gt_prob) for labels in cut]
    high, low = dense_crf_many(photo(), unaries, params.crf)
    foreground, background = high.argmax(axis=0), low.argmax(axis=0)
    labels = merge(foreground, background, classes)
    sure = np.where(foreground > 0, high.max(axis=0), low[0])
    return Refined(labels, np.where(labels == IGNORE, np.float32(0), sure))
