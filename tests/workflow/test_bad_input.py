"""What a user can get wrong: one message that names the thing and the remedy, no traceback, nothing half-written.

Most cases go through ``camflow``, which plans as the Snakefile does; one of each kind goes through Snakemake itself, and
what only a job can find goes through one run of failing jobs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from project import TINY, Project, copy_project, environment

from camflow import cli
from tests.places import with_places

SCORE = "results/parts/plain/cam/score.val.json"


def changed(places: dict) -> dict:
    """The tiny config with values set at dotted places."""
    return with_places(TINY, places)


def one_message(text: str, *expected: str) -> None:
    assert "Traceback" not in text, text
    for piece in expected:
        assert piece in text, f"{piece!r} is not in:\n{text}"


def files(folder: Path) -> set[str]:
    kept = ("store", "data", "tables")
    found = (path for name in kept for path in (folder / "results" / name).rglob("*") if not path.is_dir())
    return {str(path.relative_to(folder)) for path in [*found, *(folder / "results").rglob("*.tmp")]}


# --- a dataset to spoil ----------------------------------------------------------------------------------------------


def make_voc(root: Path, ids=("p1", "p2", "p3", "p4"), size: int = 48) -> Path:
    """A dataset of classes a and b in VOC layout; the same photos on every run."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("a\nb\n")
    for split in ("train", "val"):
        names = [f"{split}_{name}" for name in ids]
        for number, name in enumerate(names):
            rng = np.random.default_rng([len(split), number])
            Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)).save(root / f"JPEGImages/{name}.png")
            mask = np.zeros((size, size), np.uint8)
            mask[8:24, 8:24] = 1 + number % 2
            Image.fromarray(mask).save(root / f"SegmentationClass/{name}.png")
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def voc(root: Path | str, **more) -> dict:
    return {"format": "voc", "root": str(root), "masks": ["SegmentationClass"], **more}


# --- while planning, through `camflow` -------------------------------------------------------------------------------

