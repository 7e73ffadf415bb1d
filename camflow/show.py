"""``camflow show``: what a store holds, and a picture of any image in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from camflow.errors import CamflowError, did_you_mean
from camflow.store import Store


def describe(store: Store, console: Console, limit: int = 10) -> None:
    """Print the envelope and the first images of a store."""
    is_catalog = store.stage == "catalog"  # which holds tables, not arrays by image
    count = len(store.table("image_id")) if is_catalog else len(store)
    console.print(
        f"[bold]{escape(str(store.path))}[/]  stage [bold]{store.stage}[/], {count} images, {store.shards or 'no'} shards",
        soft_wrap=True,
    )
    for name in ("recipe", "target", "key", "token"):
        if store.meta.get(name):
            console.print(f"  {name}: {escape(str(store.meta[name]))}", soft_wrap=True)
    console.print("  classes:", escape(", ".join(store.class_names)), highlight=False)
    console.print("  parameters:", store.meta.get("parameters", {}))
    console.print("  software:", store.meta.get("software", {}))
    console.print("  tables:", ", ".join(store.tables()))
    rows = Table("image", "shape", "dtype", "range", "attributes")
    for image_id in store.ids[:limit] if not is_catalog else []:
        array = store.read(image_id)
        values = f"{array.min():.4g} .. {array.max():.4g}" if array.size else "empty"
        attrs = {key: np.asarray(value).tolist() for key, value in store.attrs(image_id).items()}
        rows.add_row(escape(image_id), str(array.shape), str(array.dtype), values, escape(str(attrs)))
    if rows.row_count:
        console.print(rows)
    if rows.row_count < count and not is_catalog:
        console.print(f"  ... and {count - rows.row_count} more (--images N shows N)")


def picture(store: Store, image_id: str, out: Path, catalog_path: str | None = None) -> None:
    """Write an overlay PNG of one image. Raises ``CamflowError`` when the id or the catalog is not found."""
    from camflow.data.catalog import Catalog
    from camflow.plots import style
    from camflow.plots.overlays import SeedMaps, full_size_maps

    catalog = Catalog(catalog_path or (store.path if store.stage == "catalog" else find_catalog(store)))
    if image_id not in set(catalog.ids):
        raise CamflowError(f"{store.path} has no image '{image_id}'{did_you_mean(image_id, catalog.ids[:2000])}")
    photo = catalog.image(image_id)
    columns, pictures = ["photo"], [photo]
    truth = catalog.mask(image_id) if catalog.has_masks else None
    if truth is not None:
        columns.append("truth")
        pictures.append(style.overlay(photo, truth))
    if store.stage == "maps":
        seed = SeedMaps.unpack(store.read(image_id), store.attrs(image_id))
        for index, score in zip(seed.classes, full_size_maps(seed), strict=True):
            columns.append(store.class_names[int(index)])
            pictures.append(style.heat(photo, score))
    elif store.stage == "masks":
        columns.append("mask")
        pictures.append(style.overlay(photo, store.read(image_id)))
    style.save(style.grid([pictures], columns, [image_id], str(store.meta.get("target", store.path.name))), out)


def find_catalog(store: Store) -> Path:
    """The catalog a store was made from: in a folder above it."""
    target = str(store.meta.get("target", "")) or store.path.resolve().name
    split = (target.rsplit("/", 1)[-1].split(".")[1:] or ["SPLIT"])[0]
    for folder in store.path.resolve().parents:
        found = sorted(folder.glob(f"catalog.{split}-*.h5"), key=lambda path: path.stat().st_mtime)
        if found:
            return found[-1]
    raise CamflowError(f"{store.path}: found no catalog.{split}-*.h5 in the folders above it; give one with --catalog")
