"""The catalogue of published tables: the files in config/papers, checked, and the instances that their rows need.

A catalogue file is no overlay: it changes no setting. Its ``instances`` stand below the first config file that names
their dataset, so that what a config says of its own data wins, while what an earlier file says of other data (the
embedded default's small networks, under config/voc12.yaml) does not.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from camflow.errors import ConfigError, did_you_mean
from camflow.plan.config import SECTIONS, merge, problems_of, read_yaml, schema, variants

FOLDER = Path(__file__).resolve().parents[2] / "config" / "papers"


def read_catalogue(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """Paper -> its entry. Raises ``ConfigError`` that names the file and lists every problem."""
    return _read(tuple((path, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.yaml"))))


@functools.lru_cache(maxsize=8)
def _read(files: tuple[tuple[Path, int], ...]) -> dict[str, dict[str, Any]]:
    found = {path.stem: read_yaml(path) for path, _ in files}
    for path, _ in files:
        lines = list(problems_of(found[path.stem], schema("papers"))) or list(_mismatches(found[path.stem]))
        if lines:
            raise ConfigError(f"{path} has problems:\n" + "\n".join(f"  - {line}" for line in lines))
    return found


def _mismatches(paper: Mapping[str, Any]) -> Iterator[str]:
    """What the schema cannot say: names that must be known elsewhere in the file."""
    metrics = schema("papers")["metrics"]
    for name, table in paper["tables"].items():
        for title, column in table["columns"].items():
            metric = column.get("metric", "mIoU")
            if metric not in metrics:
                yield f"tables.{name}.columns.{title}.metric: there is no '{metric}'{did_you_mean(metric, metrics)}"
        for row in table["rows"]:
            unconfirmed = row.get("unconfirmed", [])
            named = [*row["values"], *row.get("below", {}), *([] if unconfirmed is True else unconfirmed)]
            for column in named:
                if column not in table["columns"]:
                    hint = did_you_mean(column, table["columns"])
                    yield f"tables.{name}, row '{row['name']}': there is no column '{column}'{hint}"
            reasons = [row.get("not_run") or table["columns"].get(item, {}).get("not_run") for item in row["values"]]
            if not row.get("recipe") and not all(reasons):
                yield f"tables.{name}, row '{row['name']}': give the recipe, or why it is not_run"


class Layers:
    """The catalogue's instances put under the config files, and which instances are meant for which dataset."""

    def __init__(self, catalogue: Mapping[str, Mapping[str, Any]]):
        self._given = given_instances(catalogue)
        self._files: list[Mapping[str, Any]] = []

    def below(self, layer: Mapping[str, Any]) -> dict[str, Any]:
        """What stands below a config file, given in their order: instances for the datasets that no earlier one names."""
        known = {name for file in self._files for name in _names(file, "datasets")}
        self._files.append(layer)
        found: dict[str, Any] = {}
        for dataset in _names(layer, "datasets"):
            if dataset not in known:
                found = merge(found, self._given.get(dataset, {}), whole_instances=True)
        return found

    def given(self, dataset: str) -> set[tuple[str, str]]:
        """(section, name) of the catalogue's instances for a dataset, sweeps and rounds written out."""
        return _written_out(self._given.get(dataset, {}))

    def configured(self, dataset: str) -> set[tuple[str, str]]:
        """(section, name) of the instances in the config file that first names a dataset and in those after it."""
        first = next((n for n, file in enumerate(self._files) if dataset in _names(file, "datasets")), 0)
        return set().union(*(_written_out(file) for file in self._files[first:]))

    def brought_with(self, dataset: str) -> list[str]:
        """The datasets of the config file that first names a dataset."""
        return next((list(_names(file, "datasets")) for file in self._files if dataset in _names(file, "datasets")), [])

    @functools.cached_property
    def hidden(self) -> set[tuple[str, str]]:
        """(section, name) of the instances that only the catalogue gives: a ``*`` in a recipe does not mean them."""
        given = set().union(*map(_written_out, self._given.values()))
        return given - set().union(*map(_written_out, self._files))


def given_instances(catalogue: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Dataset -> section -> name -> instance, of all papers. Raises ``ConfigError`` where two papers disagree."""
    found: dict[str, dict[str, Any]] = {}
    for paper, entry in catalogue.items():
        for dataset, block in entry.get("datasets", {}).items():
            for section, items in block.get("instances", {}).items():
                here = found.setdefault(dataset, {}).setdefault(section, {})
                for name, item in items.items():
                    if here.setdefault(name, item) != item:
                        raise ConfigError(
                            f"{FOLDER / paper}.yaml: datasets.{dataset}.instances.{section}.{name} differs from that of "
                            "another paper; give one of them another name"
                        )
    return found


def _names(layer: Mapping[str, Any], section: str) -> list[str]:
    items = layer.get(section)
    return list(items) if isinstance(items, Mapping) else []


def _written_out(layer: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {
        (section, variant)
        for section in SECTIONS
        for name in _names(layer, section)
        if isinstance(layer[section][name], Mapping)
        for variant in variants(name, layer[section][name])
    }
