"""What the galleries show, where they live and what decides them.

A gallery is a folder (its page loads its pictures when they are seen), so the store holds
``gallery/<dataset>-<token>/index.html`` with its ``files`` beside it. The folder is renamed into place whole; the
readable path is a link to the page and one to its files. A folder in the store rather than an archive that is unpacked:
the pictures are on disk once, and a link says by itself which key it shows.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from camflow.errors import ConfigError, RecipeError, did_you_mean
from camflow.plan import keys
from camflow.plan.recipe import KINDS, Target, target

PAGE = Path(__file__).resolve().parents[1] / "gallery" / "page"
LIST = "gallery/index.html"
SHOWS = {"localizer": "seed maps", "refiner": "pseudo-masks", "segmenter": "predictions after the CRF"}


def recipes(plan) -> dict[str, list[tuple[str, ...]]]:
    """Dataset -> the recipes that its gallery shows, the config's order.

    By default every configured recipe and every part of one that has maps. Raises ``RecipeError`` or ``ConfigError``.
    """
    patterns = plan.config["gallery"]["recipes"]
    found: dict[str, list[tuple[str, ...]]] = {}
    chosen = plan.prefixes if patterns is None else plan.expand(patterns, "gallery.recipes")
    for steps in chosen:
        fits = len(steps) >= 3 and not plan.is_temporal(steps[0]) and not plan.is_virtual(steps)
        if fits:
            found.setdefault(steps[0], []).append(steps)
        elif patterns is not None:
            raise ConfigError(
                f"gallery.recipes: '{'/'.join(steps)}' has no maps of photos to show; name recipes down to a localizer, "
                "refiner or segmenter, such as parts/plain/cam"
            )
    return found


def readable(plan) -> list[str]:
    """Readable paths below the results folder: the list of galleries, and each gallery."""
    return [LIST, *(_page(dataset) for dataset in recipes(plan))]


def _page(dataset: str) -> str:
    return f"gallery/{dataset}/index.html"


def layers(plan, steps: tuple[str, ...]) -> dict[str, Target]:
    """What is read of a recipe: its main files, and for seed maps the score whose threshold makes label maps of them."""
    split = plan.config["gallery"]["split"]
    if len(steps) == 3:
        threshold = {"threshold": plan.seed_score(steps)} if plan.has_masks(steps[0]) else {}
        return {"maps": target(steps, "maps", split), **threshold}
    return {"masks": target(steps, "masks" if len(steps) == 4 else "predictions_crf", split)}


def inputs(plan, dataset: str) -> dict[str, str]:
    """Store paths of what a gallery is made from, by the names its script knows: ``maps_0``, ``masks_1`` ..."""
    catalog = target((dataset,), "catalog", plan.config["gallery"]["split"])
    found = {
        f"{name}_{number}": plan.path(goal)
        for number, steps in enumerate(_shown(plan, dataset))
        for name, goal in layers(plan, steps).items()
    }
    made = {"data": str(plan.made_folder(dataset) / "manifest.json")} if plan.is_made(dataset) else {}
    return {"catalog": plan.path(catalog), **found, **made}


def _shown(plan, dataset: str) -> list[tuple[str, ...]]:
    found = recipes(plan)
    if dataset not in found:
        raise RecipeError(f"there is no gallery of '{dataset}'{did_you_mean(dataset, found)}; there is {_names(found)}")
    return found[dataset]


def _names(found: dict[str, Any]) -> str:
    return ", ".join(found) or "none, since no configured recipe has maps of photos"


@functools.cache
def parts(plan, dataset: str) -> dict[str, Any]:
    """What decides a gallery: its code and page, its settings, the split's files, and what it reads."""
    settings = plan.config["gallery"]
    return {
        "code": keys.code_digests([plan._script_file("make_gallery")]),
        "page": _assets(lambda name: name != "list.html"),
        "parameters": _settings(plan),
        "content": plan._content_of(dataset, settings["split"], ("images", "labels", "masks")),
        # The catalog says where files lie, which decides nothing.
        "reads": {name: path for name, path in inputs(plan, dataset).items() if name not in ("catalog", "data")},
    }


def list_parts(plan) -> dict[str, Any]:
    """What decides the list of galleries."""
    pages = {dataset: path_of(plan, _page(dataset)) for dataset in recipes(plan)}
    return {
        "code": keys.code_digests([plan._script_file("list_galleries")]),
        "page": _assets(lambda name: name == "list.html"),
        "galleries": pages,
    }


def _settings(plan) -> dict[str, Any]:
    kept = {key: value for key, value in plan.config["gallery"].items() if key not in ("recipes", "split")}
    return {**kept, "ignored_prediction": plan.config["evaluation"]["ignored_prediction"]}


def _assets(wanted) -> dict[str, str]:
    """Digests of files of the page; they are no modules, so no script's code covers them."""
    found = [path for path in sorted(PAGE.iterdir()) if wanted(path.name)]
    return {path.name: keys.digest(path.read_text(encoding="utf-8")) for path in found}


def path_of(plan, path: str) -> str:
    """Store path of a readable path that begins with ``gallery/``."""
    folder = plan.store / "gallery"
    if path == LIST:
        return str(folder / f"index-{keys.short(list_parts(plan))}.html")
    _, dataset, *name = [*path.split("/"), ""]
    if name != ["index.html", ""]:
        raise RecipeError(
            f"'{path}' is no page; ask for {LIST} or gallery/DATASET/index.html ({_names(recipes(plan))})"
        )
    _shown(plan, dataset)
    return str(folder / f"{dataset}-{keys.short(parts(plan, dataset))}" / "index.html")


def parts_of(plan, path: str) -> dict[str, Any]:
    """What decides the page at a readable path."""
    return list_parts(plan) if path == LIST else parts(plan, path.split("/")[1])


def job(plan, path: str, token: str) -> str:
    """Description of the job that makes a page. Raises ``RecipeError`` when config, code or data no longer give that token."""
    now = path_of(plan, path)
    if f"-{token}" not in now:
        raise RecipeError(f"the gallery {token} was asked for, but config, code and data now give {now}; "
                          "start Snakemake again")  # fmt: skip
    if path == LIST:
        return plan.describe(path, (), now, token=token)
    recipes_shown = [
        {"name": "/".join(steps[1:]), "shows": SHOWS[KINDS[len(steps) - 1]]}
        for steps in _shown(plan, path.split("/")[1])
    ]
    return plan.describe(path, (), now, token=token, shown=recipes_shown, settings=_settings(plan))


def dead(plan) -> list[Path]:
    """Galleries in the store that are not today's; those of datasets that the config does not name are left alone."""
    folder = plan.store / "gallery"
    pages = [Path(path_of(plan, path)) for path in readable(plan)] if folder.is_dir() else []
    live = {page if page.parent == folder else page.parent for page in pages}
    ours = [
        path for path in sorted(folder.glob("[!.]*-*")) if path.is_file() or _dataset(path) in plan.config["datasets"]
    ]
    return [path for path in ours if path not in live]


def _dataset(folder: Path) -> str:
    return folder.name.rpartition("-")[0]
