"""Readable views: links from ``results/<recipe>/...`` into the keyed store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from camflow.errors import CamflowError
from camflow.plan.config import RESERVED
from camflow.plan.plan import Plan


def links(plan: Plan) -> Iterator[tuple[Path, str]]:
    """Every link of the results folder with its readable path; the store and other files are never entered."""
    for folder, folders, files in os.walk(plan.results):
        if Path(folder) == plan.results:
            folders[:] = [name for name in folders if name in ("tables", "papers", "gallery") or name not in RESERVED]
        for name in files:
            path = Path(folder) / name
            if path.is_symlink():
                yield path, path.relative_to(plan.results).as_posix()


def source(plan: Plan, readable: str) -> str:
    """What the link of a readable path must hold: the store path relative to the link's folder."""
    return os.path.relpath(plan.path_of(readable), (plan.results / readable).parent)


def remove_stale(plan: Plan) -> list[Path]:
    """Remove links that point to another key than today's, so that no old file can pass for a current one.

    A link whose recipe this config does not know stays as long as the part of it that is known has today's keys.
    """
    removed = []
    for path, readable in links(plan):
        if not _is_current(plan, readable, os.readlink(path)):
            path.unlink()
            removed.append(path)
    return removed


def _is_current(plan: Plan, readable: str, held: str) -> bool:
    try:
        return held == source(plan, readable)
    except CamflowError:
        pass  # an unknown recipe, or data that cannot be looked at just now
    if readable.startswith("gallery/"):  # that this config does not show, unless the dataset is another config's
        return readable.split("/")[1] not in plan.config["datasets"]
    steps = tuple(readable.split("/")[:-1])
    place = os.path.normpath((plan.results / readable).parent / held)
    for length in range(len(steps), 0, -1):
        try:
            return place.startswith(str(plan.folder(steps[:length])) + os.sep)
        except CamflowError:
            continue
    return True


def labels(readable: str) -> dict[str, str]:
    """What the report's menu says of a readable path: its dataset, recipe, figure and split."""
    *steps, filename = readable.split("/")
    stem, *rest = filename.split(".")
    split = rest[0] if len(rest) > 1 else "-"
    kind = "table" if filename.endswith(".csv") else "figure"
    return {"dataset": steps[0], "recipe": "/".join(steps[1:]) or "-", "what": stem, "split": split, "as": kind}


def export_library(root: Path) -> None:
    """Let the Python processes of jobs find the library beside the Snakefile, installed or not."""
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(root) not in known:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, known)])
