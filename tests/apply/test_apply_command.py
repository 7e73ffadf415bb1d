"""`camflow apply` on photos as people have them, with a small network put where the workflow would put it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from camflow import cli
from camflow.localize.cam import CamParams
from camflow.localize.extract import normalisation_table, to_views
from camflow.localize.photo import cam_maps
from camflow.models.classifier import build_classifier, load_classifier, save_classifier
from camflow.plan.plan import Plan, parse_target
from camflow.refine.threshold import winners
from camflow.store import Store, write_json
from tests.places import with_places

NAMES = ["cat", "dog", "cow"]
CONFIG = {
    "recipes": ["mine/plain/cam/none"],
    "datasets": {
        "mine": {
            "format": "voc",
            "root": "voc",
            "classes": NAMES,
            "labels": "labels.csv",
            "masks": ["SegmentationClass"],
        }
    },
    "classifiers": {
        "plain": {"method": "plain", "backbone": "tiny", "weights": "none", "crop": 32, "scale": None},
        "none": {"method": "none"},
    },
    "localizers": {"cam": {"method": "cam", "scales": [1.0, 1.5]}, "none": {"method": "none"}},
    "refiners": {"none": {"method": "none", "threshold": 0.4}, "gt": {"method": "gt"}, "crf": {"method": "crf"}},
    "segmenters": {"deeplab": {"method": "deeplab", "backbone": "tiny", "weights": "none", "freeze_bn": False}},
    "runtime": {"device": "cpu"},
}
RNG = np.random.default_rng(3)
PHOTO = RNG.integers(0, 256, (30, 44, 3), np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with a dataset, a trained classifier and the score of its maps."""
    monkeypatch.chdir(tmp_path)
    for name in ("voc/JPEGImages", "voc/ImageSets/Segmentation", "voc/SegmentationClass", "in"):
        Path(name).mkdir(parents=True)
    for split in ("train", "val"):
        Image.fromarray(PHOTO).save(f"voc/JPEGImages/{split}_1.jpg")
        Image.fromarray(np.zeros((30, 44), np.uint8)).save(f"voc/SegmentationClass/{split}_1.png")
        Path(f"voc/ImageSets/Segmentation/{split}.txt").write_text(f"{split}_1\n")
    Path("voc/labels.csv").write_text("id,labels\ntrain_1,cat\nval_1,cat\n")
    plan = configure()
    model = build_classifier("tiny", 3, width=8, seed=1)
    classifier, score = parse_target("mine/plain/classifier.pt"), parse_target("mine/plain/cam/score.train.json")
    Path(plan.path(classifier)).parent.mkdir(parents=True)
    save_classifier(plan.path(classifier), model, class_names=NAMES, meta={"segments": plan.segments(classifier.steps)})
    facts = {"segments": plan.segments(score.steps), "token": plan.token(score)}
    write_json(plan.path(score), {"threshold": 0.55, **facts})
    return tmp_path


def configure(**places) -> Plan:
    Path("config.yaml").write_text(yaml.safe_dump(with_places(CONFIG, places)))
    return Plan.load(["config.yaml"])


def apply(*arguments) -> int:
    return cli.main(["apply", *map(str, arguments)])


def results(name, out="out") -> tuple[np.ndarray, np.ndarray, dict, Image.Image]:
    """Maps, mask, facts and overlay of a photo."""
    with Image.open(f"{out}/{name}.mask.png") as mask:
        assert mask.mode == "P"
        labels = np.asarray(mask)
    with Image.open(f"{out}/{name}.overlay.png") as overlay:
        overlay.load()
    return np.load(f"{out}/{name}.npy"), labels, json.loads(Path(f"{out}/{name}.json").read_text()), overlay


def network():
    return load_classifier(configure().path(parse_target("mine/plain/classifier.pt")))


def test_a_localizer_on_one_photo(folder, capsys):
    Image.fromarray(PHOTO).save("in/a.png")
    assert apply("results/mine/plain/cam/", "in/a.png", "--labels", "dog, cat", "--out", "out") == 0
    maps, labels, facts, overlay = results("a")
    wanted = cam_maps(network(), PHOTO, [0, 1], CamParams(scales=(1.0, 1.5)))
    assert maps.dtype == np.float32 and np.abs(maps - wanted).max() < 5e-4
    assert np.array_equal(labels, winners(maps, 0.55))  # the score's threshold; classes 0 and 1 are labels 1 and 2
    assert facts["maps"] == ["cat", "dog"] and facts["threshold"] == 0.55 and facts["recipe"] == "mine/plain/cam"
    assert overlay.size == (44, 30) and facts["height"] == 30
    assert capsys.readouterr().out == f"{folder}/in/a.png  cat, dog  out/a.overlay.png\n"
    assert sorted(os.listdir("out")) == ["a.json", "a.mask.png", "a.npy", "a.overlay.png"]
    assert apply("mine/plain/cam", "in/a.png", "--labels", "cat", "--threshold", "0.2", "--out", "out") == 0
    maps, labels, facts, _ = results("a")
    assert np.array_equal(labels, (maps[0] > np.float32(0.2)).astype(np.uint8)) and facts["threshold"] == 0.2


