"""The configuration: files and overrides merged, checked against the schema, defaults filled, sweeps expanded.

A later file replaces whole instances (``classifiers.plain`` of an overlay inherits nothing from the embedded
default's ``plain``); everything else merges key by key. Overrides from the command line merge key by key everywhere.
"""

from __future__ import annotations

import copy
import functools
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from camflow.errors import ConfigError, did_you_mean
from camflow.plan.values import conflicts

SCHEMA_FOLDER = Path(__file__).resolve().parents[2] / "workflow" / "schemas"

# Section of the config -> kind of recipe segment, and the key that names the method.
SECTIONS = {
    "datasets": "dataset",
    "classifiers": "classifier",
    "localizers": "localizer",
    "refiners": "refiner",
    "segmenters": "segmenter",
}
METHOD_KEY = {"datasets": "format"}
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.]*\Z")
RESERVED = {
    "store", "data", "tables", "papers", "gallery", "logs", "benchmarks", "scratch", "keys", "fingerprints", "report",
}  # fmt: skip


# --- reading and merging ---------------------------------------------------------------------------------------------


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML that refuses a key given twice and reads ``1e-4`` as the number it looks like."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # <<: a mapping whose keys stand below the others
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, dict | list):
                raise ConfigError(
                    f"{node.start_mark.name}: a list or mapping stands in the place of a key (line "
                    f"{key_node.start_mark.line + 1}); put text with braces or brackets in quotes"
                )
            if key in seen:
                raise ConfigError(
                    f"{node.start_mark.name}: the key '{key}' is given twice (line {key_node.start_mark.line + 1})"
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+\Z"),
    list("-+0123456789."),
)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read one YAML (or JSON) config file. Raises ``ConfigError`` naming the file and line."""
    path = Path(path)
    try:
        with open(path, encoding="utf-8") as handle:
            content = yaml.load(handle, _Loader)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: this config file does not exist") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read as a config file ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold 'key: value' pairs at the top level")
    return content


def merge(base: dict[str, Any], layer: dict[str, Any], *, whole_instances: bool) -> dict[str, Any]:
    """``layer`` over ``base``; lists and scalars are replaced, mappings merged, instances replaced if asked."""
    result = copy.deepcopy(base)
    for key, value in layer.items():
        if whole_instances and key in SECTIONS and isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key].update(copy.deepcopy(value))
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merge(result[key], value, whole_instances=False)
        else:
            result[key] = copy.deepcopy(value)
    return result


def load_config(
    files: Sequence[str | Path],
    overrides: dict[str, Any] | None = None,
    below: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The effective configuration: merged, validated, defaults filled, sweeps expanded.

    Args:
        files: the later over the earlier.
        overrides: the command line's, over all files.
        below: called with each layer in turn, gives what is merged before it.

    Raises ``ConfigError`` that lists every problem found.
    """
    merged: dict[str, Any] = {}
    layers = [(read_yaml(path), True) for path in files] + [(_typed(overrides or {}), False)]
    for layer, whole in layers:
        if below:
            merged = merge(merged, below(layer), whole_instances=True)
        merged = merge(merged, layer, whole_instances=whole)
    for section in SECTIONS:
        if isinstance(merged.get(section), dict):
            merged[section] = {name: item for name, item in merged[section].items() if item is not None}
    problems = list(_check(merged))
    if problems:
        raise ConfigError("the configuration has problems:\n" + "\n".join(f"  - {line}" for line in problems))
    return merged


def _typed(value: Any) -> Any:
    """Values from the command line, where Snakemake leaves nested numbers as text, as YAML would read them."""
    if isinstance(value, dict):
        return {key: _typed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_typed(item) for item in value]
    if isinstance(value, str):
        try:
            read = yaml.load(value, _Loader) if value.strip() else value
        except (yaml.YAMLError, ConfigError):
            return value  # text that YAML would want in quotes, such as */plain/cam
        return read if isinstance(read, int | float | bool | None) else value
    return value


