"""Checkpoints: whole or absent, checked by digest, bound to one key, the last two kept.

File: one header line ``camflow-checkpoint 1 <sha256 of the rest>`` and then what ``torch.save`` writes. Torch's own
archive does not detect a flipped bit inside a tensor.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
from pathlib import Path
from typing import Any

import torch

from camflow.store import atomic_path

log = logging.getLogger(__name__)

_MAGIC = b"camflow-checkpoint 1 "
_NAME = re.compile(r"epoch-(\d{5})\.ckpt")
_KEPT = 2


def save_checkpoint(folder: Path, epochs_done: int, state: dict[str, Any], key: str) -> None:
    """Write the checkpoint after ``epochs_done`` epochs and remove all but the last two."""
    buffer = io.BytesIO()
    torch.save({"key": key, "epochs_done": epochs_done, **state}, buffer)
    payload = buffer.getvalue()
    with atomic_path(folder / f"epoch-{epochs_done:05d}.ckpt") as temporary, open(temporary, "wb") as handle:
        handle.write(_MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n")
        handle.write(payload)
    for old in sorted(_checkpoints(folder))[:-_KEPT]:
        old.unlink(missing_ok=True)


def load_latest(folder: Path, key: str) -> dict[str, Any] | None:
    """Return the newest usable checkpoint of this key, or None.

    Unusable ones (torn, altered, of another key) are named in the log and removed, so that they cannot push a good one
    out of the last two.
    """
    for path in sorted(_checkpoints(folder), reverse=True):
        state, problem = _read(path, key)
        if state is not None:
            return state
        log.warning("%s %s; it is ignored and removed", path, problem)
        path.unlink(missing_ok=True)
    return None


def remove_checkpoints(folder: Path) -> None:
    """Remove every checkpoint, and what writes that were killed left behind."""
    for path in [*_checkpoints(folder), *_leftovers(folder)]:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of writes that were killed: checkpoints, and the metrics beside them."""
    for path in _leftovers(folder):
        path.unlink(missing_ok=True)


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []


def _leftovers(folder: Path) -> list[Path]:
    return [*folder.glob(".epoch-*.ckpt.*.tmp"), *folder.glob(".metrics.csv.*.tmp")]


def _read(path: Path, key: str) -> tuple[dict[str, Any] | None, str]:
    """Return (state, "") or (None, what is wrong)."""
    header, _, payload = path.read_bytes().partition(b"\n")
    if header != _MAGIC + hashlib.sha256(payload).hexdigest().encode():
        return None, "is torn or corrupt"
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types; the digest fits, so another version of torch wrote it
        return None, f"cannot be read by this version of torch ({type(error).__name__})"
    if state["key"] != key:
        return None, f"was made under another key ({state['key']}, wanted {key})"
    return state, ""