PLAIN, CRF = "classifiers.plain", "refiners.crf"
# name -> what is set in the config, what the message says
CONFIGS = {
    "unknown section": ({"evalution.splits": ["val"]}, ["evalution: unknown key; did you mean 'evaluation'?"]),
    "unknown nested key": ({"runtime.shard": 2}, ["runtime.shard: unknown key; did you mean 'shards'?"]),
    "number as a key": ({"7": 1}, ["7: unknown key"]),
    "unknown parameter": ({f"{PLAIN}.lerning_rate": 1}, [f"{PLAIN}.lerning_rate: unknown key"]),
    "unknown method": ({"refiners.crf": {"method": "crff"}}, [f"{CRF}.method: there is no 'crff'; did you mean 'crf'"]),
    "no method": ({"refiners.crf": {"preset": "irn"}}, [f"{CRF}: needs 'method'; one of assemble, confident, crf, gt, irn, none, psa"]),
    "unknown format": ({"datasets.parts": {"format": "vocc"}}, ["datasets.parts.format", "did you mean 'voc'"]),
    "wrong type": ({f"{PLAIN}.epochs": "many"}, [f"{PLAIN}.epochs: 'many' should be of type integer", "Passes over"]),
    "fraction for a count": ({f"{PLAIN}.epochs": 1.5}, ["1.5 should be of type integer"]),
    "mapping for a list": ({"recipes": "parts/plain"}, ["recipes: 'parts/plain' should be of type array"]),
    "instance that is no mapping": ({CRF: "irn"}, [f"{CRF}: must be a mapping of parameters, not 'irn'"]),
    "out of range": ({f"{PLAIN}.batch_size": 0}, [f"{PLAIN}.batch_size: 0 is out of range: minimum is 1"]),
    "out of a range with another choice": ({f"{CRF}.threshold": 1.5}, [f"{CRF}.threshold: 1.5", "maximum 1) or 'best'"]),
    "typing error in a choice": ({f"{PLAIN}.optimizer": "addamw"}, ["'addamw' is not allowed; did you mean 'adamw'?"]),
    "unknown device": ({"runtime.device": "gpu"}, ["runtime.device: 'gpu'", "auto, cpu, cuda or cuda:N"]),
    "thresholds in the wrong order": (
        {"evaluation.thresholds": {"start": 0.9, "stop": 0.1}},
        ["evaluation.thresholds: start 0.9 is above stop 0.1"],
    ),
    "no dataset": ({"datasets": {}}, ["datasets: {} should be non-empty"]),
    "sweep without a list": ({f"{CRF}.sweep": {"threshold": 0.3}}, [f"{CRF}.sweep: give each parameter a list"]),
    "sweep that is no mapping": ({f"{CRF}.sweep": [0.3]}, [f"{CRF}.sweep: give each parameter a list"]),
    "sweep of an unknown parameter": ({f"{CRF}.sweep": {"treshold": [0.3]}}, ["treshold: unknown key; did you mean"]),
    "sweep with a value twice": ({f"{CRF}.sweep": {"threshold": [0.3, 0.3]}}, ["makes 'crf_threshold_0.3' twice"]),
    "instance name with a dash": ({"refiners.crf-2": {"method": "crf"}}, ["refiners.crf-2: an instance name starts"]),
    "instance name with a digit first": ({"refiners.2crf": {"method": "crf"}}, ["refiners.2crf: an instance name"]),
    "dataset named like a folder": ({"datasets.store": {"format": "parts"}}, ["datasets.store: this name is used"]),
    "unknown instance in a recipe": ({"recipes": ["parts/plian/cam"]}, ["no classifier 'plian'", "did you mean 'plain'"]),
    "unknown dataset in a recipe": ({"recipes": ["prats/plain/*"]}, ["no dataset 'prats'", "did you mean 'parts'"]),
    "too many segments in a recipe": ({"recipes": ["parts/plain/cam/crf/x/y"]}, ["should be dataset/classifier["]),
    "brace without partner": ({"recipes": ["parts/plain/cam/{none,crf"]}, ["has a brace without its partner"]),
    "star that matches nothing": ({"recipes": ["parts/plain/cam/x*"]}, ["nothing in refiners matches 'x*'", "crf, none"]),
    "published value of no score": (
        {"tables.published": {"parts/plain/cam/scor.val.json": {"value": 50, "source": "x"}}},
        ["tables.published: 'parts/plain/cam/scor.val.json': ", "did you mean 'score.{split}.json'"],
    ),
    "published value without source": ({"tables.published": {"x": {"value": 50}}}, ["'source' is a required property"]),
    "weights file that is not there": ({f"{PLAIN}.weights": "nope/w.pth"}, [f"{PLAIN}.weights: there is no file nope/"]),
    "root that is not there": ({"datasets.parts": voc("/no/such")}, ["dataset 'parts': the folder /no/such does not"]),
    "root that is not given": ({"datasets.parts": {"format": "coco"}}, ["give the folder", "coco_root=FOLDER"]),
    "best threshold without masks": (
        {"datasets.parts": voc("voc", masks=[], labels="labels.csv"), CRF: {"method": "crf", "threshold": 0.3}},
        ["refiner 'none' takes the best threshold", "set refiners.none.threshold to a number"],
    ),
    "id list that is not there": (
        {"datasets.parts": voc("voc", lists={"val": "lists/valid.txt"})},
        ["dataset 'parts': split 'val' not found", "lists/valid.txt does not exist"],
    ),
    "split that is not there": (
        {"datasets.parts": voc("voc"), "evaluation": {"splits": ["test"]}},
        ["split 'test' not found", "Valid names: train, val"],
    ),
}  # fmt: skip
TEXTS = {
    "broken YAML": ("recipes: [a\ndatasets: b", ["config.yaml: is not valid YAML", "line 2"]),
    "key given twice": ("voc_root: a\nvoc_root: b\n", ["config.yaml: the key 'voc_root' is given twice (line 2)"]),
    "braces without quotes": ("recipes: {{a,b}/plain}\n", ["config.yaml: "]),
    "list for a key": ("? [a]\n: b\n", ["a list or mapping stands in the place of a key (line 1)"]),
    "list at the top": ("- a\n", ["must hold 'key: value' pairs"]),
    "empty file": ("", ["'datasets' is a required property", "'recipes' is a required property"]),
    "no text at all": (b"\xff\xfe\x00", ["config.yaml: is not valid YAML"]),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a small dataset and an (empty) folder of tables, so that gc plans everything."""
    make_voc(tmp_path / "voc")
    (tmp_path / "voc/labels.csv").write_text("id,labels\n")
    (tmp_path / "results/store/tables").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(capsys, *arguments: str) -> str:
    """What `camflow why` and `camflow gc` say of a config that cannot be; one of them plans what is wrong."""
    codes = [cli.main(["why", SCORE, *arguments]), cli.main(["gc", *arguments])]
    captured = capsys.readouterr()
    assert 1 in codes
    return captured.err


@pytest.mark.parametrize("name", CONFIGS)
def test_a_wrong_value(place, capsys, name):
    places, expected = CONFIGS[name]
    config = changed(places)
    (place / "config.yaml").write_text(yaml.safe_dump({(int(k) if k.isdigit() else k): v for k, v in config.items()}))
    one_message(planned(capsys), *expected)
    assert files(place) == set()


@pytest.mark.parametrize("name", TEXTS)
def test_a_config_that_cannot_be_read(place, capsys, name):
    text, expected = TEXTS[name]
    (place / "config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    one_message(planned(capsys), *expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--configfile", "nothere.yaml"], ["nothere.yaml: this config file does not exist"]),
        (["--configfile", "voc"], ["voc: cannot be read as a config file"]),
        (["--config", "voc_root"], ["--config: 'voc_root' should be KEY=VALUE"]),
        (["--config", "=x"], ["--config: '=x' should be KEY=VALUE"]),
        (["--config", "voc_rot=x"], ["voc_rot: unknown key; did you mean 'voc_root'"]),
        (["--config", "classifiers={plain: {epochs: x}}"], ["classifiers.plain.epochs: 'x' should be of type integer"]),
        (["--config", "classifiers={plain: [1"], ["classifiers: '{plain: [1' should be of type object"]),
    ],
    ids=["missing overlay", "folder as overlay", "no value", "no key", "unknown key", "wrong type", "half a mapping"],
)
def test_a_wrong_command_line(place, capsys, arguments, expected):
    (place / "config.yaml").write_text(yaml.safe_dump(TINY))
    one_message(planned(capsys, *arguments), *expected)


# --- while planning, through Snakemake -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Project:
    """A project that only ever plans."""
    return copy_project(tmp_path_factory.mktemp("plans") / "project")


SNAKEMAKE = {
    "problems of a config, all of them": (
        changed({f"{PLAIN}.epochs": 0, "refiners.crf": {"method": "cfr"}, "zz": 1}),
        [],
        [f"{PLAIN}.epochs: 0 is out of range", f"{CRF}.method: there is no 'cfr'", "zz: unknown key"],
    ),
    "broken YAML": ("recipes: [a\ndatasets: b", [], ["config.yaml: is not valid YAML", "line 2"]),
    "root that is not there": (changed({"datasets.parts": voc("/no/such")}), [], ["the folder /no/such does not exist"]),
    "star in --config": (TINY, ["--config", 'recipes=["*/plain/cam/x*"]'], ["nothing in refiners matches 'x*'"]),
    "wrong stem": (TINY, ["results/parts/plain/cam/scor.val.json"], ["no file 'scor.json'; did you mean 'score."]),
    "no split": (TINY, ["results/parts/plain/cam/score.json"], ["write score.train.json or score.val.json"]),
    "no suffix": (TINY, ["results/parts/plain/cam/score"], ["a localizer has no file 'score'"]),
    "unknown dataset": (TINY, ["results/prats/plain/score.val.json"], ["no dataset 'prats'", "did you mean 'parts'"]),
}  # fmt: skip


@pytest.mark.parametrize("name", SNAKEMAKE)
def test_snakemake_says_the_same(shared, name):
    config, arguments, expected = SNAKEMAKE[name]
    (shared.folder / "config.yaml").write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    run = shared.snakemake("-n", *arguments, check=False)
    assert run.returncode != 0
    one_message(run.stdout + run.stderr, *expected)
    assert files(shared.folder) == set()


# --- in a job --------------------------------------------------------------------------------------------------------


def spoil(root: Path) -> dict[str, dict]:
    """Datasets by name, each with something wrong that only reading it shows."""
    good = make_voc(root / "good")
    many = make_voc(root / "many", ids=tuple("abcdefgh"))
    with open(many / "ImageSets/Segmentation/train.txt", "a") as handle:
        handle.write("train_nowhere\n")
    (many / "JPEGImages/train_a.png").write_bytes(b"no photo")
    (many / "JPEGImages/train_b.png").write_bytes((many / "JPEGImages/train_b.png").read_bytes()[:200])
    Image.fromarray(np.ones((48, 40), np.uint8)).save(many / "SegmentationClass/train_c.png")
    Image.fromarray(np.full((48, 48), 7, np.uint8)).save(many / "SegmentationClass/train_d.png")
    (many / "SegmentationClass/train_e.png").unlink()
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(many / "SegmentationClass/train_f.png")
    (many / "JPEGImages/train_h.png").write_bytes((many / "JPEGImages/train_g.png").read_bytes())
    (root / "none.txt").write_text("\n")
    table = "id,labels\ntrain_p1,a\ntrain_p2,bb\ntrain_p3,a;b\ntrain_p4,zebra\n"
    (root / "labels.csv").write_text(table)
    return {
        "good": voc(good),
        "many": voc(many),
        "empty": voc(good, lists={"train": str(root / "none.txt")}),
        "lacking": voc(good, classes=["a", "b", "c"], mask_values="index"),
        "typo": voc(good, labels=str(root / "labels.csv")),
    }


@pytest.fixture(scope="session")
def failed(once) -> tuple[Project, subprocess.CompletedProcess]:
    """One run in which every job but one fails: bad datasets, bad weights, a full disk."""
    folder = once("jobs", run_of_failing_jobs)
    told = json.loads((folder / "run.json").read_text())
    return Project(folder / "project"), subprocess.CompletedProcess([], **told)


def run_of_failing_jobs(folder: Path) -> None:
    import torch

    folder.mkdir()
    project = copy_project(folder / "project")
    (folder / "garbage.pth").write_bytes(b"not a state dict" * 20)
    torch.save({"layer1.0.weight": torch.zeros(2, 2), "stem.9.weight": torch.zeros(1)}, folder / "misfit.pth")
    plain = TINY["classifiers"]["plain"]
    project.configure(
        datasets=spoil(folder / "data"),
        recipes=["good/plain/cam/crf"],
        classifiers={
            "plain": plain,
            "garbage": {**plain, "weights": str(folder / "garbage.pth")},
            "misfit": {**plain, "weights": str(folder / "misfit.pth")},
            "release": {**plain, "backbone": "resnet18", "weights": "IMAGENET1K_V9"},
        },
    )
    project.edit(  # a disk that is full when the figure is to be flushed
        "workflow/scripts/plot_pictures.py",
        "    catalog = Catalog(task.input.catalog)\n",
        "    import errno\n    import os\n\n    def full(*_):\n"
        "        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n\n"
        "    os.fsync = full\n    catalog = Catalog(task.input.catalog)\n",
    )
    goals = [f"results/{name}/catalog.train.h5" for name in ("many", "empty", "lacking", "typo")]
    goals += [f"results/good/{name}/classifier.pt" for name in ("garbage", "misfit", "release")]
    run = project.snakemake(*goals, "results/good/pictures.train.png", check=False)
    told = {"returncode": run.returncode, "stdout": run.stdout, "stderr": run.stderr}
    (folder / "run.json").write_text(json.dumps(told))


JOBS = {
    "id without a photo": ["many/catalog.train.h5", "image 'train_nowhere': no image file under", "take the id out"],
    "unreadable photo": ["train_a.png: cannot be decoded as an image", "replace the file"],
    "half a photo": ["train_b.png: cannot be decoded as an image"],
    "mask of another size": ["train_c.png: the label map is 48x40 (height x width) but the photo", "is 48x48"],
    "mask value out of range": ["train_d.png: mask value 7 is out of range (known: 0..2 and 255)"],
    "photo without a mask": ["image 'train_e': no label map in", "label table"],
    "photo without a class": ["image 'train_f': shows none of the classes", "allow_unlabelled: true"],
    "photo twice": ["image 'train_h': is the same file, byte for byte, as 'train_g'"],
    "all bad images at once": ["dataset 'many', split 'train': 8 problems:", "set on_bad_image: skip"],
    "empty id list": ["dataset 'empty', split 'train': 1 problem", "the split lists no image; check its list"],
    "class without images": ["dataset 'lacking', split 'train': 1 problem", "class 'c' has no image; take it out"],
    "unknown class in the labels": ["unknown class 'bb'; did you mean 'b'?", "unknown class 'zebra'. Correct it, add"],
    "garbage for weights": ["good/garbage/classifier.pt", "garbage.pth: cannot be read as a state dict", "is the file"],
    "weights of another network": ["misfit.pth' for backbone 'tiny' do not fit.", "1 unknown: stem.9.weight", "Give the backbone"],
    "unknown release of weights": ["unknown weights 'IMAGENET1K_V9' for backbone 'resnet18'", "did you mean 'IMAGENET1K"],
    "full disk": ["pictures.train-", "no space left on the device; free some and run again (nothing was written)"],
}  # fmt: skip


@pytest.mark.parametrize("name", JOBS)
def test_a_job_says_what_is_wrong(failed, name):
    _, run = failed
    assert run.returncode != 0
    one_message(run.stdout + run.stderr, *JOBS[name])


def test_failed_jobs_leave_nothing_behind(failed):
    project, _ = failed
    written = {path for path in files(project.folder) if "/keys/" not in path}
    good = {path for path in written if path.startswith("results/store/good-")}
    assert written == good
    assert {Path(path).name.split(".")[0] for path in good} == {"catalog", "check"}
    assert list(project.results.rglob("*.ckpt")) == []


def test_the_full_list_of_problems_stands_beside_the_log(failed):
    project, _ = failed
    (report,) = (project.results / "logs").glob("many-*/check.train-*.json")
    found = json.loads(report.read_text())["problems"]
    assert {item["image_id"] for item in found} == {"train_nowhere", *(f"train_{letter}" for letter in "abcdefh")}


def test_a_log_holds_the_message_too(failed):
    project, _ = failed
    (log,) = (project.results / "logs").glob("good-*/garbage-*/train.log")
    one_message(log.read_text(), "ERROR: good/garbage/classifier.pt: ", "garbage.pth: cannot be read")


@pytest.mark.long
def test_a_gpu_that_is_not_there(failed, monkeypatch):
    project, _ = failed
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    device = ["--config", "runtime={device: cuda}"]
    run = project.snakemake("results/good/plain/classifier.pt", *device, check=False)
    assert run.returncode != 0
    one_message(
        run.stdout + run.stderr, "runtime.device is cuda, but this machine shows no GPU", "set it to cpu or auto"
    )
    assert list(project.results.rglob("classifier.pt")) == []


def test_bad_images_can_be_left_out(failed):
    """The remedy the message names works."""
    project, _ = failed
    config = yaml.safe_load((project.folder / "config.yaml").read_text())
    config["datasets"]["many"]["on_bad_image"] = "skip"
    overlay = project.folder / "skip.yaml"
    overlay.write_text(yaml.safe_dump({"datasets": {"many": config["datasets"]["many"]}}))
    project.snakemake("results/many/check.train.json", "--configfile", overlay.name)
    found = json.loads((project.results / "many/check.train.json").read_text())
    assert (found["images"], len(found["dropped"])) == (1, 8)


# --- the command `camflow` as installed ------------------------------------------------------------------------------


def test_the_command_exits_with_one(place):
    (place / "config.yaml").write_text(yaml.safe_dump(changed({"zz": 1})))
    path = os.pathsep.join([str(Path(cli.__file__).parents[1])])
    command = [sys.executable, "-m", "camflow.cli", "gc"]
    run = subprocess.run(command, capture_output=True, text=True, env={**environment(), "PYTHONPATH": path})
    assert run.returncode == 1 and run.stdout == ""
    one_message(run.stderr, "camflow gc: the configuration has problems:", "zz: unknown key")