def test_a_refiner_decides_for_itself(folder):
    Image.fromarray(PHOTO).save("in/a.png")
    assert apply("mine/plain/cam/none", "in/a.png", "--labels", "cow", "--out", "out", "--stores") == 0
    maps, labels, facts, _ = results("a")
    assert np.array_equal(labels, 3 * (maps[0] > np.float32(0.4))) and "threshold" not in facts
    for stage in ("maps", "masks"):
        store = Store(f"out/{stage}.photos.h5", stage=stage)
        assert store.ids == ["a"] and store.meta["recipe"].startswith("mine/plain/cam")


def test_photos_as_people_have_them(folder):
    """Turned by EXIF, grey, transparent, of one pixel; in folders; the same photo in any of the forms is the same."""
    rgba = np.dstack([PHOTO, np.full(PHOTO.shape[:2], 255, np.uint8)])
    Image.fromarray(PHOTO).save("in/plain.png")
    Image.fromarray(rgba).save("in/rgba.png")
    turned = Image.fromarray(np.ascontiguousarray(PHOTO.transpose(1, 0, 2)))
    exif = Image.Exif()
    exif[0x0112] = 5  # mirrored along the main diagonal
    turned.save("in/turned.png", exif=exif)
    Image.fromarray(PHOTO[..., 0]).save("in/grey.png")
    Path("in/deep").mkdir()
    Image.fromarray(PHOTO[:1, :1]).save("in/deep/dot.PNG")
    Path("in/notes.txt").write_text("no photo")
    Image.fromarray(PHOTO).save("in/.hidden.png")
    assert apply("mine/plain/cam", "in", "--labels", "cat", "--out", "in/out") == 0
    assert apply("mine/plain/cam", "in", "--labels", "cat", "--out", "in/out") == 0  # does not take its own results
    found = {name: results(name, "in/out") for name in ("plain", "rgba", "turned", "grey", "deep/dot")}
    assert len(list(Path("in/out").rglob("*.json"))) == 5
    for name in ("rgba", "turned"):
        assert np.array_equal(found[name][0], found["plain"][0]) and np.array_equal(found[name][1], found["plain"][1])
    assert found["deep/dot"][0].shape == (1, 1, 1)
    grey = cam_maps(network(), PHOTO[..., :1].repeat(3, 2), [0], CamParams(scales=(1.0, 1.5)))
    assert np.abs(found["grey"][0] - grey).max() < 5e-4


def test_the_classifier_names_the_classes(folder, capsys):
    import torch

    Image.fromarray(PHOTO).save("in/a.png")
    Image.fromarray(PHOTO[::-1]).save("in/b.png")
    model = network()
    table = normalisation_table(model.mean, model.std)
    shown = {"a": PHOTO, "b": np.ascontiguousarray(PHOTO[::-1])}
    # Classifiers are asked at the size that they are evaluated at: long side 32.
    small = {n: np.asarray(Image.fromarray(p).resize((32, 22), Image.Resampling.BICUBIC)) for n, p in shown.items()}
    with torch.inference_mode():
        wanted = {
            name: torch.sigmoid(model(to_views(torch.from_numpy(photo.copy())[None], table, False)[:, 0]))[0].numpy()
            for name, photo in small.items()
        }
    middle = float(np.sort(np.concatenate(list(wanted.values())))[3]) - 1e-4
    for above in (0.0, middle, 1.0):
        assert apply("mine/plain/cam", "in", "--above", above, "--out", "out") == 0
        for name, values in wanted.items():
            facts = results(name)[2]
            classes = [n for n in range(3) if values[n] >= above] or [int(values.argmax())]
            assert facts["maps"] == [NAMES[n] for n in classes]
            assert facts["confidence"] == pytest.approx(dict(zip(NAMES, values.tolist(), strict=True)), abs=1e-4)
    assert f"{NAMES[int(wanted['b'].argmax())]} {wanted['b'].max():.2f}" in capsys.readouterr().out


