"""Train MCTformer from files to files: what the script of its rule calls."""

from __future__ import annotations

from typing import Any

from camflow.data.catalog import Catalog
from camflow.params import from_config
from camflow.train.mctformer import MctFormerParams, train_mctformer


def train_mctformer_files(
    *,
    catalog: str,
    monitor: str | None,
    parameters: dict[str, Any],
    out: str,
    metrics_csv: str,
    scratch: str,
    key: str,
    device: str,
    workers: int,
    meta: dict[str, Any],
) -> None:
    """Train an MCTformer; all arguments are JSON-able, so that torchrun can pass them on."""
    train_mctformer(
        Catalog(catalog),
        Catalog(monitor) if monitor else None,
        from_config(MctFormerParams, parameters),
        out=out,
        metrics_csv=metrics_csv,
        scratch=scratch,
        key=key,
        device=device,
        workers=workers,
        meta=meta,
    )
