"""``camflow gc``: what the current config no longer reaches."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from camflow.errors import CamflowError, DataError, RecipeError
from camflow.plan import gallery
from camflow.plan.plan import Plan
from camflow.plan.recipe import KINDS
from camflow.plan.views import links, source

_FILE = re.compile(r"(?P<stem>[a-z_]+)(?:\.(?P<split>[A-Za-z]\w*))?(?:-(?P<token>[0-9a-f]{8}))?(?P<suffix>\.[a-z0-9]+)")
_SHARD = re.compile(r"(?P<shard>\d+)of(?P<shards>\d+)-(?P<token>[0-9a-f]{8})\.[a-z0-9]+")
_TEMPORARY = re.compile(r"\..*\.(?P<pid>\d+)(?:-[0-9a-f]+)?\.tmp")


def unreachable(plan: Plan) -> Iterator[Path]:
    """Files and folders of the results that no combination of the config's instances gives today.

    Datasets that the config does not name belong to other configs and are left alone.

    Raises ``CamflowError`` when a dataset with results cannot be read (a disk that is not there): what its results are
    worth cannot be told then.
    """
    stored = {folder.name.rsplit("-", 1)[0] for folder in _folders(plan.store)}
    for name in stored.intersection(plan.config["datasets"]):
        plan.content(name)
    yield from (path for path in _temporary(plan.results))
    for top in (plan.store, plan.results / "scratch"):
        for folder in _folders(top):
            if folder.name.rsplit("-", 1)[0] in plan.config["datasets"]:
                yield from _walk(plan, folder, ())
    for folder in _folders(plan.results / "data"):
        name = folder.name.rsplit("-", 1)[0]
        if name in plan.config["datasets"] and not (plan.is_made(name) and plan.made_folder(name) == folder):
            yield folder
    for name, files in (("tables", plan.table_files()), ("papers", plan.papers.files())):
        folder = plan.store / name
        if folder.is_dir():
            live = {plan.path_of(path) for path in files}
            yield from (path for path in sorted(folder.rglob("*.*")) if str(path) not in live)
    yield from gallery.dead(plan)
    for path, readable in links(plan):
        if readable.split("/")[0] in plan.config["datasets"] and not _is_current(plan, path, readable):
            yield path


def _folders(top: Path) -> list[Path]:
    return sorted(path for path in top.iterdir() if path.is_dir() and "-" in path.name) if top.is_dir() else []


def _temporary(results: Path) -> Iterator[Path]:
    for path in sorted(results.rglob(".*.tmp")):
        match = _TEMPORARY.fullmatch(path.name)
        if match and not _alive(int(match["pid"])):
            yield path
    yield from sorted(results.rglob("*.corrupt"))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _walk(plan: Plan, folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
    steps = (*above, folder.name.rsplit("-", 1)[0])
    try:
        plan.check(steps)
        live = plan.segments(steps)[-1] == folder.name
    except RecipeError:
        live = False
    if not live:
        yield folder
        return
    for path in sorted(folder.iterdir()):
        if path.name.endswith((".tmp", ".corrupt")):
            continue
        if path.is_dir() and path.name.endswith(".shards"):
            yield from _shards(plan, path, steps)
        elif path.is_dir() and len(steps) < len(KINDS):
            yield from _walk(plan, path, steps)
        elif path.is_file() and not _is_live(plan, path, steps):
            yield path


def _is_live(plan: Plan, path: Path, steps: tuple[str, ...]) -> bool:
    match = _FILE.fullmatch(path.name)
    if match is None:
        return True  # not ours to judge (a checkpoint in the scratch folder of a live key)
    try:
        goals = plan.goals_at(steps, match["stem"], match["split"], match["suffix"])
        return any(Path(plan.path(goal)).name == path.name for goal in goals)
    except CamflowError:
        return not match["token"]


def _shards(plan: Plan, folder: Path, steps: tuple[str, ...]) -> Iterator[Path]:
    stem, split = [*folder.name.removesuffix(".shards").split("."), None][:2]
    goals = plan.goals_at(steps, stem, split, None)
    for path in sorted(folder.iterdir()):
        match = _SHARD.fullmatch(path.name)
        if match:
            shard = (int(match["shard"]), int(match["shards"]))
            try:
                live = any(plan.token(goal, shard) == match["token"] for goal in goals)
            except DataError:  # the split is gone
                live = False
            if not live:
                yield path


def _is_current(plan: Plan, path: Path, readable: str) -> bool:
    try:
        return os.readlink(path) == source(plan, readable) and path.exists()
    except CamflowError:
        return False


def size(path: Path) -> int:
    """Bytes of a file, link or folder."""
    if path.is_dir() and not path.is_symlink():
        return sum(item.lstat().st_size for item in path.rglob("*") if not item.is_dir())
    return path.lstat().st_size


def remove(path: Path) -> None:
    """Remove a file, link or folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
