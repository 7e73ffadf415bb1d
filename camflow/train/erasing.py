"""Train a round of adversarial erasing from files to files: what the script of its rule calls."""

from __future__ import annotations

import dataclasses
from typing import Any, Unpack

from camflow.data.catalog import Catalog
from camflow.data.erased import ErasedCatalog, ErasedSamples, ErasedStore
from camflow.models.backbones import IMAGENET_MEAN
from camflow.params import from_config
from camflow.train.classify import PlainParams, train_classifier
from camflow.train.tofile import Run


def train_erasing(
    *,
    catalog: str,
    monitor: str | None,
    erased: str | None,
    before: str | None,
    parameters: dict[str, Any],
    **run: Unpack[Run],
) -> None:
    """Train the classifier of a round; all arguments are JSON-able, so that torchrun can pass them on.

    Args:
        erased: what the rounds before found, see ``camflow.localize.erasing``; None in the first round.
        before: the classifier of the round before, which ``restart: before`` goes on from.
        others: as of ``camflow.train.plain.train_plain``. Validation photos are not erased.
    """
    params, train = from_config(PlainParams, parameters), Catalog(catalog)
    if before and parameters["restart"] == "before":
        params = dataclasses.replace(params, weights=before)
    run["meta"] = {**run["meta"], "method": "adversarial_erasing"}
    train_classifier(
        ErasedCatalog(train, ErasedStore(erased), IMAGENET_MEAN) if erased else train,
        Catalog(monitor) if monitor else None,
        params,
        samples=ErasedSamples if erased else None,
        **run,
    )
