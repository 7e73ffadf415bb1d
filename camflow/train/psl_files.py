"""Train PSL and PSL++ from files to files: what the script of their rule calls."""

from __future__ import annotations

from typing import Any

from camflow.data.catalog import Catalog
from camflow.params import from_config
from camflow.store import Store
from camflow.train.psl import PslParams, train_psl
from camflow.train.segment import PRESETS, SegmentParams
from camflow.train.segment_files import train_on, validated, with_weights


def train_psl_files(*, files: dict[str, str], parameters: dict[str, Any], options: dict[str, Any]) -> None:
    """Train by PSL; where ``after`` names a trained one (PSL++), plainly on what that predicts with its CRF.

    Args:
        files: as of ``camflow.train.segment_files.train_deeplab_files``, with ``confidence`` and ``after``.
        parameters, options: as there.
    """
    given = with_weights(parameters, files)
    if "after" in files:
        params = from_config(SegmentParams, {**PRESETS["psl"], **given})
        train_on(Store(files["after"], stage="masks"), params, files, options)
        return
    catalog, masks = Catalog(files["catalog"]), Store(files["masks"], stage="masks")
    confidence = Store(files["confidence"], stage="confidence")
    train_psl(catalog, masks, confidence, from_config(PslParams, given), **validated(files), **options)
