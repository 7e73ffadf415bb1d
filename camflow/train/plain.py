"""Train from files to files: what the scripts of the classifier rules call."""

from __future__ import annotations

from typing import Any

from camflow.data.catalog import Catalog
from camflow.params import from_config
from camflow.train.classify import PlainParams, train_classifier


def train_plain(
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
    """Train a plain classifier; all arguments are JSON-able, so that torchrun can pass them on."""
    train_classifier(
        Catalog(catalog),
        Catalog(monitor) if monitor else None,
        from_config(PlainParams, parameters),
        out=out,
        metrics_csv=metrics_csv,
        scratch=scratch,
        key=key,
        device=device,
        workers=workers,
        meta=meta,
    )
