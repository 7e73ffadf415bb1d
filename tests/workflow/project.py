"""A copy of the project with a dataset and a network small enough to run the real workflow in seconds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parents[2]
PARTS = ("Snakefile", "camflow", "workflow", "profiles", "config", "envs")

TINY = {
    "recipes": ["parts/plain/cam/{none,crf}"],
    "datasets": {"parts": {"format": "parts", "train": 10, "val": 6, "size": 48, "classes": 2}},
    "classifiers": {
        "plain": {
            "method": "plain", "backbone": "tiny", "width": 4, "weights": "none", "output_stride": None, "crop": 48,
            "freeze_bn": False, "freeze_stem": False, "detach": "none", "epochs": 2, "batch_size": 4, "lr": 0.05,
            "momentum_slot": "paper", "scale": None,
        }
    },
    "localizers": {"cam": {"method": "cam", "scales": [1.0]}},
    "refiners": {"none": {"method": "none"}, "crf": {"method": "crf", "iterations": 2}},
    "report": {"images": 2},
}  # fmt: skip


class Project:
    """A working copy in a folder of its own."""

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def configure(self, **changes) -> None:
        """Write config.yaml: the tiny default with whole sections replaced."""
        (self.folder / "config.yaml").write_text(yaml.safe_dump({**TINY, **changes}))

    def snakemake(self, *arguments: str, check: bool = True, cores: int = 2) -> subprocess.CompletedProcess:
        """Run Snakemake for real."""
        command = [sys.executable, "-m", "snakemake", "--cores", str(cores), *arguments]
        run = subprocess.run(command, cwd=self.folder, env=environment(), capture_output=True, text=True)
        if check and run.returncode:
            raise AssertionError(f"{' '.join(command)} failed:\n{run.stdout}\n{run.stderr}")
        return run

    def planned(self, *arguments: str) -> dict[str, int]:
        """Rule -> number of jobs that a dry run would start, without links and targets."""
        run = self.snakemake("-n", *arguments)
        text = run.stdout + run.stderr
        if "Job stats:" not in text:
            assert "Nothing to be done" in text, text
            return {}
        block = text.split("Job stats:")[1].split("total")[0].strip().splitlines()[2:]
        counts = {line.split()[0]: int(line.split()[1]) for line in block}
        return {name: count for name, count in counts.items() if name not in LINKS}

    def python(self, code: str) -> str:
        """Output of Python code run in the copy."""
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=self.folder, env=environment(), capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    def scores(self) -> dict[str, bytes]:
        """Readable path -> bytes of every score and table."""
        found = [*self.results.glob("parts/**/score.*.json"), *self.results.glob("tables/*")]
        return {str(path.relative_to(self.results)): path.read_bytes() for path in sorted(found)}

    def edit(self, file: str, before: str, after: str) -> None:
        """Replace a piece of a file of the copy."""
        path = self.folder / file
        text = path.read_text()
        assert before in text, f"{file} does not contain {before!r}"
        path.write_text(text.replace(before, after, 1))


LINKS = ("view", "view_figure", "view_table", "all", "tables")


def environment() -> dict[str, str]:
    """One thread a process: small networks on two cores are ruined by more."""
    hidden = ("PYTHONPATH", "CAMFLOW_GOLDEN")
    return {**{key: value for key, value in os.environ.items() if key not in hidden}, "OMP_NUM_THREADS": "1"}


def copy_project(folder: Path) -> Project:
    folder.mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            shutil.copy2(source, folder / name)
    project = Project(folder)
    project.configure()
    return project


PLAN = """
import json, os, sys
from pathlib import Path
from camflow.plan.plan import Plan, parse_target

def planned(overrides):
    plan = Plan.load(["config.yaml"], overrides)
    goals = {p.split("/", 1)[1]: plan.path_of(p.split("/", 1)[1]) for p in plan.readable()}
    for target in [parse_target(path) for path in goals if not path.startswith("tables/")]:
        goals |= {goal.path: plan.path(goal) for goal in plan.reads(target).values()}
    return goals | {"data/parts": str(plan.made_folder("parts"))}
"""


def plan_of(project: Project, overrides: dict | None = None) -> dict[str, str]:
    """Readable path -> store path of everything the default builds, as planned by the copy's own code."""
    return json.loads(
        project.python(f"{PLAN}\nprint(json.dumps(planned(json.loads({json.dumps(overrides or {})!r}))))")
    )


def plans_after(project: Project, added: dict[str, str]) -> dict[str, dict[str, str]]:
    """File -> the plan after that file alone has got a text at its end.

    Each plan is made by a process of its own, forked from one that has the imports behind it, has read all modules as they
    were, and has planned nothing.
    """
    code = f"""{PLAN}
from camflow.plan import keys
top = keys.PACKAGE.parent
names = [".".join(file.relative_to(top).with_suffix("").parts) for file in keys.PACKAGE.rglob("*.py")]
keys.code_digests(name.removesuffix(".__init__") for name in names)
found = {{}}
for file, text in json.loads({json.dumps(added)!r}).items():
    path = Path(file)
    before = path.read_bytes()
    path.write_bytes(before + text.encode())
    os.utime(path, (0, 0))
    reader, writer = os.pipe()
    if not (child := os.fork()):
        with os.fdopen(writer, "w") as pipe:
            json.dump(planned({{}}), pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        found[file] = json.load(pipe)
    os.waitpid(child, 0)
    path.write_bytes(before)
print(json.dumps(found))"""
    return json.loads(project.python(code))
