"""``camflow why``, ``gc`` and ``show`` on the results of a real run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from project import environment

from camflow.store import Store

CAM = "results/parts/plain/cam"


def camflow(project, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    """Run the copy's own command, whose code the keys are made of."""
    command = [sys.executable, "-m", "camflow.cli", *arguments]
    run = subprocess.run(command, cwd=project.folder, env=environment(), capture_output=True, text=True)
    assert "Traceback" not in run.stdout + run.stderr, run.stderr
    if check:
        assert run.returncode == 0, run.stderr
    return run


def gc(project, *arguments: str) -> set[str]:
    lines = camflow(project, "gc", *arguments).stdout.splitlines()[:-1]
    return {line.split(" MB  ")[1] for line in lines}


def store_file(project, recipe: str, pattern: str) -> str:
    """The only file of the store below a recipe's folders."""
    folders = "/".join(f"{step}-*" for step in recipe.split("/"))
    (path,) = (project.results / "store").glob(f"{folders}/{pattern}")
    return str(path.relative_to(project.folder))


def test_a_finished_run_is_reached_and_explained(finished):
    assert gc(finished) == set()
    text = camflow(finished, "why", f"{CAM}/score.val.json").stdout
    assert "not computed" not in text and "was " not in text


@pytest.mark.long
def test_a_parameter_that_changed_is_named_collected_and_can_come_back(copy):
    old = store_file(copy, "parts/plain/cam/crf", "masks.val-*.h5").rsplit("/", 1)[0]
    scores = copy.scores()
    copy.edit("config.yaml", "iterations: 2", "iterations: 3")
    why = camflow(copy, "why", f"{CAM}/crf/score.val.json").stdout
    assert "    parameters.iterations: 2 -> 3" in why
    assert why.count("not computed yet") == 2  # the instance and its score

    copy.snakemake(f"{CAM}/crf/score.val.json")
    found = gc(copy)
    of_all_refiners = {path for path in found if Path(path).name.startswith("errors.val")}
    assert {path for path in found if "/store/parts-" in path} - of_all_refiners == {old}
    assert len(of_all_refiners) == 2  # table and figure; the links to them went when the config was read again
    rest = found - of_all_refiners - {old}
    assert all("/tables/" in path or path.startswith(f"{CAM}/crf/") for path in rest)

    gc(copy, "--delete")
    assert not (copy.folder / old).exists()
    assert gc(copy) == set()
    for path in ("cam/score.val.json", "cam/none/score.val.json", "cam/crf/score.val.json", "score.val.json"):
        assert (copy.results / "parts/plain" / path).is_file()
    kept = "parts/plain/cam/score.val.json"
    assert copy.scores()[kept] == scores[kept]
    planned = copy.planned(f"{CAM}/none/score.val.json", f"{CAM}/crf/score.val.json")
    assert planned == {}  # what is live was left alone


def test_a_module_that_changed_is_named(copy):
    copy.edit("camflow/refine/crf.py", "CLIP = 1e-5", "CLIP = 2e-5")
    why = camflow(copy, "why", f"{CAM}/crf/masks.val.h5").stdout
    assert "    code.camflow.refine.crf: changed" in why
    assert why.count(": changed") == 1


@pytest.mark.parametrize(
    ("recipe", "pattern", "stage"),
    [("parts", "catalog.val-*.h5", "catalog"), ("parts/plain/cam", "maps.val-*.h5", "maps"),
     ("parts/plain/cam/crf", "masks.val-*.h5", "masks")],
    ids=["catalog", "maps", "masks"],
)  # fmt: skip
def test_show_prints_and_draws(finished, tmp_path, recipe, pattern, stage):
    path = store_file(finished, recipe, pattern)
    text = camflow(finished, "show", path).stdout
    assert f"stage {stage}, 6 images" in text
    assert f"recipe: {recipe}" in text
    assert "classes: marlu, tokka" in text

    image = Store(finished.folder / store_file(finished, "parts/plain/cam/crf", "masks.val-*.h5")).ids[0]
    out = tmp_path / "new/picture.png"
    run = camflow(finished, "show", path, "--image", image, "--out", str(out))
    assert run.stdout.strip() == str(out)
    with Image.open(out) as picture:
        picture.load()
        assert picture.format == "PNG" and picture.width > picture.height  # columns side by side


def test_show_draws_from_a_readable_path_and_from_a_shard(finished, tmp_path):
    shard = next((finished.results / "store").glob("parts-*/plain-*/cam-*/maps.val.shards/*.h5"))
    image = Store(shard).ids[0]
    for name, path in {"shard": str(shard), "readable": f"{CAM}/maps.val.h5"}.items():
        out = tmp_path / f"{name}.png"
        camflow(finished, "show", path, "--image", image, "--out", str(out))
        assert out.stat().st_size > 1000


@pytest.mark.parametrize(
    ("recipe", "pattern"),
    [("parts", "catalog.val-*.h5"), ("parts/plain/cam", "maps.val-*.h5")],
    ids=["catalog", "maps"],
)
def test_show_refuses_an_unknown_image(finished, tmp_path, recipe, pattern):
    path, out = store_file(finished, recipe, pattern), tmp_path / "none.png"
    known = Store(finished.folder / store_file(finished, "parts/plain/cam/crf", "masks.val-*.h5")).ids[0]
    run = camflow(finished, "show", path, "--image", known + "x", "--out", str(out), check=False)
    assert run.returncode == 1
    assert f"has no image '{known}x'; did you mean '{known}'?" in run.stderr
    assert not out.exists()


def test_show_refuses_an_image_of_another_shard(finished, tmp_path):
    first, second = sorted((finished.results / "store").glob("parts-*/plain-*/cam-*/maps.val.shards/*.h5"))
    image = Store(second).ids[0]
    run = camflow(finished, "show", str(first), "--image", image, "--out", str(tmp_path / "no.png"), check=False)
    assert run.returncode == 1
    assert f"has no image '{image}'" in run.stderr