# --- schema ----------------------------------------------------------------------------------------------------------


@functools.cache
def schema(name: str = "config") -> dict[str, Any]:
    """One schema file by name: ``config`` for the top level, else a section such as ``localizers``."""
    # Every job reads them, thrice and more on a cluster; the parser in C, where there is one, is seven times as fast.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load((SCHEMA_FOLDER / f"{name}.schema.yaml").read_text(encoding="utf-8"), loader)


def methods(section: str) -> dict[str, dict[str, Any]]:
    """Method name -> its schema. This is the registry of methods: one schema entry names one."""
    return schema(section)["methods"]


def _check(config: dict[str, Any]) -> Iterator[str]:
    """Yield every problem; fill defaults and expand sweeps in place."""
    top = schema()
    found = list(problems_of(config, top, ""))
    yield from found
    fill_defaults(config, top)
    if not found:
        grid = config["evaluation"]["thresholds"]
        if grid["start"] > grid["stop"]:
            yield f"evaluation.thresholds: start {grid['start']} is above stop {grid['stop']}; exchange them"
    for section in SECTIONS:
        items = config.get(section)
        if not isinstance(items, dict):
            continue
        expanded: dict[str, Any] = {}
        for name, item in items.items():
            yield from _check_instance(section, name, item, expanded)
        config[section] = expanded


def _check_instance(section: str, name: str, item: Any, expanded: dict[str, Any]) -> Iterator[str]:
    where = f"{section}.{name}"
    if not NAME.match(str(name)):
        yield f"{where}: an instance name starts with a letter and holds letters, digits, '_' and '.'"
        return
    if section == "datasets" and name in RESERVED:
        yield f"{where}: this name is used for a folder of results; choose another"
        return
    if not isinstance(item, dict):
        yield f"{where}: must be a mapping of parameters, not {item!r}"
        return
    key = METHOD_KEY.get(section, "method")
    known = methods(section)
    method = item.get(key)
    if method is None:
        yield f"{where}: needs '{key}'; one of {', '.join(sorted(known))}"
        return
    if method not in known:
        yield f"{where}.{key}: there is no '{method}'{did_you_mean(method, known)}"
        return
    axes = item.get("sweep") or {}
    if not isinstance(axes, dict) or not all(isinstance(values, list) and values for values in axes.values()):
        yield f"{where}.sweep: give each parameter a list of values, such as sweep: {{threshold: [0.3, 0.5]}}"
        return
    rounds = item.get("rounds")
    if rounds is not None and (type(rounds) is not int or rounds < 1 or item.get("after")):
        yield f"{where}.rounds: a number of rounds from 1 on, and none beside 'after', which names one round before"
        return
    for variant, parameters in _rounds(_sweep(name, item)):
        if variant in expanded:
            yield f"{where}: the sweep makes '{variant}' twice"
            return
        found = list(problems_of(parameters, _method_schema(section, method), where))
        yield from found
        if found:
            return
        fill_defaults(parameters, known[method])
        yield from (f"{where}.{sentence}" for sentence in conflicts(parameters))
        expanded[variant] = parameters


@functools.cache
def _method_schema(section: str, method: str) -> dict[str, Any]:
    entry = methods(section)[method]
    properties = {METHOD_KEY.get(section, "method"): {"const": method}, **entry.get("properties", {})}
    return {**entry, "type": "object", "properties": properties, "additionalProperties": False}


