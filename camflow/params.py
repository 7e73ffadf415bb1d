"""From a config entry to a stage's parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

Params = TypeVar("Params")


def from_config(kind: type[Params], entry: Mapping[str, Any]) -> Params:
    """Build a dataclass from the keys of a config entry that are its fields; lists become tuples."""
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{key: _frozen(value) for key, value in entry.items() if key in names})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
