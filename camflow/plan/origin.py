"""Whether a file of the store is what its path says: its envelope names the segments and the token of the path.

Only envelopes are read, so this costs milliseconds whatever the size of the file.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from camflow.errors import StoreError
from camflow.store import Store, read_json


def check_origin(path: Path) -> None:
    """Refuse a file of the store that was made for another path, and for an index each of its shards.

    Raises:
        StoreError: the file is damaged, or its envelope names another recipe, key or token.
    """
    place = _place(path)
    if place is None:
        return
    if path.suffix == ".h5":
        store = Store(path)
        _compare(path, place, store.meta)
        for shard in store.shard_paths():
            if shard.exists():  # a missing shard is reported by the stage that reads it
                _compare(shard, _place(shard), Store(shard).meta)
        store.close()
    elif path.suffix == ".json" and path.name.startswith("score."):
        score = read_json(path)
        _compare(path, place, score if isinstance(score, dict) else {})
    elif path.suffix == ".pt":
        _check_network(path, place[0])


def _place(path: Path) -> tuple[list[str], str] | None:
    """Segments and token that a path of the store spells; ``None`` for any other path."""
    parts = path.parts
    if "store" not in parts:
        return None
    segments = list(parts[len(parts) - parts[::-1].index("store") : -1])
    if segments and segments[-1].endswith(".shards"):
        segments.pop()
    return segments, path.stem.rpartition("-")[2] if "-" in path.stem else ""


def _compare(path: Path, place: tuple[list[str], str] | None, meta: dict[str, Any]) -> None:
    found = meta.get("segments"), meta.get("token", "")
    if place is not None and found != place:
        of = "/".join(found[0] or ["no recipe"]) + (f", {found[1]}" if found[1] else "")
        raise StoreError(path, f"was made for another path ({of}); delete it and run again")


def _check_network(path: Path, segments: list[str]) -> None:
    # A network is a zip archive whose first member holds the envelope as JSON text; its weights need not be read.
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            envelope = archive.read(name)
    except (OSError, zipfile.BadZipFile, StopIteration):
        return  # no whole archive; reading the network says so
    if json.dumps(segments).encode() not in envelope:
        raise StoreError(path, f"was made for another path than {'/'.join(segments)}; delete it and run again")
