"""A fixed sample of a list of ids."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def in_sample_order(ids: Sequence[str]) -> list[str]:
    """The ids by their hashes: the first few are a sample that hardly changes when images are added."""
    return sorted(ids, key=lambda item: hashlib.sha256(item.encode()).digest())


def sample(ids: Sequence[str], count: int) -> list[str]:
    """The first of them, sorted by id."""
    return sorted(in_sample_order(ids)[:count])
