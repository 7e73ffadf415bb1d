"""A trained recipe on other photos: the scripts of its stages, run one after the other on a catalog of these photos.

What belongs to no split (networks, prototypes) and what belongs to the dataset's own splits (the threshold of the seed) is
taken from the store; everything else is made by the very scripts that the workflow runs, so that a photo gets what it
would get there.
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from camflow.apply.photos import SPLIT
from camflow.errors import RecipeError
from camflow.plan.job import Job
from camflow.plan.origin import check_origin
from camflow.plan.plan import SCRIPTS, VERBS, Plan, Target


class Inputs(dict):
    """Files by name, as a script reads them of its job."""

    __getattr__ = dict.__getitem__


class Output:
    """The one file that a script writes, whatever its rule calls it."""

    def __init__(self, path: Path):
        self._path = str(path)

    def __getattr__(self, name: str) -> str:
        return self._path


class StageJob(Job):
    """A job that no Snakemake has planned; see ``Plan.describe`` for its description."""

    def __init__(self, description: dict[str, Any], inputs: dict[str, str], output: Path, threads: int):
        self.description = description
        self.input = Inputs(inputs)
        self.output = Output(output)
        self.threads = threads


class Stages:
    """The files of a recipe for a set of photos.

    Args:
        plan: of the config.
        folder: where they are made.
        catalog: of the photos.
        device: where networks run.
        jobs: photos worked on side by side.
    """

    def __init__(self, plan: Plan, folder: Path, catalog: Path, *, device: str, jobs: int = 1):
        self.plan, self.folder, self.catalog = plan, folder, catalog
        self.runtime = {**plan.config["runtime"], "device": device, "workers": 0}
        self.jobs = jobs
        self._made: dict[Target, str] = {}

    def make(self, goal: Target) -> str:
        """Path of a file of the recipe, made from the photos if it is theirs."""
        if goal.split != SPLIT:
            return self.plan.path(goal)
        if goal.leaf.stem == "catalog":
            return str(self.catalog)
        if goal not in self._made:
            inputs = {name: self.make(item) for name, item in self.plan.reads(goal).items()}
            output = self.folder / f"{len(self._made)}.{goal.leaf.stem}{goal.leaf.suffix}"
            description = json.loads(self.plan.describe(goal, str(output), token=""))
            task = StageJob({**description, "runtime": self.runtime}, inputs, output, self.jobs)
            # As a main module: processes that it starts read the script again.
            runpy.run_path(str(self._script(goal)), {"snakemake": task}, run_name="__main__")
            self._made[goal] = str(output)
        return self._made[goal]

    def _script(self, goal: Target) -> Path:
        kind = goal.leaf.kind
        name = goal.leaf.script or f"{VERBS[kind]}_{self.plan.method(kind, goal.steps[-1])}"
        return SCRIPTS / f"{name}.py"


def stored_parts(plan: Plan, goals: Sequence[Target]) -> list[Target]:
    """What the store must hold before files of photos can be made, each once."""

    def parts(goal: Target) -> Iterator[Target]:
        if goal.split != SPLIT:
            yield goal
        elif goal.leaf.stem != "catalog":
            for item in plan.reads(goal).values():
                yield from parts(item)

    return list(dict.fromkeys(item for goal in goals for item in parts(goal)))


def check_stored(plan: Plan, goals: Sequence[Target], options: str = "") -> None:
    """Refuse files of photos whose networks are not there yet.

    Args:
        plan: of the config.
        goals: files of photos.
        options: of the command that makes what is missing.

    Raises:
        RecipeError: names what is missing and the command that makes it.
        StoreError: a file was made for another path, or is damaged.
    """
    parts = stored_parts(plan, goals)
    missing = [str(plan.results / item.path) for item in parts if not Path(plan.path(item)).exists()]
    if missing:
        raise RecipeError(
            f"the recipe lacks {', '.join(missing)} for this config, code and data; make it with\n"
            f"  snakemake --cores all{options} {' '.join(missing)}"
        )
    for item in parts:
        check_origin(Path(plan.path(item)))
