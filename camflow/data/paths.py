"""Paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path


def expand(path: str | Path) -> Path:
    """A path with ``~`` and environment variables filled in."""
    return Path(os.path.expandvars(os.path.expanduser(path)))
