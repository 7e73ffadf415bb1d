"""Refine a split from files to a file: what the scripts of all per-image refiners share."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.errors import ConfigError
from camflow.refine.driver import Method, refine_maps
from camflow.store import Store, StoreWriter, read_json


def refine_files(
    method: Method,
    params: Any,
    threshold: float | str,
    *,
    maps: str,
    catalog: str,
    score: str | None,
    out: str,
    meta: dict[str, Any],
    jobs: int = 1,
    compression: str = "gzip",
    title: str = "refine",
) -> None:
    """Refine every image of a catalog.

    Args:
        method, params: see ``camflow.refine.driver``.
        threshold: background score, or ``"best"`` for the one of ``score``.
        maps, catalog, score: the seed maps, the split and (for ``"best"``) the seed's score.
        out: the pseudo-masks to write; the threshold used is in their envelope.
        meta, compression: of the store.
        jobs: worker processes.
        title: of the progress bar.
    """
    if threshold == "best":
        if score is None:
            raise ConfigError("threshold: best needs the score of the seed; give a number instead")
        threshold = read_json(score)["best"]["threshold"]
    images = Catalog(catalog)
    options = {"class_names": images.class_names, "meta": {**meta, "threshold": threshold}, "compression": compression}
    with (
        StoreWriter(out, stage="masks", **options) as writer,
        tqdm(total=len(images.ids), desc=title, unit="image") as bar,
    ):
        refine_maps(
            Store(maps, stage="maps"), images, method, params, threshold, writer, jobs=jobs, progress=bar.update
        )
