"""Train AMN from files to files: what the script of its rule calls."""

from __future__ import annotations

import dataclasses
from typing import Any, Unpack

from camflow.data.catalog import Catalog
from camflow.params import from_config
from camflow.store import Store
from camflow.train.amn import AmnParams, train_amn
from camflow.train.tofile import Run


def train_amn_files(
    *,
    catalog: str,
    labels: str,
    warm_start: str | None,
    parameters: dict[str, Any],
    **run: Unpack[Run],
) -> None:
    """Train an AMN on label maps; all arguments are JSON-able, so that torchrun can pass them on."""
    params = from_config(AmnParams, parameters)
    if warm_start:
        params = dataclasses.replace(params, weights=warm_start)
    train_amn(Catalog(catalog), Store(labels, stage="masks"), params, **run)
