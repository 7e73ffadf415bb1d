"""Train MCTformer from files to files: what the script of its rule calls."""

from __future__ import annotations

from typing import Any, Unpack

from camflow.data.catalog import Catalog
from camflow.params import from_config
from camflow.train.mctformer import MctFormerParams, train_mctformer
from camflow.train.tofile import Run


def train_mctformer_files(
    *,
    catalog: str,
    monitor: str | None,
    parameters: dict[str, Any],
    **run: Unpack[Run],
) -> None:
    """Train an MCTformer; all arguments are JSON-able, so that torchrun can pass them on."""
    train_mctformer(
        Catalog(catalog),
        Catalog(monitor) if monitor else None,
        from_config(MctFormerParams, parameters),
        **run,
    )
