"""What each published parameter set holds, method by method: for people who read, not for stages, which take theirs from
the modules named here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

# Preset -> parameter of the schema -> value.
Presets = dict[str, dict[str, Any]]


def presets_of(section: str, method: str) -> Presets:
    """The presets of a method in the order of its schema; empty for a method without.

    A method that has no choice of presets but takes its values from one (``psl``) has it under its own name.
    """
    made = _BY_METHOD.get((section, method))
    return made() if made else {}


def _lpcam() -> Presets:
    from camflow.localize.prototypes import PRESETS

    found = {}
    for name, one in PRESETS.items():
        values = {**dataclasses.asdict(one.prototypes), **dataclasses.asdict(one.selection)}
        del values["long_side"]  # the maps' and the prototypes', so it has a default of its own
        found[name] = values
    return found


def _crf() -> Presets:
    from camflow.refine.crf import PUBLISHED

    return {name: dataclasses.asdict(one) for name, one in PUBLISHED.items()}


def _irn() -> Presets:
    from camflow.refine import confident, walk
    from camflow.refine.irn import WALKED

    return {
        name: {
            **{key: getattr(confident.PUBLISHED[name], key) for key in ("conf_fg", "conf_bg")},
            **{key: getattr(one, key) for key in WALKED},
        }
        for name, one in walk.PUBLISHED.items()
    }


def _confident() -> Presets:
    from camflow.refine.confident import PUBLISHED

    return {name: {key: getattr(one, key) for key in ("conf_fg", "conf_bg")} for name, one in PUBLISHED.items()}


def _psa() -> Presets:
    from camflow.refine import affinity, psa
    from camflow.train.refiners import AFFINITY_LR

    return {
        name: {
            **{key: getattr(affinity.CONFIDENT[name], key) for key in ("alpha_low", "alpha_high")},
            **dataclasses.asdict(one),
            "lr": AFFINITY_LR[name],
        }
        for name, one in psa.PUBLISHED.items()
    }


def _casm() -> Presets:
    from camflow.train.casm import PRESETS

    found = {}
    for name, values in PRESETS.items():
        values = dict(values)
        weights = values.pop("lambda_r")
        found[name] = {**values, **{f"lambda_r (score: {score})": weight for score, weight in weights.items()}}
    return found


def _deeplab() -> Presets:
    from camflow.segment.label_tasks import CRFS
    from camflow.segment.tasks import PROTOCOLS

    return {name: {**_segmenter(name), **PROTOCOLS[name], "crf": CRFS[name]} for name in PROTOCOLS}


def _psl() -> Presets:
    values = _segmenter("psl")
    del values["loss"]  # its own
    return {"psl": values}


def _segmenter(name: str) -> dict[str, Any]:
    """All that any preset sets, as one of them has it."""
    from camflow.train.segment import PRESETS, segment_params

    params = segment_params(name)
    return {key: getattr(params, key) for key in dict.fromkeys(key for one in PRESETS.values() for key in one)}


_BY_METHOD: dict[tuple[str, str], Callable[[], Presets]] = {
    ("classifiers", "casm"): _casm,
    ("localizers", "lpcam"): _lpcam,
    ("refiners", "crf"): _crf,
    ("refiners", "irn"): _irn,
    ("refiners", "confident"): _confident,
    ("refiners", "psa"): _psa,
    ("segmenters", "deeplab"): _deeplab,
    ("segmenters", "psl"): _psl,
}
