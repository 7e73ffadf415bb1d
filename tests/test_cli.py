"""The command ``camflow`` on made results: what gc may remove, what why names, what show refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from camflow import cli
from camflow.plan import gc
from camflow.plan.plan import Plan, parse_target
from camflow.store import StoreWriter, write_json
from tests.places import with_places

CONFIG = {
    "recipes": ["parts/plain/cam/{none,crf}"],
    "datasets": {"parts": {"format": "parts", "train": 10, "val": 6}},
    "classifiers": {"plain": {"method": "plain", "backbone": "tiny", "weights": "none"}},
    "localizers": {"cam": {"method": "cam", "scales": [1.0]}},
    "refiners": {"none": {"method": "none"}, "crf": {"method": "crf"}},
}
SCORE = "results/parts/plain/cam/score.val.json"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    configure({})
    return tmp_path


def configure(places: dict) -> Plan:
    """Write config.yaml: CONFIG with values set (or, for None, removed) at dotted places."""
    Path("config.yaml").write_text(yaml.safe_dump(with_places(CONFIG, places)))
    return Plan.load(["config.yaml"])


def build(plan: Plan) -> None:
    """Fill the results as a run of the plan would, with empty files, links and the register of keys."""
    goals = [readable.split("/", 1)[1] for readable in plan.readable()]
    paths = {goal: plan.path_of(goal) for goal in goals}
    for goal in [goal for goal in goals if not goal.startswith("tables/")]:
        target = parse_target(goal)
        paths |= {item.path: plan.path(item) for item in plan.reads(target).values()}
        for name, (key, parts) in plan.explain(target).items():
            write_json(plan.register(name) / f"{key}.json", parts)
    for goal, path in paths.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(goal)
    for split in ("train", "val"):
        maps = parse_target(f"parts/plain/cam/maps.{split}.h5")
        for number in range(2):
            shard = Path(plan.path(maps, (number, 2)))
            shard.parent.mkdir(parents=True, exist_ok=True)
            shard.write_text("shard")
    for goal in goals:
        link = plan.results / goal
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(paths[goal], link.parent))
    plan.made_folder("parts").mkdir(parents=True, exist_ok=True)
    scratch = plan.results / "scratch" / plan.folder(("parts", "plain")).relative_to(plan.store)
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / "epoch-00001.ckpt").write_text("checkpoint")


def everything() -> set[str]:
    return {str(path) for path in Path("results").rglob("*") if path.is_symlink() or not path.is_dir()}


def listed(capsys, *arguments: str) -> set[str]:
    """Paths that gc prints."""
    assert cli.main(["gc", *arguments]) == 0
    *lines, total = capsys.readouterr().out.splitlines()
    assert ("removed" if "--delete" in arguments else "--delete removes it") in total
    return {line.split(" MB  ")[1] for line in lines}


# --- gc --------------------------------------------------------------------------------------------------------------


def test_gc_leaves_what_the_config_reaches(folder, capsys):
    build(configure({}))
    before = everything()
    assert listed(capsys, "--delete") == set()
    assert everything() == before


def test_gc_lists_what_a_changed_parameter_left_behind_and_nothing_else(folder, capsys):
    old = configure({})
    build(old)
    before = everything()
    links = {path for path in before if Path(path).is_symlink()}
    new = configure({"localizers.cam.scales": [0.5]})
    stale = {str(old.folder(("parts", "plain", "cam")))}
    stale |= {old.table_path("scores", suffix) for suffix in (".csv", ".md", ".html")}
    stale |= {path for path in links if path.startswith("results/parts/plain/cam/")}
    assert listed(capsys) == stale
    assert everything() == before  # listing removes nothing

    build(new)
    fresh = everything() - before
    assert fresh
    stale -= links  # which now lead to the new files
    assert listed(capsys) == stale
    assert listed(capsys, "--delete") == stale
    kept = {path for path in before if not any(path == item or path.startswith(f"{item}/") for item in stale)}
    assert everything() == kept | fresh
    assert all(Path(path).exists() for path in everything())  # no link is left dangling
    assert listed(capsys) == set()


def shows_all_recipes(path):
    """Whether a file shows whatever recipes there are: the tables, and the errors of all refiners of some maps."""
    return path.startswith("results/store/tables/") or Path(path).name.startswith("errors.")


def test_gc_keeps_both_variants_of_a_config_that_names_both(folder, capsys):
    build(configure({}))
    flat = {"method": "cam", "scales": [0.5]}
    build(configure({"localizers.flat": flat, "recipes": ["parts/plain/flat/none"]}))
    both = {"localizers.flat": flat, "recipes": ["parts/plain/{cam,flat}/none"]}
    build(configure(both))
    found = listed(capsys)
    assert all(shows_all_recipes(path) for path in found)


def test_gc_leaves_an_instance_that_no_recipe_uses(folder, capsys):
    build(configure({}))
    configure({"recipes": ["parts/plain/cam/none"]})
    assert all(shows_all_recipes(path) for path in listed(capsys))


def test_gc_lists_an_instance_that_is_gone(folder, capsys):
    plan = configure({})
    build(plan)
    configure({"refiners.crf": None, "recipes": ["parts/plain/cam/none"]})
    found = {path for path in listed(capsys) if not shows_all_recipes(path)}
    crf = plan.folder(("parts", "plain", "cam", "crf"))
    assert str(crf) in found
    assert all(path == str(crf) or path.startswith("results/parts/plain/cam/crf/") for path in found)


def test_gc_lists_files_whose_own_key_changed(folder, capsys):
    plan = configure({})
    build(plan)
    configure({"evaluation.threshold": 0.3})
    found = listed(capsys)
    assert plan.path_of("parts/plain/cam/score.val.json") in found
    assert plan.path_of("parts/plain/cam/maps.val.h5") not in found
    assert str(plan.folder(("parts", "plain", "cam"))) not in found


def test_gc_leaves_other_configs_alone(folder, capsys):
    build(configure({}))
    others = ("store/voc12-01234567/plain-89abcdef/classifier.pt", "data/voc12-01234567/manifest.json",
              "scratch/voc12-01234567/plain-89abcdef/epoch-00001.ckpt")  # fmt: skip
    for name in others:
        path = Path("results", name)
        path.parent.mkdir(parents=True)
        path.write_text("theirs")
    link = Path("results/voc12/plain/classifier.pt")
    link.parent.mkdir(parents=True)
    link.symlink_to("../../store/voc12-01234567/plain-89abcdef/classifier.pt")
    before = everything()
    assert listed(capsys, "--delete") == set()
    assert everything() == before


def test_gc_lists_a_made_dataset_and_a_scratch_folder_of_old_keys(folder, capsys):
    old = configure({})
    build(old)
    configure({"datasets.parts.train": 11})
    found = listed(capsys)
    dataset = old.folder(("parts",)).name
    assert {f"results/store/{dataset}", f"results/scratch/{dataset}", str(old.made_folder("parts"))} <= found


def test_gc_lists_what_dead_processes_left_and_leaves_what_live_ones_write(folder, capsys):
    plan = configure({})
    build(plan)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    home = plan.folder(("parts", "plain"))
    gone, alive = home / f".score.json.{dead.pid}-0a1b2c3d.tmp", home / f".score.json.{os.getpid()}-0a1b2c3d.tmp"
    private = plan.results / "data" / f".parts-01234567.{dead.pid}.tmp"
    corrupt = home / "classifier.pt.corrupt"
    private.mkdir()
    nested = private / f".labels.json.{dead.pid}-0a1b2c3d.tmp"
    for path in (gone, alive, corrupt, nested):
        path.write_text("part")
    assert listed(capsys) == {str(path) for path in (gone, corrupt, private, nested)}
    assert listed(capsys, "--delete") == {str(path) for path in (gone, corrupt, private)}
    assert alive.exists() and not private.exists() and not gone.exists()


def test_gc_lists_shards_of_old_content_and_keeps_those_of_another_count(folder, capsys):
    plan = configure({})
    build(plan)
    maps = parse_target("parts/plain/cam/maps.val.h5")
    other_count, old = Path(plan.path(maps, (0, 3))), Path(plan.path(maps, (0, 2))).with_name("0of2-00000000.h5")
    for path in (other_count, old):
        path.write_text("shard")
    assert listed(capsys) == {str(old)}


def test_gc_refuses_while_a_dataset_is_not_there(folder, capsys):
    """A disk that is not mounted must not look like results that nothing reaches."""
    root = folder / "voc"
    for name in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (root / name).mkdir(parents=True)
    for split in ("train", "val"):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text(f"{split}_1\n")
        (root / f"JPEGImages/{split}_1.png").write_bytes(b"photo")
    changes = {"datasets": {"mine": {"format": "voc", "root": str(root)}}, "recipes": ["mine/plain"]}
    plan = configure(changes)
    home = plan.folder(("mine", "plain"))
    home.mkdir(parents=True)
    (home / "classifier.pt").write_text("weeks of work")
    assert listed(capsys) == set()
    root.rename(folder / "unplugged")
    assert cli.main(["gc", "--delete"]) == 1
    assert f"the folder {root} does not exist" in capsys.readouterr().err
    assert (home / "classifier.pt").exists()


def test_sizes_count_what_is_in_a_folder_once(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").write_bytes(b"x" * 1000)
    (tmp_path / "a/link").symlink_to("b/file")
    assert gc.size(tmp_path / "a/b/file") == 1000
    assert 1000 <= gc.size(tmp_path / "a") < 1100
    gc.remove(tmp_path / "a/link")
    assert (tmp_path / "a/b/file").exists()


# --- why -------------------------------------------------------------------------------------------------------------


def why(capsys, path: str = SCORE, *arguments: str) -> str:
    assert cli.main(["why", path, *arguments]) == 0
    return capsys.readouterr().out


def test_why_says_that_all_is_there(folder, capsys):
    build(configure({}))
    text = why(capsys)
    assert text.count("  exists  (") == 4 and "not computed" not in text and "was " not in text
    assert [line.split()[0] for line in text.splitlines()] == [
        "parts", "parts/plain", "parts/plain/cam", "parts/plain/cam/score.val.json",
    ]  # fmt: skip


def test_why_says_that_nothing_was_computed_yet(folder, capsys):
    text = why(capsys)
    assert text.count("not computed yet") == 4
    assert text.count("nothing under another key was computed here before") == 4


def test_why_names_the_changed_parameter(folder, capsys):
    build(configure({}))
    configure({"localizers.cam.long_side": 40})
    text = why(capsys)
    below = text.split("parts/plain/cam  key")
    assert "not computed yet" not in below[0]
    assert "    parameters.long_side: None -> 40" in below[1]
    assert "parameters.scales" not in text


def test_why_takes_overlays_and_overrides(folder, capsys):
    build(configure({}))
    Path("more.yaml").write_text("refiners: {crf: {method: crf, iterations: 3}}")
    path = "results/parts/plain/cam/crf/score.val.json"
    assert "parameters.iterations: new (3)" in why(capsys, path, "--configfile", "more.yaml")
    assert "parameters.epochs: 5 -> 7" in why(capsys, path, "--config", "classifiers={plain: {epochs: 7}}")


def test_why_names_the_changed_module(folder, capsys):
    plan = configure({})
    build(plan)
    steps = ("parts", "plain", "cam")
    entry = plan.register("/".join(steps)) / f"{plan.key(steps)}.json"
    parts = json.loads(entry.read_text())
    parts["code"]["camflow.localize.cam"] = "0" * 64
    entry.rename(entry.with_name("00000000.json"))
    write_json(entry.with_name("00000000.json"), parts)
    assert "  was 00000000:\n    code.camflow.localize.cam: changed\n" in why(capsys)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("results", "is not a result"),
        ("results/parts/plain/cam/scor.val.json", "did you mean 'score.{split}.json'"),
        ("results/parts/plain/cam/score.json", "write score.train.json or score.val.json"),
        ("results/parts/plain/cam/score", "a localizer has no file 'score'"),
        ("results/prats/plain/score.val.json", "there is no dataset 'prats' in datasets of the config"),
        ("results/parts/plain/cam/crv/masks.val.h5", "there is no refiner 'crv' in refiners of the config; did you"),
        ("results/a/b/c/d/e/f/g.json", "is not a result"),
    ],
)
def test_why_refuses_a_path_that_is_no_result(folder, capsys, path, message):
    assert cli.main(["why", path]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err and captured.err.count("\n") == 1


# --- show ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def masks(folder) -> Path:
    """A store of masks whose names look like markup."""
    path = folder / "[red].h5"
    with StoreWriter(path, stage="masks", class_names=["[b]", "cat"], meta={"target": "a/masks.val.h5"}) as writer:
        for name in ("one", "[two]", "three"):
            writer.write(name, np.ones((4, 4), np.uint8), score=[1, 2])
    return path


def test_show_prints_names_as_they_are(masks, capsys):
    assert cli.main(["show", str(masks), "--images", "2"]) == 0
    text = capsys.readouterr().out.replace("\n", "")
    for piece in ("[red].h5", "stage masks, 3 images", "classes: [b], cat", "[two]", "1 more"):
        assert piece in text, piece


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothere.h5"], "nothere.h5: is missing"),
        (["config.yaml"], "config.yaml: is no store; give an .h5 file of the results"),
        (["."], ".: is no store; give an .h5 file of the results"),
        (["foreign.h5"], "foreign.h5: is not a camflow/1 file"),
        (["[red].h5", "--image", "one"], "found no catalog.val-*.h5 in the folders above it; give one with --catalog"),
        (["[red].h5", "--image", "one", "--catalog", "no.h5"], "no.h5: is missing"),
        (["[red].h5", "--image", "one", "--catalog", "[red].h5"], "holds 'masks', not 'catalog'"),
    ],
)
def test_show_refuses(masks, capsys, arguments, message):
    import h5py

    h5py.File("foreign.h5", "w").close()
    before = sorted(Path().iterdir())
    assert cli.main(["show", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert sorted(Path().iterdir()) == before


# --- the parser ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["whi"], ["why"], ["show", "x.h5", "--images", "many"], ["gc", "--dlete"]])
def test_a_wrong_command_exits_with_its_usage(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: camflow" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["why", "gc", "show", "bench"])
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    assert "usage: camflow" in capsys.readouterr().out
