"""Train a classifier with a masker from files to files: what the script of its rule calls."""

from __future__ import annotations

from typing import Any, Unpack

from camflow.data.catalog import Catalog
from camflow.train.casm import casm_from_config, train_casm
from camflow.train.tofile import Run


def train_casm_files(
    *,
    catalog: str,
    monitor: str | None,
    warm_start: str | None,
    parameters: dict[str, Any],
    **run: Unpack[Run],
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
        warm_start=warm_start,
        **run,
    )