def message(capsys, *arguments) -> str:
    assert apply(*arguments) == 1
    text = capsys.readouterr().err
    assert "Traceback" not in text and not Path("out").exists()
    return text


def test_what_is_not_trained_yet_is_named_with_the_command(folder, capsys):
    Image.fromarray(PHOTO).save("in/a.png")
    text = message(capsys, "mine/plain/cam/crf/deeplab", "in/a.png", "--out", "out")
    assert "the recipe lacks results/mine/plain/cam/crf/deeplab/deeplab_network.pt for this config" in text
    assert "\n  snakemake --cores all results/mine/plain/cam/crf/deeplab/deeplab_network.pt\n" in text
    Path("more.yaml").write_text("classifiers: {plain: {method: plain, backbone: tiny, weights: none, epochs: 3}}")
    text = message(capsys, "mine/plain/cam/crf", "in/a.png", "--out", "out", "--configfile", "more.yaml")
    # The classifier is of another key now, and so is the score that the refiner takes its threshold from.
    assert "lacks results/mine/plain/classifier.pt, results/mine/plain/cam/score.train.json for" in text
    assert "snakemake --cores all --configfile more.yaml results/mine/plain/classifier.pt results/mine" in text


WRONG = {
    "an unknown class": (["mine/plain/cam", "in", "--labels", "cta"], "there is no class 'cta'; did you mean 'cat'"),
    "an unknown part": (["mine/plain/cma", "in"], "there is no localizer 'cma'"),
    "too short a recipe": (["mine/plain", "in"], "give a recipe down to a localizer, refiner or segmenter"),
    "true masks": (["mine/none/none/gt", "in"], "needs true masks, which photos of your own do not have"),
    "no maps": (["mine/none/none", "in"], "has no maps or masks of photos"),
    "no such photo": (["mine/plain/cam", "in/b.png", "c.png"], "c.png: does not exist"),
    "a folder without photos": (["mine/plain/cam", "voc/ImageSets"], "voc/ImageSets: has no photo"),
    "one name twice": (["mine/plain/cam", "in/a.png", "voc/a.jpg"], "voc/a.jpg and in/a.png: are both called 'a'"),
    "no photo": (["mine/plain/cam", "in/bad.png"], "in/bad.png: cannot be decoded"),
    "an option of another part": (
        ["mine/plain/cam/none", "in/a.png", "--threshold", "0.3"],
        "--threshold is of a localizer",
    ),
    "another option": (["mine/plain/cam", "in/a.png", "--no-crf"], "--no-crf is of a segmenter; 'cam' is a localizer"),
    "labels of a segmenter": (["mine/plain/cam/crf/deeplab", "in", "--labels", "cat"], "finds the classes itself"),
    "a machine without GPU": (
        ["mine/plain/cam", "in/a.png", "--device", "cuda:99"],
        "--device cuda:99: this machine has",
    ),
    "a device that is none": (["mine/plain/cam", "in/a.png", "--device", "gpu"], "--device gpu: this machine has"),
}


@pytest.mark.parametrize(("arguments", "expected"), WRONG.values(), ids=WRONG)
def test_mistakes_are_told_before_anything_runs(folder, capsys, arguments, expected):
    Image.fromarray(PHOTO).save("in/a.png")
    Image.fromarray(PHOTO).save("voc/a.jpg")
    Path("in/bad.png").write_bytes(b"\x89PNG")
    assert expected in message(capsys, *arguments, "--out", "out")


def test_a_photo_is_never_overwritten(folder, capsys):
    Image.fromarray(PHOTO).save("in/a.png")
    Image.fromarray(PHOTO).save("in/a.mask.png")
    before = Path("in/a.mask.png").read_bytes()
    text = message(capsys, "mine/plain/cam", "in/a.png", "in/a.mask.png", "--labels", "cat", "--out", "in")
    assert "in/a.mask.png: is one of the photos, and would be replaced by a result; name another --out" in text
    assert Path("in/a.mask.png").read_bytes() == before


def test_a_network_of_another_key_is_refused(folder, capsys):
    Image.fromarray(PHOTO).save("in/a.png")
    path = configure().path(parse_target("mine/plain/classifier.pt"))
    save_classifier(path, build_classifier("tiny", 3), class_names=NAMES, meta={"segments": ["mine-0", "plain-0"]})
    text = message(capsys, "mine/plain/cam", "in/a.png", "--labels", "cat", "--out", "out")
    assert "was made for another path than" in text
