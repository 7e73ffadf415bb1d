"""The documentation holds: links, named files and methods exist, and the worked example runs as it is printed."""

from __future__ import annotations

import re

import numpy as np
import pytest
import yaml

from camflow.store import Store
from tests.workflow.project import PROJECT as ROOT
from tests.workflow.project import TINY, Project, copy_project

EXAMPLE = ROOT / "docs" / "adding-a-method.md"
RECIPE = "results/parts/plain/sharp"


# --- a method in 30 lines --------------------------------------------------------------------------------------------


def blocks() -> dict[str, str]:
    """File -> the code that the page has for it: a step's heading and the file, then a fence."""
    steps = re.split(r"^\*\*\d\. .+?\*\*", EXAMPLE.read_text().split("\n## ")[0], flags=re.MULTILINE)[1:]
    files = [re.search(r"`(\w+/[\w./]+)`", step)[1] for step in steps]
    return {file: re.search(r"```\w+\n(.*?)```", step, re.DOTALL)[1] for file, step in zip(files, steps, strict=True)}


@pytest.fixture
def extended(tmp_path) -> Project:
    """A copy of the project with the example's blocks: new files as they are, others longer at their end."""
    project = copy_project(tmp_path / "project")
    for file, code in blocks().items():
        path = project.folder / file
        path.write_text((path.read_text() + "\n\n" if path.exists() else "") + code)
    project.configure(localizers={**TINY["localizers"], "sharp": {"method": "power", "exponent": 3, "scales": [1.0]}})
    return project


def test_the_example_has_30_lines():
    assert list(blocks()) == [
        "camflow/localize/power.py",
        "workflow/schemas/localizers.schema.yaml",
        "workflow/scripts/localize_power.py",
        "workflow/rules/localize.smk",
    ]
    assert sum(bool(line.strip()) for code in blocks().values() for line in code.splitlines()) <= 30


def test_the_example_is_planned(extended):
    planned = extended.planned(f"{RECIPE}/score.val.json")
    assert planned["localize_power"] == 2 * 2  # two shards of each split, as train gives the threshold
    assert "localize_cam" not in planned
    assert "exponent" in extended.python("from camflow.cli import main; main(['methods', 'power'])")


@pytest.mark.long
def test_the_example_runs(extended):
    extended.snakemake(
        f"{RECIPE}/score.val.json", f"{RECIPE}/crf/score.val.json", "results/parts/plain/cam/maps.val.h5"
    )
    sharp, plain = (Store(extended.results / f"parts/plain/{name}/maps.val.h5") for name in ("sharp", "cam"))
    assert len(plain) == 6 and sharp.ids == plain.ids
    for image_id in plain.ids:  # maps are stored by their largest value, so a power of one is that of the other
        np.testing.assert_allclose(sharp.read(image_id), plain.read(image_id).astype(float) ** 3, rtol=0, atol=2e-3)
    # Another exponent makes these maps anew and no others.
    config = yaml.safe_load((extended.folder / "config.yaml").read_text())
    config["localizers"]["sharp"]["exponent"] = 2
    (extended.folder / "config.yaml").write_text(yaml.safe_dump(config))
    planned = extended.planned(f"{RECIPE}/score.val.json", "results/parts/plain/cam/score.val.json")
    assert planned["localize_power"] == 4 and "localize_cam" in planned  # cam's training split was not asked for
    assert "train_plain" not in planned


# --- the workflow catalog --------------------------------------------------------------------------------------------


def test_the_entry_of_the_workflow_catalog(tmp_path):
    """From a folder of its own, with a configuration of its own: what `snakemake --snakefile CLONE/workflow/Snakefile` does."""
    project = Project(tmp_path)
    project.configure()
    run = project.snakemake(
        "--snakefile", str(ROOT / "workflow" / "Snakefile"), "-n", "results/parts/plain/cam/maps.val.h5"
    )
    assert re.search(r"localize_cam\s+2\n", run.stdout + run.stderr)


def test_the_workflow_catalog_finds_what_it_asks_for():
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage["report"] is True and usage["software-stack-deployment"]["conda"] is True
    assert (ROOT / "workflow" / "Snakefile").exists() and (ROOT / "config" / "README.md").exists()
    assert (ROOT / usage["mandatory-flags"]["flags"].split()[-1]).exists()


def test_every_overlay_is_in_the_readme_of_the_folder():
    named = set(re.findall(r"`(\w+\.yaml)`", (ROOT / "config" / "README.md").read_text())) - {"config.yaml"}
    assert named == {path.name for path in (ROOT / "config").glob("*.yaml")}
