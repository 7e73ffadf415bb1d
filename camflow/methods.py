"""``camflow methods``: what there is to choose from, in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from camflow.errors import CamflowError, did_you_mean
from camflow.plan.config import METHOD_KEY, SECTIONS, methods
from camflow.plan.reference import has_choice, page_of, parameters, preset_keys, summary, written


def list_methods(console: Console) -> None:
    """Print every method of every section with a line about it."""
    for section in SECTIONS:
        rows = Table(section, "what", "needs", "gives", title_justify="left", expand=True)
        rows.columns[0].no_wrap = True
        rows.columns[1].ratio = 3
        rows.columns[2].ratio = rows.columns[3].ratio = 1
        for name, entry in methods(section).items():
            needs, gives = (", ".join(entry.get(key, ())) for key in ("x-needs", "x-provides"))
            rows.add_row(f"[bold]{name}[/]", escape(summary(entry["description"])), needs, gives)
        console.print(rows)
    console.print("camflow methods NAME prints a method's parameters; docs/configuration.md has them all.")


def describe_method(name: str, console: Console) -> None:
    """Print one method with its parameters and presets, in every section that has one of this name.

    Raises:
        CamflowError: there is none; names the nearest.
    """
    from camflow.presets import presets_of  # reads the stages, which takes seconds

    found = [section for section in SECTIONS if name in methods(section)]
    if not found:
        known = {method for section in SECTIONS for method in methods(section)}
        raise CamflowError(f"there is no method '{name}'{did_you_mean(name, known)}")
    for section in found:
        entry, presets = methods(section)[name], presets_of(section, name)
        console.print(f"[bold]{name}[/], one of the {section} ({METHOD_KEY.get(section, 'method')}: {name})")
        console.print(escape(" ".join(entry["description"].split())), highlight=False)
        needs, gives = (", ".join(entry.get(key, ())) or "nothing" for key in ("x-needs", "x-provides"))
        console.print(f"needs: {needs}\ngives: {gives}", highlight=False)
        rows = Table("parameter", "default", "values", "meaning")
        rows.columns[0].no_wrap = True
        for one in parameters(section, name, presets):
            rows.add_row(*map(escape, (one.name, one.default, one.values, one.meaning)))
        if rows.row_count:
            console.print(rows)
        if has_choice(entry):
            console.print(_presets(section, name, presets))
        if page := page_of(section, name):
            console.print(f"docs/methods/{page}.md", highlight=False)


def _presets(section: str, method: str, presets: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = Table("parameter", *presets, title="presets", title_justify="left")
    rows.columns[0].no_wrap = True
    for key in preset_keys(section, method, presets):
        cells = (escape(written(one[key])) if key in one else "-" for one in presets.values())
        rows.add_row(escape(key), *cells)
    return rows
