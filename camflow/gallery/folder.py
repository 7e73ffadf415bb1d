"""A folder that is either whole or absent."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from camflow.errors import StoreError
from camflow.store import is_full


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a new private folder beside ``path``; on success flush it to disk and rename it into place.

    A folder that is there is replaced. On any exception nothing is left behind; after a kill, only the private folder
    is, which ``camflow gc`` removes. A full disk becomes a ``StoreError`` that says so.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for folder, _, files in os.walk(temporary):
            for name in files:
                _flush(os.path.join(folder, name))
            _flush(folder)
        if path.is_dir():
            shutil.rmtree(path)
        os.rename(temporary, path)
        _flush(path.parent)
    except OSError as error:
        if is_full(error):
            raise StoreError(
                path, "no space left on the device; free some and run again (nothing was written)"
            ) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(path: str | Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
