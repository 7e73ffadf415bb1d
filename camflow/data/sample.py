"""A fixed sample of a list of ids."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

from camflow.errors import DataError


def in_sample_order(ids: Sequence[str]) -> list[str]:
    """The ids by their hashes: the first few are a sample that hardly changes when images are added."""
    return sorted(ids, key=lambda item: hashlib.sha256(item.encode()).digest())


def sample(ids: Sequence[str], count: int) -> list[str]:
    """The first of them, sorted by id."""
    return sorted(in_sample_order(ids)[:count])


def sampled(catalog: Any, count: int | None, *, masks: bool = False) -> list[str]:
    """Ids of a fixed sample of the images with a present class (and, if asked for, a mask); None takes all.

    ``catalog`` is a ``camflow.data.catalog.Catalog``. Raises ``DataError`` when there are none.
    """
    fitting = (i for i in in_sample_order(catalog.ids) if catalog.label(i).any())
    if masks:  # decoded one by one until there are enough
        fitting = (i for i in fitting if catalog.mask(i) is not None)
    ids = sorted(itertools.islice(fitting, count))
    if not ids:
        what = "a class and a mask" if masks else "a class"
        raise DataError(f"no image of split '{catalog.split}' of '{catalog.dataset}' has {what}; study another split")
    return ids
