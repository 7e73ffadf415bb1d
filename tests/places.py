"""Configs that differ from one at hand in a few places."""

import copy
from collections.abc import Mapping
from typing import Any


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
