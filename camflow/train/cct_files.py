"""Train CCT from files to files: what the script of its rule calls."""

from __future__ import annotations

from typing import Any

from camflow.data.catalog import Catalog
from camflow.params import from_config
from camflow.store import Store
from camflow.train.cct import CctParams, TrueMasks, train_cct
from camflow.train.segment_files import validated, with_weights


def train_cct_files(*, files: dict[str, str], parameters: dict[str, Any], options: dict[str, Any]) -> None:
    """Train with the true masks of a few images and pseudo-masks, or nothing, for the others.

    Args:
        files, parameters, options: as of ``camflow.train.segment_files.train_deeplab_files``.
    """
    catalog, params = Catalog(files["catalog"]), from_config(CctParams, with_weights(parameters, files))
    weak = Store(files["masks"], stage="masks")
    train_cct(catalog, TrueMasks(catalog), weak, params, **validated(files), **options)
