"""Train SEAM from files to files: what the script of its rule calls."""

from __future__ import annotations

import dataclasses
from typing import Any, Unpack

from camflow.data.catalog import Catalog
from camflow.errors import ConfigError
from camflow.params import from_config
from camflow.train.seam import SeamParams, train_seam
from camflow.train.tofile import Run


def train_seam_files(
    *,
    catalog: str,
    monitor: str | None,
    warm_start: str | None,
    parameters: dict[str, Any],
    **run: Unpack[Run],
) -> None:
    """Train a SEAM classifier; all arguments are JSON-able, so that torchrun can pass them on.

    Raises:
        ConfigError: a classifier to start from and initial weights are both given.
    """
    params = from_config(SeamParams, parameters)
    if warm_start:
        if params.weights != "none":
            raise ConfigError(
                f"warm_start: {parameters['warm_start']} and weights: {params.weights} are two initial states; "
                "set one of them to null or none"
            )
        params = dataclasses.replace(params, weights=warm_start)
    train_seam(Catalog(catalog), Catalog(monitor) if monitor else None, params, **run)
