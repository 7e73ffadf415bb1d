"""Configs that differ from one at hand in a few places, and notes beside the checkout."""

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

METHODS = Path(os.environ.get("CAMFLOW_METHODS", Path(__file__).resolve().parents[2] / "shared" / "methods"))
# Paper -> the notes that its published values were taken from.
NOTES = {
    "advcam": "advcam_irn_psa.md", "lpcam": "lpcam_ae_deeplab.md", "ae": "lpcam_ae_deeplab.md",
    "has": "casme_has_wsol.md", "casm": "casme_has_wsol.md",
}  # fmt: skip


def shared_methods() -> dict[str, str]:
    """Paper -> text of its notes, which lie beside the checkout; skips the test where they do not."""
    if not METHODS.is_dir():
        pytest.skip(f"no notes on the methods in {METHODS}; CAMFLOW_METHODS names another folder")
    return {paper: (METHODS / name).read_text(encoding="utf-8") for paper, name in NOTES.items()}


def with_places(config: Mapping[str, Any], places: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a config with values set at dotted places, such as ``localizers.cam.scales``."""
    changed = copy.deepcopy(dict(config))
    for place, value in places.items():
        *sections, key = place.split(".")
        part = changed
        for section in sections:
            part = part.setdefault(section, {})
        part[key] = value
    return changed
