"""Train DeepLab from files to files: what the script of its rule calls, and what those of the other methods share."""

from __future__ import annotations

from typing import Any

from camflow.data.catalog import Catalog
from camflow.errors import ConfigError
from camflow.params import from_config
from camflow.store import Store
from camflow.train.segment import PRESETS, SegmentParams, train_segmenter

OWN = "classifier"  # the value of ``weights`` that means those of the recipe's classifier
BY_LABELS = " (its labels)"


def train_deeplab_files(*, files: dict[str, str], parameters: dict[str, Any], options: dict[str, Any]) -> None:
    """Train on pseudo-masks.

    Args:
        files: ``catalog``, ``masks``, the ``classifier`` where there is one, ``monitor`` for validation.
        parameters: a config entry; a key without value takes that of its ``preset``.
        options: of ``camflow.train.segment.train_segmenter``.

    Raises:
        ConfigError: weights of a classifier in a recipe that has none.
    """
    given = with_weights({**PRESETS[parameters["preset"]], **parameters}, files)
    train_on(Store(files["masks"], stage="masks"), from_config(SegmentParams, given), files, options)


def train_on(labels: Store, params: SegmentParams, files: dict[str, str], options: dict[str, Any]) -> None:
    """Train plainly on label maps. Where these are predictions of a network that was chosen by a score, this one says so
    (``selected_on``), and so does all that is made with it."""
    chosen = labels.meta.get("selected_on")
    said = {"selected_on": chosen.removesuffix(BY_LABELS) + BY_LABELS} if chosen else {}
    meta = {**options["meta"], **said}
    train_segmenter(Catalog(files["catalog"]), labels, params, **validated(files), **{**options, "meta": meta})


def validated(files: dict[str, str]) -> dict[str, Any]:
    """The argument of all trainings that names the validation photos."""
    return {"catalog_val": Catalog(files["monitor"]) if "monitor" in files else None}


def with_weights(parameters: dict[str, Any], files: dict[str, str]) -> dict[str, Any]:
    """Parameters whose ``weights`` are a file where they were those of the recipe's classifier."""
    if parameters["weights"] != OWN:
        return parameters
    if "classifier" not in files:
        raise ConfigError(f"weights: {OWN} needs a recipe with a classifier; give none, a release or a file instead")
    return {**parameters, "weights": files["classifier"]}
