"""Published tables as targets: which recipe, score and dataset of this config stand for each published value.

A table of config/papers has rows (recipes) and columns (which score below the recipe); a cell is one published value.
Each cell is resolved against the config: on the dataset it was published on, else on the first other dataset of the
config's recipes, else it is not run, and says why.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camflow.errors import CamflowError, RecipeError, did_you_mean
from camflow.plan import keys
from camflow.plan.config import schema, section_of
from camflow.plan.recipe import KINDS, Target, target

if TYPE_CHECKING:
    from camflow.plan.plan import Plan

SUFFIXES = (".csv", ".md", ".tex")
TOLERANCE = 1.0  # points within which a value counts as reproduced, where the table names no other
SCRIPT = Path(__file__).resolve().parents[2] / "workflow" / "scripts" / "make_paper_table.py"
# What a score needs of its dataset besides photos and labels.
NEEDS_BOXES = ("localization", "saliency")


@dataclass(frozen=True)
class Cell:
    """One published value and what stands for it here.

    Attributes:
        row, column: names in the table.
        recipe: below the dataset, in the names of this config; empty where no recipe is given.
        metric, key, factor: name, place in the score (parts separated by /), and what it is multiplied by.
        published, confirmed, source, conditions: the value in the metric's unit, or None where it is not known.
        published_on, measured_on: dataset and split.
        same: whether these are the same, by name; ``images`` is the published number of images, or None.
        thresholds: first and last background threshold that the published value is the best of, or None.
        tolerance: points within which it counts as reproduced.
        where: of a study's table, the values (or comparisons such as ``> 0``) that pick the rows.
        reduce: what is taken of these rows, max, mean or count.
        goals: the scores (one a seed of the classifier) or the study's table.
        not_run: why nothing is measured; empty where it is.
    """

    row: str
    column: str
    recipe: str
    metric: str
    key: str
    factor: float
    published: float | None
    confirmed: bool
    source: str
    conditions: str
    published_on: str
    measured_on: str = ""
    same: bool = False
    images: int | None = None
    thresholds: tuple[float, float] | None = None
    tolerance: float = TOLERANCE
    where: tuple[tuple[str, Any], ...] | None = None
    reduce: str = "max"
    goals: tuple[Target, ...] = ()
    not_run: str = ""


class Papers:
    """The published tables of a plan."""

    def __init__(self, plan: Plan, catalogue: Mapping[str, Mapping[str, Any]]):
        self._plan = plan
        self._catalogue = catalogue

    @property
    def tables(self) -> list[tuple[str, str]]:
        """Every paper and table of the catalogue."""
        return [(paper, table) for paper, entry in self._catalogue.items() for table in entry["tables"]]

    @property
    def titles(self) -> dict[str, str]:
        """Name of every target -> paper and title of its table."""
        return {
            target_name(paper, table): f"{self._catalogue[paper]['title']}: {self._table(paper, table)['title']}"
            for paper, table in self.tables
        }

    @functools.cached_property
    def datasets(self) -> list[str]:
        """The datasets of the config's recipes, and those that came with them in the same config file."""
        used = list(dict.fromkeys(steps[0] for steps in self._plan.recipes))
        beside = [name for dataset in used for name in self._plan.layers.brought_with(dataset)]
        return [name for name in dict.fromkeys([*used, *beside]) if name in self._plan.config["datasets"]]

    def files(self) -> list[str]:
        """Readable paths of all tables below the results folder."""
        return [path for paper, table in self.tables for path in _files(paper, table)]

    def targets(self) -> dict[str, list[str]]:
        """Name of every target, such as ``table_advcam_1`` -> the readable paths that it makes."""
        return {
            target_name(paper, table): [
                str(self._plan.results / path) for path in [*_files(paper, table), *self._figures(paper, table)]
            ]
            for paper, table in self.tables
        }

    def _figures(self, paper: str, table: str) -> list[str]:
        """Table and figure of the studies that a published figure is drawn by, where its recipe can have them."""
        found = []
        for wanted in self._table(paper, table).get("studies", ()):
            cell = self._resolved(paper, table, _study_cell(wanted), wanted["recipe"], {"study": wanted["study"]}, {})
            found += [goal.path for goal in cell.goals]
            found += [target(g.steps, g.leaf.stem, g.split, ".png").path for g in cell.goals]
        return found

    # --- cells -------------------------------------------------------------------------------------------------------

    def _table(self, paper: str, table: str) -> Mapping[str, Any]:
        found = self._catalogue.get(paper)
        if found is None:
            raise RecipeError(f"there is no paper '{paper}'{did_you_mean(paper, self._catalogue)}")
        if table not in found["tables"]:
            raise RecipeError(f"{paper} has no '{table}'{did_you_mean(table, found['tables'])}")
        return found["tables"][table]

    @functools.cache  # noqa: B019  (one plan a process)
    def cells(self, paper: str, table: str) -> list[Cell]:
        """Every published value of a table, row by row, resolved against the config."""
        item = self._table(paper, table)
        metrics = schema("papers")["metrics"]
        found = []
        for row in item["rows"]:
            for name, value in row["values"].items():
                column = item["columns"][name]
                metric = metrics[column.get("metric", "mIoU")]
                unconfirmed = row.get("unconfirmed", [])
                cell = Cell(
                    row=row["name"], column=name, recipe=row.get("recipe", ""), metric=column.get("metric", "mIoU"),
                    key=metric["key"], factor=metric["factor"], published=value,
                    confirmed=not (unconfirmed is True or name in unconfirmed),
                    source=row.get("source", item["source"]),
                    conditions="; ".join(
                        filter(None, (item.get("conditions"), column.get("conditions"), row.get("conditions")))
                    ),
                    published_on="", tolerance=item.get("tolerance", TOLERANCE),
                )  # fmt: skip
                below = row.get("below", {}).get(name, column.get("below", ""))
                recipe = "/".join(filter(None, (row.get("recipe", ""), below)))
                found.append(self._resolved(paper, table, cell, recipe, column, row))
        return found

    def _resolved(
        self, paper: str, table: str, cell: Cell, recipe: str, column: Mapping[str, Any], row: Mapping[str, Any]
    ) -> Cell:
        """The cell with what stands for it on this config's data, or with the reason why nothing does."""
        item = self._table(paper, table)
        published = row.get("dataset", item["dataset"])
        split = column.get("split", row.get("split", item["split"]))
        cell = replace(cell, published_on=f"{published} {split}", recipe=recipe)
        reason = row.get("not_run") or column.get("not_run")
        if reason:
            return replace(cell, not_run=reason)
        try:
            dataset = self._dataset(item, published)
            same = dataset == published
            split = split if same else self._plan.config["report"]["split"]
            block = self._catalogue[paper].get("datasets", {}).get(dataset, {})
            steps = self._steps(dataset, recipe, block)
            self._check_cost(steps, recipe, column.get("study"), block)
            self._plan.check_files(steps)
            goals = tuple(self._goal(found, column, split) for found in self._seeds(steps))
        except CamflowError as error:
            return replace(cell, not_run=" ".join(str(error).split()))
        return replace(
            cell, recipe="/".join(steps[1:]), measured_on=f"{dataset} {split}", same=same,
            goals=goals[:1] if "study" in column else goals, images=block.get("images", {}).get(split) if same else None,
            thresholds=tuple(column["thresholds"]) if same and "thresholds" in column else None,
            where=self._where(row, steps) if "study" in column else None, reduce=column.get("reduce", "max"),
        )  # fmt: skip

    def _where(self, row: Mapping[str, Any], steps: tuple[str, ...]) -> tuple[tuple[str, Any], ...]:
        """The values that pick rows of a study, with ``$lambda`` replaced by that of the localizer."""
        own = self._plan.instance("localizer", steps[2])
        return tuple(
            (column, own[value[1:]] if isinstance(value, str) and value.startswith("$") else value)
            for column, value in row.get("where", {}).items()
        )

    def _dataset(self, item: Mapping[str, Any], published: str) -> str:
        """The dataset that a value is measured on. Raises ``RecipeError`` that says why there is none."""
        wanted = item.get("data", "photos")
        fitting = [name for name in self.datasets if self._plan.is_temporal(name) == (wanted == "sequences")]
        if published in fitting:
            return published
        others = {row.get("dataset", item["dataset"]) for row in item["rows"]}
        free = [name for name in fitting if name not in others]
        if not fitting:
            raise RecipeError(f"the config has no dataset of {wanted}; give --configfile config/{published}.yaml")
        if published != item["dataset"] or not free:
            raise RecipeError(f"published on {published}; give --configfile config/{published}.yaml")
        return free[0]

    def _check_cost(self, steps: tuple[str, ...], recipe: str, study: str | None, block: Mapping[str, Any]) -> None:
        """Refuse what the catalogue leaves out on a dataset for its time, unless the config asks for it or makes it."""
        costly, config = block.get("costly", {}), self._plan.config
        reason = next((costly[name] for name in (*recipe.split("/"), study) if name in costly), None)
        made = steps in self._plan.prefixes and study in (None, *config["report"]["studies"])
        if reason and not made and not config["papers"]["costly"]:
            raise RecipeError(f"{reason}; papers.costly: true runs it")

    def _steps(self, dataset: str, recipe: str, block: Mapping[str, Any]) -> tuple[str, ...]:
        """A row's recipe in the names of this config, each of which is meant for the dataset."""
        meant, steps = self._meant_for(dataset), [dataset]
        for kind, wanted in zip(KINDS[1:], recipe.split("/"), strict=False):
            name = block.get("names", {}).get(wanted, wanted)
            seeded = f"{name}_seed_"
            here = {n for section, n in meant if section == section_of(kind)}
            if kind == "classifier":  # a sweep over its seeds may be there in its place
                choice = [name, *sorted(n for n in here if n.startswith(seeded))]
                used = {s[1] for s in self._plan.recipes if s[0] == dataset}
                name = next((n for n in choice if n in used), next((n for n in choice if n in here), name))
            if name not in here:
                why = block.get("missing", {}).get(wanted, f"there is no {kind} '{name}' for '{dataset}' in the config")
                raise RecipeError(why)
            steps.append(name)
        return tuple(steps)

    @functools.cache  # noqa: B019
    def _meant_for(self, dataset: str) -> set[tuple[str, str]]:
        """(section, name) of the instances of this config that are meant for a dataset."""
        found = self._plan.layers.configured(dataset) | self._plan.layers.given(dataset)
        return {(section, name) for section, name in found if name in self._plan.config.get(section, {})}

    def _seeds(self, steps: tuple[str, ...]) -> list[tuple[str, ...]]:
        """The recipe with every classifier that differs from its own by the seed alone, by seed."""
        own = self._plan.but_for_the_seed(steps[1])
        alike = {own.pop("seed", None): steps[1]}
        for section, name in sorted(self._meant_for(steps[0])):
            if section != "classifiers":
                continue
            try:
                item = self._plan.but_for_the_seed(name)
            except RecipeError:
                continue  # it names a classifier that is not there
            seed = item.pop("seed", None)
            if item == own:
                alike.setdefault(seed, name)
        order = sorted(alike, key=lambda seed: -1 if seed is None else seed)
        return [(steps[0], alike[seed], *steps[2:]) for seed in order]

    def _goal(self, steps: tuple[str, ...], column: Mapping[str, Any], split: str) -> Target:
        """The score or the study's table. Raises ``CamflowError`` for one that the recipe cannot have."""
        stem, dataset = column.get("study") or column.get("score", "score"), steps[0]
        found = target(steps, stem, split, ".csv" if "study" in column else ".json")
        self._plan.check_file(found)
        masks = "masks" in found.leaf.facets and not self._plan.has_masks(dataset)
        if masks or (stem in NEEDS_BOXES and not self._plan.has_boxes(dataset)):
            raise RecipeError(f"'{dataset}' has no {'masks' if masks else 'boxes'} to score against")
        return found

    # --- files and jobs ----------------------------------------------------------------------------------------------

    def goals(self, paper: str, table: str) -> list[Target]:
        """Every score and study that a table is made from, each once."""
        return list(dict.fromkeys(goal for cell in self.cells(paper, table) for goal in cell.goals))

    def parts(self, readable: str) -> dict[str, Any]:
        """What decides a table, given by its readable path."""
        paper, table, _ = _split(readable)
        return {
            "code": keys.code_digests([SCRIPT]),
            "scores": {goal.path: self._plan.path(goal) for goal in self.goals(paper, table)},
            "table": self._description(paper, table),
        }

    def path(self, readable: str) -> str:
        """Store path of a table, given by its readable path. Raises ``RecipeError`` for one that is not there."""
        paper, table, suffix = _split(readable)
        return str(self._plan.store / "papers" / paper / f"{table}-{keys.short(self.parts(readable))}{suffix}")

    def _description(self, paper: str, table: str) -> dict[str, Any]:
        """A table for the script that makes it, JSON-able."""
        entry, item = self._catalogue[paper], self._table(paper, table)
        rows = [
            {**asdict(replace(cell, goals=())), "goals": [goal.path for goal in cell.goals]}
            for cell in self.cells(paper, table)
        ]
        named = {"name": target_name(paper, table), "paper": entry["title"], "citation": entry["citation"]}
        return json.loads(json.dumps({**named, "title": item["title"], "cells": rows}))

    def job(self, paper: str, table: str, token: str) -> str:
        """Description of the job that makes a table."""
        readable = f"papers/{paper}/{table}.csv"
        path = self.path(readable)
        if f"-{token}." not in path:
            raise RecipeError(
                f"the table {token} was asked for, but config and code now give {path}; start Snakemake again"
            )
        scores = [goal.path for goal in self.goals(paper, table)]
        return self._plan.describe(
            readable, (), path, token=token, scores=scores, table=self._description(paper, table)
        )


def target_name(paper: str, table: str) -> str:
    """``table_1`` of advcam is the target ``table_advcam_1``."""
    kind, _, number = table.partition("_")
    return f"{kind}_{paper}_{number}"


def _files(paper: str, table: str) -> list[str]:
    return [f"papers/{paper}/{table}{suffix}" for suffix in SUFFIXES]


def _split(readable: str) -> tuple[str, str, str]:
    """Paper, table and suffix of ``papers/advcam/table_1.csv``."""
    _, *place = readable.split("/")
    table, dot, suffix = place[-1].partition(".")
    if len(place) != 2 or dot + suffix not in SUFFIXES:
        raise RecipeError(f"'{readable}' is no table of a paper; write papers/PAPER/TABLE{{{','.join(SUFFIXES)}}}")
    return place[0], table, dot + suffix


def _study_cell(wanted: Mapping[str, Any]) -> Cell:
    """A cell that only asks for a study."""
    return Cell(wanted["study"], "", wanted["recipe"], "", "", 1.0, None, True, "", "", "")


__all__ = ["Cell", "Papers", "target_name"]
