"""Whether a network was chosen by a validation score, which everything made with it says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def selection(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of the choice (``selected_on``, ``selected_epoch``, ``selected_miou``) in the envelope of a file."""
    return {name: value for name, value in meta.items() if name.startswith("selected_")}
