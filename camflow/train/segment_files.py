"""Train segmentation networks from files to files: what the scripts of their rules call."""

from __future__ import annotations

from typing import Any

from camflow.data.catalog import Catalog
from camflow.errors import ConfigError
from camflow.params import from_config
from camflow.store import Store
from camflow.train.cct import CctParams, TrueMasks, train_cct
from camflow.train.psl import PslParams, train_psl
from camflow.train.segment import PRESETS, SegmentParams, train_segmenter

OWN = "classifier"  # the value of ``weights`` that means those of the recipe's classifier


def train_deeplab_files(*, files: dict[str, str], parameters: dict[str, Any], options: dict[str, Any]) -> None:
    """Train on pseudo-masks.

    Args:
        files: ``catalog``, ``masks``, the ``classifier`` where there is one, ``monitor`` for validation.
        parameters: a config entry; a key without value takes that of its ``preset``.
        options: of ``camflow.train.segment.train_segmenter``.

    Raises:
        ConfigError: weights of a classifier in a recipe that has none.
    """
    given = _with_weights({**PRESETS[parameters["preset"]], **parameters}, files)
    train_segmenter(_photos(files), _masks(files), from_config(SegmentParams, given), **_validated(files), **options)


def train_psl_files(*, files: dict[str, str], parameters: dict[str, Any], options: dict[str, Any]) -> None:
    """Train by PSL; where ``after`` names a trained one (PSL++), plainly on what that predicts with its CRF.

    Args:
        files: as of ``train_deeplab_files``, with ``confidence`` and ``after``.
        parameters, options: as there.
    """
    given = _with_weights(parameters, files)
    validated = _validated(files)
    if "after" in files:
        params = from_config(SegmentParams, {**PRESETS["psl"], **given})
        train_segmenter(_photos(files), Store(files["after"], stage="masks"), params, **validated, **options)
        return
    params, confidence = from_config(PslParams, given), Store(files["confidence"], stage="confidence")
    train_psl(_photos(files), _masks(files), confidence, params, **validated, **options)


def train_cct_files(*, files: dict[str, str], parameters: dict[str, Any], options: dict[str, Any]) -> None:
    """Train with the true masks of a few images and pseudo-masks, or nothing, for the others; see
    ``train_deeplab_files``."""
    catalog, params = _photos(files), from_config(CctParams, _with_weights(parameters, files))
    train_cct(catalog, TrueMasks(catalog), _masks(files), params, **_validated(files), **options)


def _photos(files: dict[str, str]) -> Catalog:
    return Catalog(files["catalog"])


def _masks(files: dict[str, str]) -> Store:
    return Store(files["masks"], stage="masks")


def _validated(files: dict[str, str]) -> dict[str, Any]:
    return {"catalog_val": Catalog(files["monitor"]) if "monitor" in files else None}


def _with_weights(parameters: dict[str, Any], files: dict[str, str]) -> dict[str, Any]:
    if parameters["weights"] != OWN:
        return parameters
    if "classifier" not in files:
        raise ConfigError(f"weights: {OWN} needs a recipe with a classifier; give none, a release or a file instead")
    return {**parameters, "weights": files["classifier"]}
