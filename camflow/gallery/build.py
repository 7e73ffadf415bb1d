"""Write the gallery of a split: the page, an index of all images, and their pictures in chunks.

Everything a page loads is a script, since browsers fetch nothing else from disk::

    index.html                 the page
    files/*.css, *.js          how it looks and works
    files/index.js             ids, classes and scores of all images: what filters and sorts
    files/pairs/<k>.js         disagreement of recipe k with each later one, for all images; loaded when sorted by
    files/chunks/<n>.js        pictures and scores by class of ``CHUNK`` images; loaded when seen
    files/summary.json         what the list of galleries says of this one

That is ``images / CHUNK + recipes + 6`` files. Images are worked on one by one and each chunk is written when it is
full, so memory does not grow with their number but for their scores (2 bytes a recipe and a pair of recipes).
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from array import array
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from camflow.data.catalog import Catalog
from camflow.data.palette import voc_palette
from camflow.data.sample import sample
from camflow.gallery.compare import disagreement, image_iou, settled
from camflow.gallery.folder import atomic_folder
from camflow.gallery.pictures import heat_png, label_png, photo_jpeg, thumbnail_size
from camflow.gallery.recipes import Recipe
from camflow.refine.driver import ordered_map

CHUNK = 8  # images a file: sorted pages need one file an image at worst, and 10,000 images make 1,250 files
STEPS = 10_000  # a share is kept as a whole number of ten-thousandths ...
UNDEFINED = 65_535  # ... or this


@dataclass(frozen=True)
class GalleryParams:
    """Settings of a gallery.

    Attributes:
        images: number of images, a fixed sample; None shows all.
        page: images a page.
        thumbnail: longest side of the pictures in pixels.
        ignored_prediction: what a predicted 255 counts as, see ``camflow.evaluate.scores.ScoreParams``.
    """

    images: int | None = None
    page: int = 60
    thumbnail: int = 192
    ignored_prediction: str = "background"


@dataclass(frozen=True)
class Shown:
    """What the gallery says of one image.

    Attributes:
        entry: its part of a chunk.
        size: (height, width) of its pictures.
        iou: of each recipe, in ten-thousandths.
        apart: disagreement of each pair of recipes, in the order of ``itertools.combinations``, in ten-thousandths.
    """

    entry: dict[str, Any]
    size: tuple[int, int]
    iou: tuple[int, ...]
    apart: tuple[int, ...]


def show_image(catalog: Catalog, recipes: Sequence[Recipe], params: GalleryParams, image_id: str) -> Shown:
    """Pictures and scores of one image. Raises ``DataError`` or ``StoreError`` naming it."""
    photo, size = catalog.image(image_id), catalog.size(image_id)
    truth = catalog.mask(image_id) if catalog.has_masks else None
    small, n_labels = thumbnail_size(size, params.thumbnail), len(catalog.class_names) + 1
    layers, labelled, means = [], [], []
    for recipe in recipes:
        heat, labels = recipe.read(image_id, size)
        layer: dict[str, Any] = {} if heat is None else {"heat": _text(heat_png(heat, small))}
        mean = math.nan
        if labels is not None:
            layer["labels"] = _text(label_png(labels, small))
            labels = settled(labels, params.ignored_prediction)
            if truth is not None:
                mean, by_label = image_iou(truth, labels, n_labels, image_id)
                layer["iou"] = {label: round(value, 4) for label, value in by_label.items()}
        layers.append(layer)
        labelled.append(labels)
        means.append(mean)
    apart = [
        math.nan if first is None or second is None else disagreement(first, second, n_labels, image_id)
        for first, second in itertools.combinations(labelled, 2)
    ]
    entry = {
        "photo": _text(photo_jpeg(photo, small)),
        "truth": None if truth is None else _text(label_png(truth, small)),
        "layers": layers,
    }
    return Shown(entry, small, tuple(map(_parts, means)), tuple(map(_parts, apart)))


def write_gallery(
    folder: str | Path,
    catalog: Catalog,
    recipes: Sequence[Recipe],
    params: GalleryParams,
    *,
    jobs: int = 1,
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Write the gallery of a catalog's images into a folder that appears whole, or not at all.

    Args:
        folder: the new folder; one that is there is replaced.
        catalog: the images, with their true masks where there are any.
        recipes: the columns, in order.
        params: settings.
        jobs: worker processes (spawned: a calling script needs ``if __name__ == "__main__":``). The files do not depend
            on their number.
        progress: called with 1 after every image.

    Raises:
        StoreError: an image is missing in a store; the disk is full.
        DataError: maps, masks and photo do not fit; names the image.
    """
    ids = list(catalog.ids) if params.images is None else sample(catalog.ids, params.images)
    iou = [array("H") for _ in recipes]
    pairs = list(itertools.combinations(range(len(recipes)), 2))
    apart = {pair: array("H") for pair in pairs}
    sizes: list[list[int]] = []
    chunk: list[dict[str, Any]] = []
    work = functools.partial(show_image, catalog, recipes, params)
    with atomic_folder(folder) as temporary:
        files = temporary / "files"
        for name in ("chunks", "pairs"):
            (files / name).mkdir(parents=True)
        for number, shown in enumerate(ordered_map(work, ids, jobs), 1):
            chunk.append(shown.entry)
            sizes.append([shown.size[1], shown.size[0]])
            for values, value in itertools.chain(
                zip(iou, shown.iou, strict=True), zip(apart.values(), shown.apart, strict=True)
            ):
                values.append(value)
            if len(chunk) == CHUNK or number == len(ids):
                name = f"{(number - 1) // CHUNK:05d}"
                _script(files / "chunks" / f"{name}.js", "chunk", name, chunk)
                chunk = []
            if progress is not None:
                progress(1)
        for k in range(len(recipes) - 1):
            values = {other: _text(_little(apart[k, other])) for other in range(k + 1, len(recipes))}
            _script(files / "pairs" / f"{k}.js", "pairs", k, values)
        _script(files / "index.js", "open", _index(catalog, recipes, params, ids, sizes, iou))
        summary = _summary(catalog, recipes, ids, iou)
        (files / "summary.json").write_text(json.dumps(summary, sort_keys=True, indent=1) + "\n", encoding="utf-8")
        _copy_page(temporary)


