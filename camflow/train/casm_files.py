"""Train a classifier with a masker from files to files: what the script of its rule calls."""

from __future__ import annotations

from typing import Any

from camflow.data.catalog import Catalog
from camflow.train.casm import casm_from_config, train_casm


def train_casm_files(
    *,
    catalog: str,
    monitor: str | None,
    warm_start: str | None,
    parameters: dict[str, Any],
    out: str,
    metrics_csv: str,
    scratch: str,
    key: str,
    device: str,
    workers: int,
    meta: dict[str, Any],
) -> None:
    """Train by CASM; all arguments are JSON-able, so that torchrun can pass them on.

    Args:
        warm_start: file of a trained classifier, or None.
        parameters: a config entry; a key without value takes that of its ``preset``.
        others: see ``camflow.train.casm.train_casm``.
    """
    train_casm(
        Catalog(catalog),
        Catalog(monitor) if monitor else None,
        casm_from_config(parameters),
        out=out,
        metrics_csv=metrics_csv,
        scratch=scratch,
        key=key,
        device=device,
        workers=workers,
        meta=meta,
        warm_start=warm_start,
    )
