"""Folders that parameters name (``x-folder``): which of their files belong to the images of a split, and their digests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from camflow.errors import ConfigError
from camflow.plan.keys import digest


def named_folders(where: str, item: Mapping[str, Any], rules: Mapping[str, Any]) -> dict[str, Path]:
    """The folders that an instance's parameters name, by parameter.

    Raises ``ConfigError`` for one that is not there, unless the parameter may also name something else.
    """
    found = {}
    for key, rule in rules.items():
        value = item.get(key)
        if not rule.get("x-folder") or not value:
            continue
        folder = Path(value).expanduser()
        if folder.is_dir():
            found[key] = folder
        elif not rule.get("x-recipe"):
            raise ConfigError(
                f"{where}.{key}: there is no folder {value}; correct the path (relative to the working folder)"
            )
    return found


def digest_folder(folder: Path, ids: Iterable[str] | None, digests: Callable[[list[Path]], Mapping[Path, str]]) -> str:
    """Digest of the names and contents of the files of some images.

    Args:
        folder: searched with what is below it; hidden files are passed over.
        ids: of the images; None takes all files.
        digests: of files, such as ``FileDigests.of``.
    """
    wanted = None if ids is None else set(ids)
    files = [path for path in _files(folder) if wanted is None or wanted & set(owners(path))]
    found = digests([folder / path for path in files])
    return digest([[path, found[folder / path]] for path in files])


def owners(path: str) -> list[str]:
    """Ids of the images that a file may belong to by its name: ``<id>.png``, ``<id>_<class>.png``, ``<class>/<id>.png``."""
    stem = os.path.splitext(path)[0]
    return [stem, *(stem[:n] for n, letter in enumerate(stem) if letter == "_"), stem.partition("/")[2]]


def _files(folder: Path) -> list[str]:
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.relpath(os.path.join(place, name), folder) for name in names if not name.startswith(".")]
    return sorted(found)
