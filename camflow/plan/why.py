"""``camflow why``: which part of a key differs from the results that are there already."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from camflow.plan import gallery
from camflow.plan.plan import Plan
from camflow.plan.recipe import Target
from camflow.store import read_json


def explain(plan: Plan, goal: Target) -> Iterator[str]:
    """Lines for people: each key in the target's path, whether its result exists, and what changed since others."""
    for name, (key, parts) in plan.explain(goal).items():
        path = _place(plan, goal, name)
        yield f"{name}  key {key}  {'exists' if path.exists() else 'not computed yet'}  ({path})"
        others = [(other, found) for other, found in _registered(plan, name) if other != key]
        for other, found in others:
            changes = list(differences(found, parts))
            yield f"  was {other}:"
            yield from (f"    {line}" for line in changes or ["only what is upstream of it changed"])
        if not others and not path.exists():
            yield "  nothing under another key was computed here before"


def explain_table(plan: Plan, readable: str) -> Iterator[str]:
    """Lines for people: the table's file, and which of the scores it is made from are there."""
    path = Path(plan.path_of(readable))
    yield f"{readable}  {'exists' if path.exists() else 'not computed yet'}  ({path})"
    made = plan.papers.parts(readable) if readable.startswith("papers/") else plan.table_parts(Path(readable).stem)
    for name, score in made["scores"].items():
        yield f"  {name}  {'exists' if Path(score).exists() else 'not computed yet'}  ({score})"


def explain_gallery(plan: Plan, readable: str) -> Iterator[str]:
    """Lines for people: the page's file, and which of the files it is made from are there."""
    path = Path(plan.path_of(readable))
    yield f"{readable}  {'exists' if path.exists() else 'not computed yet'}  ({path})"
    parts = gallery.parts_of(plan, readable)
    for name, file in (parts.get("reads") or parts["galleries"]).items():
        yield f"  {name}  {'exists' if Path(file).exists() else 'not computed yet'}  ({file})"


def _place(plan: Plan, goal: Target, name: str) -> Path:
    if name == goal.path:
        return Path(plan.path(goal))
    return plan.folder(tuple(name.split("/")))


def _registered(plan: Plan, name: str) -> list[tuple[str, dict[str, Any]]]:
    """Keys that a readable name had, with their parts, the newest first."""
    files = [path for path in plan.register(name).glob("*.json") if path.is_file()]  # folders: results below it
    files.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [(path.stem, read_json(path)) for path in files]


def differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """``parameters.lr: 0.1 -> 0.01`` for every leaf that differs; digests are only said to differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(set(old) | set(new)):
            place = f"{where}.{key}" if where else str(key)
            if key not in old:
                yield f"{place}: new{_value(new[key])}"
            elif key not in new:
                yield f"{place}: gone{_value(old[key])}"
            else:
                yield from differences(old[key], new[key], place)
    elif old != new:
        shown = where.startswith("parameters")
        yield f"{where}: {old!r} -> {new!r}" if shown else f"{where}: changed"


def _value(value: Any) -> str:
    return "" if isinstance(value, dict) or (isinstance(value, str) and len(value) >= 40) else f" ({value!r})"