def _index(
    catalog: Catalog,
    recipes: Sequence[Recipe],
    params: GalleryParams,
    ids: list[str],
    sizes: list[list[int]],
    iou: list[array],
) -> dict[str, Any]:
    """What the page knows of all images when it opens."""
    palette = voc_palette()
    names = ["background", *catalog.class_names]
    return {
        "dataset": catalog.dataset,
        "split": catalog.split,
        "total": len(catalog.ids),
        "page": params.page,
        "chunk": CHUNK,
        "truth": bool(catalog.has_masks),
        "undecided": params.ignored_prediction,
        "classes": [
            {"name": name, "colour": "#{:02x}{:02x}{:02x}".format(*palette[label % 256])}
            for label, name in enumerate(names)
        ],
        "recipes": [
            {
                "name": recipe.name,
                "shows": recipe.shows,
                "heat": recipe.maps is not None,
                "labels": recipe.has_labels,
                "threshold": recipe.threshold,
            }
            for recipe in recipes
        ],
        "ids": ids,
        "sizes": sizes,
        # Labels, as in the label maps: class index + 1.
        "shown": [(catalog.label(image_id).nonzero()[0] + 1).tolist() for image_id in ids],
        "iou": [_text(_little(values)) for values in iou],
    }


def _summary(catalog: Catalog, recipes: Sequence[Recipe], ids: list[str], iou: list[array]) -> dict[str, Any]:
    """What the list of galleries says of this one; means are over the images that have an IoU."""
    means = []
    for values in iou:
        known = [value for value in values if value != UNDEFINED]
        means.append(round(sum(known) / len(known) / STEPS, 4) if known else None)
    return {
        "dataset": catalog.dataset,
        "split": catalog.split,
        "images": len(ids),
        "total": len(catalog.ids),
        "classes": len(catalog.class_names),
        "recipes": [{"name": recipe.name, "iou": mean} for recipe, mean in zip(recipes, means, strict=True)],
    }


def _copy_page(folder: Path) -> None:
    page = resources.files("camflow.gallery") / "page"
    for asset in sorted(page.iterdir(), key=lambda item: item.name):
        if asset.name == "index.html":
            (folder / asset.name).write_bytes(asset.read_bytes())
        elif asset.name != "list.html":
            (folder / "files" / asset.name).write_bytes(asset.read_bytes())


def _script(path: Path, function: str, *arguments: Any) -> None:
    """A script that hands its arguments to a function of the page. JSON in ASCII is JavaScript."""
    text = ",".join(json.dumps(value, separators=(",", ":"), allow_nan=False) for value in arguments)
    path.write_text(f"gallery.{function}({text});\n", encoding="ascii")


def _parts(share: float) -> int:
    return UNDEFINED if math.isnan(share) else round(share * STEPS)


def _little(values: array) -> bytes:
    """Whole numbers of 16 bits, the lower byte first on every machine."""
    return b"".join(value.to_bytes(2, "little") for value in values)


def _text(data: bytes) -> str:
    return b64encode(data).decode("ascii")
