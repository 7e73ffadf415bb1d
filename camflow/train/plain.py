"""Train from files to files: what the scripts of the classifier rules call."""

from __future__ import annotations

from typing import Any, Unpack

from camflow.data.catalog import Catalog
from camflow.params import from_config
from camflow.train.classify import PlainParams, train_classifier
from camflow.train.tofile import Run


def train_plain(
    *,
    catalog: str,
    monitor: str | None,
    parameters: dict[str, Any],
    **run: Unpack[Run],
) -> None:
    """Train a plain classifier; all arguments are JSON-able, so that torchrun can pass them on."""
    train_classifier(
        Catalog(catalog),
        Catalog(monitor) if monitor else None,
        from_config(PlainParams, parameters),
        **run,
    )