def _sweep(name: str, item: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """``{sweep: {tau: [.3, .5]}}`` -> one instance a value, named ``<name>_<parameter>_<value>``."""
    item = copy.deepcopy(item)
    axes = item.pop("sweep", None)
    if not axes:
        yield name, item
        return
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        suffix = "".join(f"_{key}_{_word(value)}" for key, value in chosen.items())
        yield name + suffix, {**item, **chosen}


def variants(name: str, item: Mapping[str, Any]) -> list[str]:
    """Names of the instances that one entry of a section makes; its own where its sweep or rounds are not valid."""
    axes, rounds = item.get("sweep") or {}, item.get("rounds")
    valid = isinstance(axes, dict) and all(isinstance(values, list) for values in axes.values())
    if not valid or not (rounds is None or type(rounds) is int):
        return [name]
    return [variant for variant, _ in _rounds(_sweep(name, dict(item)))]


def _rounds(variants: Iterator[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """``{rounds: 2}`` -> ``<name>_round_1`` and ``<name>_round_2``, which comes ``after`` it; others as they are."""
    for name, item in variants:
        rounds, before = item.pop("rounds", None), None
        if rounds is None:
            yield name, item
        for number in range(1, (rounds or 0) + 1):
            current = f"{name}_round_{number}"
            yield current, {**item, "after": before}
            before = current


def _word(value: Any) -> str:
    if isinstance(value, list):
        return "_".join(_word(item) for item in value)
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return re.sub(r"[^A-Za-z0-9_.]", "_", text.replace("-", "m"))


def problems_of(value: Any, rules: dict[str, Any], where: str = "") -> Iterator[str]:
    """One readable line a schema violation, each naming the key and the remedy."""
    errors = Draft202012Validator(rules).iter_errors(value)
    for error in sorted(errors, key=lambda item: [str(part) for part in item.absolute_path]):
        place = ".".join([where, *map(str, error.absolute_path)] if where else map(str, error.absolute_path))
        if error.validator == "additionalProperties":
            options = error.schema.get("properties", {})
            for key in sorted(set(error.instance) - set(options), key=str):
                yield f"{f'{place}.{key}' if place else key}: unknown key{did_you_mean(key, options)}"
        else:
            yield f"{place or 'config'}: {_explain(error)}"


def _explain(error) -> str:
    about = error.schema.get("description", "") if isinstance(error.schema, dict) else ""
    about = f" ({' '.join(about.split())})" if about else ""
    match error.validator:
        case "type":
            wanted = error.validator_value
            wanted = " or ".join(wanted) if isinstance(wanted, list) else wanted
            return f"{error.instance!r} should be of type {wanted}{about}"
        case "enum":
            return f"{error.instance!r} is not allowed{did_you_mean(error.instance, map(str, error.validator_value))}"
        case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum":
            return f"{error.instance!r} is out of range: {error.validator} is {error.validator_value}{about}"
        case "oneOf":
            return f"{error.instance!r} should be {' or '.join(map(_wanted, error.validator_value))}{about}"
        case _:
            return f"{error.message}{about}"


def _wanted(rules: dict[str, Any]) -> str:
    """One alternative of a schema in words: ``number (minimum 0, maximum 1)``, ``'best'``."""
    if "const" in rules or "enum" in rules:
        return ", ".join(repr(value) for value in rules.get("enum", [rules.get("const")]))
    kinds = rules["type"] if isinstance(rules["type"], list) else [rules["type"]]
    limits = [f"{key} {rules[key]}" for key in ("minimum", "maximum", "minItems", "maxItems") if key in rules]
    return " or ".join(kinds) + (f" ({', '.join(limits)})" if limits else "")


def fill_defaults(value: dict[str, Any], rules: dict[str, Any]) -> dict[str, Any]:
    """Fill the defaults of a schema into ``value``, in place and recursively."""
    for key, rule in rules.get("properties", {}).items():
        if key not in value and "default" in rule:
            value[key] = copy.deepcopy(rule["default"])
        if isinstance(value.get(key), dict):
            fill_defaults(value[key], rule)
    return value


def instances(config: dict[str, Any], section: str, method: str | None = None) -> list[str]:
    """Names of a section's instances, of one method if given."""
    key = METHOD_KEY.get(section, "method")
    return [name for name, item in config.get(section, {}).items() if method in (None, item[key])]


def section_of(kind: str) -> str:
    """Config section of a recipe segment's kind."""
    return next(section for section, value in SECTIONS.items() if value == kind)
