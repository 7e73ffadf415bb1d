"""Errors a user can mend: one sentence that names the thing and the remedy, shown without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class CamflowError(Exception):
    """Base of every error that is the user's to mend."""


class ConfigError(CamflowError):
    """The configuration is wrong: an unknown key, a wrong type, a value out of range."""


class RecipeError(CamflowError):
    """A path does not spell a recipe, or its parts do not fit together."""


class DataError(CamflowError):
    """A dataset is missing, unreadable or inconsistent."""


class StoreError(CamflowError):
    """A result file is missing, torn, corrupt or made by another recipe."""

    def __init__(self, path: str | Path, problem: str):
        self.path = Path(path)
        super().__init__(str(path), problem)  # its arguments, so that it can come back from a worker process

    def __str__(self) -> str:
        return ": ".join(self.args)


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """The end of an error message: ``"; did you mean 'x'?"``, or all valid names when none is near."""
    options = sorted(map(str, options))
    close = difflib.get_close_matches(str(name), options, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f". Valid names: {', '.join(options)}." if options else "."
