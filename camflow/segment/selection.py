"""What everything made with a segmentation network says of it: how it was chosen, what it started from, how it was
shown the photos. Files carry these facts on in their envelopes, scores under ``conditions``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Beside those of ``selection``.
CONDITIONS = (
    "init",  # none, classifier, file, or the name of a release
    "architecture",
    "backbone",
    "test_scales",
    "test_flip",
    "reduce",
    "pad",
    "multiple_of",
    "fill",
    "align_corners",
    "crf",
    "crf_image",
)


def selection(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of the choice (``selected_on``, ``selected_epoch``, ``selected_miou``) in the envelope of a file."""
    return {name: value for name, value in meta.items() if name.startswith("selected_")}


def conditions(meta: Mapping[str, Any]) -> dict[str, Any]:
    """All that a score has to say of the network, in the envelope of a file made with it; empty for other files."""
    return {**selection(meta), **{name: meta[name] for name in CONDITIONS if name in meta}}
