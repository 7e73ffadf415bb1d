"""A folder that is either whole or absent."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from camflow.store import flush, naming_a_full_disk


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
        with naming_a_full_disk(path):
            yield temporary
            for folder, _, files in os.walk(temporary):
                for name in files:
                    flush(os.path.join(folder, name))
                flush(folder)
            if path.is_dir():
                shutil.rmtree(path)
            os.rename(temporary, path)
            flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
