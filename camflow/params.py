"""From a config entry to a stage's parameters."""

from __future__ import annotations

import dataclasses
import keyword
from collections.abc import Mapping
from typing import Any, TypeVar

Params = TypeVar("Params")


def from_config(kind: type[Params], entry: Mapping[str, Any]) -> Params:
    """Build a dataclass from the keys of a config entry that are its fields; lists become tuples.

    A key that Python keeps for itself (``lambda``) is the field with an underscore behind it.
    """
    names = {field.name for field in dataclasses.fields(kind)}
    given = {key + "_" if keyword.iskeyword(key) else key: value for key, value in entry.items()}
    return kind(**{key: _frozen(value) for key, value in given.items() if key in names})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
