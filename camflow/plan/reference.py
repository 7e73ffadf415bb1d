"""The schema in words: every section, method and parameter of the configuration, for people to read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from camflow.plan.config import methods, schema

# Preset -> parameter -> value, of one method (``camflow.presets``).
Presets = Mapping[str, Mapping[str, Any]]

# Page of docs/methods -> the methods it is about.
PAGES = {
    "cam": ("classifiers.plain", "localizers.cam"),
    "hide-and-seek": (),
    "adversarial-erasing": ("classifiers.adversarial_erasing", "localizers.erasing", "refiners.assemble"),
    "seam": ("classifiers.seam", "localizers.seam"),
    "casm": ("classifiers.casm", "localizers.masker"),
    "amn": ("classifiers.amn", "localizers.amn", "refiners.confident"),
    "mctformer": ("classifiers.mctformer", "localizers.mctformer"),
    "advcam": ("localizers.advcam",),
    "lpcam": ("localizers.lpcam",),
    "ensemble": ("localizers.ensemble",),
    "crf": ("refiners.none", "refiners.crf"),
    "psa": ("refiners.psa",),
    "irn": ("refiners.irn",),
    "deeplab": ("segmenters.deeplab", "classifiers.none", "localizers.none", "refiners.gt"),
    "psl": ("segmenters.psl",),
    "cct": ("segmenters.cct",),
    "temporal": ("classifiers.temporal", "localizers.temporal_cam"),
    "scores": (),
}


@dataclass(frozen=True)
class Parameter:
    """One key of the configuration.

    Attributes:
        name: dotted below its section or method, such as ``augment.hide_and_seek.p``.
        meaning: the schema's description, one line.
        values: type and range, or the choices, in words.
        default: as it would be written in YAML, or ``required``, ``of the preset`` or ``-``.
    """

    name: str
    meaning: str
    values: str
    default: str


def parameters(section: str, method: str, presets: Presets | None = None) -> list[Parameter]:
    """The parameters of a method as ``ordered``, those of its mappings behind them.

    Args:
        section: such as ``localizers``.
        method: one of its methods.
        presets: of the method; what they set and the schema has no default for is *of the preset*. Where the method has
            no parameter ``preset`` there is one, which gives the defaults themselves.
    """
    entry, presets = methods(section)[method], presets or {}
    own = {} if has_choice(entry) else {key: value for one in presets.values() for key, value in one.items()}
    by_preset = {key.split(" ")[0] for one in presets.values() for key in one}
    required = set(entry.get("required", ()))

    def default(name: str, rule: Mapping[str, Any]) -> str:
        if name in own:
            return written(own[name])
        if name in by_preset and rule.get("default") is None:
            return "of the preset"
        return default_of(rule, name in required)

    return list(flat(ordered(section, method), default))


def ordered(section: str, method: str) -> dict[str, Any]:
    """The schema's properties of a method in the order they are read in: its preset, its own, those it shares."""
    groups = (part for name, part in schema(section).items() if name != "methods")
    shared = {key: number for number, key in enumerate(key for part in groups for key in part)}
    properties = methods(section)[method].get("properties", {})
    return dict(sorted(properties.items(), key=lambda item: (item[0] != "preset", shared.get(item[0], -1))))


def has_choice(entry: Mapping[str, Any]) -> bool:
    """Whether a method's schema lets one choose among presets."""
    return "preset" in entry.get("properties", {})


def flat(
    rules: Mapping[str, Any], default: Callable[[str, Mapping[str, Any]], str], above: str = ""
) -> Iterator[Parameter]:
    """The parameters of a schema's properties, each mapping's own behind it; ``default(name, rule)`` gives a default."""
    for key, rule in rules.items():
        name = f"{above}{key}"
        yield Parameter(name, meaning(rule), values(rule), default(name, rule))
        yield from flat(rule.get("properties", {}), default, f"{name}.")


def meaning(rule: Mapping[str, Any]) -> str:
    """The description of a parameter on one line, and which of its values need something of the recipe before it."""
    needs = (f" `{value}` needs {', '.join(wanted)}." for value, wanted in rule.get("x-needs", {}).items())
    return " ".join(rule.get("description", "").split()) + "".join(needs)


def default_of(rule: Mapping[str, Any], required: bool = False) -> str:
    """The default of a schema's rule, or ``required``, or ``-`` where there is neither."""
    if "default" in rule:
        return written(rule["default"])
    return "required" if required else "-"


def written(value: Any) -> str:
    """A value as one would write it in YAML, on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, float):
        return f"{Decimal(repr(value)):f}"  # 1e-06 is text to many readers of YAML
    return value if isinstance(value, str) and re.fullmatch(r"[\w~/][\w~/.+ -]*", value) else json.dumps(value)


_LIMITS = {
    "minimum": " from {}",
    "exclusiveMinimum": " above {}",
    "maximum": " to {}",
    "exclusiveMaximum": ", below {}",
}
_PLURALS = {"integer": "integers", "number": "numbers", "mapping": "mappings"}  # of a list's items; any other stays


def values(rule: Mapping[str, Any]) -> str:
    """Type and range of a parameter, or its choices, in words."""
    if "oneOf" in rule:
        return " or ".join(values(one) for one in rule["oneOf"])
    if "const" in rule:
        return written(rule["const"])
    if "enum" in rule:
        return ", ".join(map(written, rule["enum"]))
    kinds = rule.get("type", "any")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return " or ".join(_kind(kind, rule) for kind in kinds)


def _kind(kind: str, rule: Mapping[str, Any]) -> str:
    match kind:
        case "array":
            low, high = rule.get("minItems", 0), rule.get("maxItems")
            items = values(rule.get("items", {}))
            first = items.split(" ")[0]
            items = f"{_PLURALS.get(first, first)}{items.removeprefix(first)}"
            return f"list of {low} {items}" if low == high else f"list of {items}{', at least one' if low else ''}"
        case "object":
            if "properties" in rule:
                return "mapping (below)"
            more = rule.get("additionalProperties")
            return f"mapping of name to {values(more)}" if isinstance(more, Mapping) else "mapping"
        case "integer" | "number":
            limits = "".join(words.format(rule[key]) for key, words in _LIMITS.items() if key in rule)
            return kind + limits + (f", a multiple of {rule['multipleOf']}" if "multipleOf" in rule else "")
        case "boolean":
            return "true, false"
        case "string":
            return "text"
        case _:
            return kind


def summary(description: str) -> str:
    """What a description says first, without the full stop; a name with its source takes the next sentence along."""
    first, *rest = re.split(r"(?<!et al)\.(?:\s+(?=[A-Z`])|$)", " ".join(description.split()))
    return f"{first}. {rest[0]}" if first.endswith(")") and len(first) < 70 and rest and rest[0] else first


def preset_keys(section: str, method: str, presets: Presets) -> list[str]:
    """What presets set of the parameters of a method, as ``ordered``."""
    order = {key: number for number, key in enumerate(ordered(section, method))}
    found = dict.fromkeys(key for one in presets.values() for key in one if key.split(" ")[0] in order)
    return sorted(found, key=lambda key: order[key.split(" ")[0]])


def page_of(section: str, method: str) -> str | None:
    """Name of the page in docs/methods about a method."""
    return next((page for page, about in PAGES.items() if f"{section}.{method}" in about), None)
