"""docs/configuration.md: the whole schema as one Markdown page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from camflow.plan.config import METHOD_KEY, SECTIONS, methods, schema
from camflow.plan.reference import (
    Parameter,
    Presets,
    default_of,
    flat,
    has_choice,
    meaning,
    page_of,
    parameters,
    preset_keys,
    values,
    written,
)

# Augmentations are the same wherever they are taken; they are written out once.
SHARED = "augment"
_HEAD = """\
# Configuration reference

Every key of the configuration with its meaning, its values and its default. Generated from `workflow/schemas` by
`camflow reference docs/configuration.md`; `camflow methods NAME` prints the part of one method in a terminal.

A configuration is [`config.yaml`](../config.yaml) of the working folder, or else the embedded default, with the overlays of
`--configfile` on top and the values of `--config` on top of those. An overlay replaces whole instances and merges all else;
`--config` merges key by key; an instance that is `null` is removed. An unknown key is refused with the nearest right one.

*of the preset*: without a value of its own the parameter takes that of `preset`. *required*: there is no default.
Changing a parameter makes anew what it decides and what is made from that, nothing else. [`runtime`](#runtime) decides
nothing.
"""
_INSTANCES = """\
## Instances

The sections below the next headings hold *instances*: a name of your choice, its method, and parameters.

    localizers:
      advcam:    {method: advcam}                                            # results/DATASET/CLASSIFIER/advcam/...
      sharper:   {method: advcam, tau: 0.7}
      by_tau:    {method: advcam, sweep: {tau: [0.3, 0.5]}}                  # by_tau_tau_0.3 and by_tau_tau_0.5

| key | meaning |
|---|---|
| `method` | The method; of a dataset `format`. |
| `sweep` | Mapping of parameters to lists of values: one instance for every combination, named `<name>_<parameter>_<value>...`. |

*Needs* is what the parts of the path before an instance must give, *gives* what it gives to those behind it; other
combinations are refused before anything runs.
"""


def markdown(presets_of: Callable[[str, str], Presets]) -> str:
    """The page. ``presets_of(section, method)`` gives the presets of a method, as in ``camflow.presets``."""
    top = schema()["properties"]
    plain = [key for key in top if key not in SECTIONS]
    single = [key for key in plain if "properties" not in top[key]]
    blocks = [_HEAD, _contents(plain, single)]
    blocks.append("## Top level\n\n" + _table([_row(key, top[key], key in schema()["required"]) for key in single]))
    blocks.append(_INSTANCES)
    for section in SECTIONS:
        blocks.append(f"## {section}\n\n{_sentence(top[section])}\n")
        blocks += [_method(section, method, presets_of(section, method)) for method in methods(section)]
    augment = methods("classifiers")["plain"]["properties"][SHARED]["properties"]
    blocks.append("## Augmentations\n\nEach is switched on by its name, with `{}` for its defaults.\n")
    blocks.append(_table(flat(augment, lambda _, rule: default_of(rule))))
    for key in plain:
        if key not in single:
            blocks.append(f"## {key}\n\n{_sentence(top[key])}\n")
            blocks.append(_table(flat(top[key]["properties"], lambda _, rule: default_of(rule))))
    return "\n".join(block.rstrip("\n") + "\n" for block in blocks)


def _contents(plain: Sequence[str], single: Sequence[str]) -> str:
    lines = ["[Top level](#top-level) · [Instances](#instances)"]
    for section, kind in SECTIONS.items():
        links = ", ".join(f"[{method}](#{kind}-{method})" for method in methods(section))
        lines.append(f"- [{section}](#{section}): {links}")
    rest = [f"[{key}](#{key})" for key in plain if key not in single]
    return "\n".join([lines[0], "", *lines[1:], "", " · ".join(["[Augmentations](#augmentations)", *rest])])


def _method(section: str, method: str, presets: Presets) -> str:
    entry, kind = methods(section)[method], SECTIONS[section]
    lines = [f"### {kind.capitalize()} `{method}`", "", _sentence(entry), ""]
    needs = ", ".join(entry.get("x-needs", ())) or "nothing"
    facts = [f"Needs: {needs}.", f"Gives: {', '.join(entry['x-provides'])}."]
    if page := page_of(section, method):
        facts.append(f"More: [methods/{page}.md](methods/{page}.md).")
    lines += [" ".join(facts), ""]
    found = [one for one in parameters(section, method, presets) if not one.name.startswith(f"{SHARED}.")]
    if found:
        lines.append(_table(found))
    else:
        lines.append(f"Only `{METHOD_KEY.get(section, 'method')}: {method}`; it has no parameters.\n")
    if has_choice(entry):
        lines += ["Presets:", "", _preset_table(section, method, presets)]
    steps: dict[str, list[str]] = {}
    for name, step in entry.get("x-steps", {}).items():
        decided = ", ".join(f"`{key}`" for key in step.get("parameters", ())) or "nothing but what it is made from"
        steps.setdefault(decided, []).append(f"`{name}`")
    if steps:
        lines += ["Files on the way, and the parameters that decide each:", ""]
        lines += [f"- {', '.join(names)}: {decided}" for decided, names in steps.items()]
    return "\n".join(lines)


def _preset_table(section: str, method: str, presets: Presets) -> str:
    lines = ["| parameter | " + " | ".join(f"`{name}`" for name in presets) + " |", "|---" * (len(presets) + 1) + "|"]
    for key in preset_keys(section, method, presets):
        cells = [written(one[key]) if key in one else "-" for one in presets.values()]
        lines.append(f"| `{key}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _sentence(entry: Mapping[str, Any]) -> str:
    return " ".join(entry["description"].split())


def _row(name: str, rule: Mapping[str, Any], required: bool) -> Parameter:
    return Parameter(name, meaning(rule), values(rule), default_of(rule, required))


def _table(rows: Iterable[Parameter]) -> str:
    lines = ["| parameter | meaning | values | default |", "|---|---|---|---|"]
    for row in rows:
        words = "[by name](#augmentations)" if row.name == SHARED else _cell(row.values)
        default = row.default if row.default in ("required", "of the preset", "-") else f"`{row.default}`"
        lines.append(f"| `{row.name}` | {_cell(row.meaning)} | {words} | {default} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text that means itself in a cell of a Markdown table; code in backticks stays as it is."""
    plain = {"<": "&lt;", "*": r"\*"}
    return re.sub(r"`[^`]*`|[<*]", lambda found: plain.get(found[0], found[0]), text).replace("|", r"\|")
