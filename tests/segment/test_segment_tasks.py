"""What scripts of segmentation networks call: published test protocols, what files and scores say, and their code."""

from __future__ import annotations

import types
from pathlib import Path

import numpy as np
import pytest

from camflow.models.cct import build_cct
from camflow.models.segmenter import build_segmenter, load_segmenter
from camflow.plan.keys import code_digests
from camflow.segment import label_tasks, tasks
from camflow.segment.predict import TestParams
from camflow.segment.selection import conditions
from camflow.store import Store, StoreWriter
from camflow.train import psl_files, segment_files
from camflow.train.segment import PRESETS
from tests.segment.test_psl import SMALL, Squares

SCRIPTS = Path(__file__).resolve().parents[2] / "workflow/scripts"
NULLS = {"test_scales": None, "test_flip": None, "reduce": None, "pad": None, "align_corners": None}
OTHERS = {"multiple_of": None, "fill": "mean"}
SHOWN = {
    "test_scales": [1.0, 0.5], "test_flip": True, "reduce": "mean_prob", "pad": None, "align_corners": False, **OTHERS
}  # fmt: skip


@pytest.mark.parametrize(
    ("script", "needed", "foreign"),
    [
        ("train_deeplab", "train.segment", {"train.psl", "train.cct", "train.perturb", "segment.psl", "models.cct"}),
        ("train_psl", "train.psl", {"train.cct", "train.perturb", "models.cct"}),
        ("train_cct", "train.cct", {"train.psl", "segment.psl"}),
        ("predict_segmenter", "segment.predict", {"refine.crf", "refine.threshold", "segment.labels", "segment.psl"}),
        ("segment_deeplab", "segment.labels", {"segment.psl", "segment.tasks"}),
    ],
)
def test_the_code_of_a_script_is_its_own(script, needed, foreign):
    found = {name.removeprefix("camflow.") for name in code_digests([SCRIPTS / f"{script}.py"])}
    assert needed in found
    assert not foreign & found


# --- published protocols ---------------------------------------------------------------------------------------------


def test_every_preset_has_its_test():
    assert set(tasks.PROTOCOLS) == set(label_tasks.CRFS) == set(PRESETS) - {"psl"}
    for preset in tasks.PROTOCOLS:
        entry = {"preset": preset, **NULLS, **OTHERS, "crf": None}
        if preset.startswith("large_fov"):
            expected = TestParams(scales=(1,), pad=513, align_corners=True)
            crf = "deeplab_v1"
        else:
            expected, crf = TestParams(scales=(1, 0.75, 0.5)), "deeplab_v2"
        assert tasks.test_params(entry) == expected
        assert label_tasks.crf_name(entry) == crf


def test_given_values_replace_those_of_the_preset():
    entry = {"preset": "large_fov_step", **NULLS, **OTHERS}
    given = {"test_scales": [1, 2], "test_flip": True, "reduce": "mean_logit", "pad": 0, "align_corners": False}
    expected = TestParams(scales=(1, 2), flip=True, reduce="mean_logit")
    assert tasks.test_params({**entry, **given}) == tasks.test_params({**given, **OTHERS}) == expected
    assert tasks.test_params({**entry, "multiple_of": 8, "fill": "reflect"}).canvas((520, 8)) == (520, 520)
    assert label_tasks.crf_name({"preset": "large_fov_step", "crf": "psa"}) == "psa"
    assert label_tasks.crf_name({"crf": "psa"}) == "psa"


# --- what files say --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "init"),
    [
        ("none", "none"),
        ("classifier", "classifier"),
        ("IMAGENET1K_V1", "IMAGENET1K_V1"),
        ("weights/caffe", "file"),
        ("init.pth", "file"),
    ],
)
def test_the_initial_weights_have_no_path(weights, init):
    model = build_segmenter("large_fov", "tiny", 2, width=4, head_width=4)
    model.meta = {"parameters": {"weights": weights}, "params": {"weights": "/some/classifier.pt"}}
    assert tasks.network_conditions(model, TestParams())["init"] == init


def test_conditions_of_a_network():
    model = build_cct("tiny", 2, width=4)
    model.meta = {"params": {"weights": "none"}, "selected_on": "val", "selected_epoch": 3, "device": "cpu"}
    params = TestParams(scales=(1, 0.5), flip=True, reduce="mean_prob", pad=20, align_corners=True)
    found = tasks.network_conditions(model, params)
    assert found == {
        "selected_on": "val", "selected_epoch": 3, "init": "none", "architecture": "cct", "backbone": "tiny",
        "test_scales": (1, 0.5), "test_flip": True, "reduce": "mean_prob", "pad": 20, "multiple_of": None,
        "fill": "mean", "align_corners": True,
    }  # fmt: skip
    assert conditions({**found, "device": "cpu", "crf": "psa"}) == {**found, "crf": "psa"}
    assert conditions({"threshold": 0.3, "recipe": "d/c"}) == {}


class Job:
    """What the tasks read of a job."""

    device, threads, shard, target, sections = "cpu", 1, None, "toy", {}
    runtime = {"compression": "gzip"}  # noqa: RUF012

    def __init__(self, inputs, outputs, parameters):
        self.input, self.output = Files(**inputs), Files(**outputs)
        self.parameters = parameters

    def meta(self, **more):
        return {"parameters": self.parameters, **more}


class Files(types.SimpleNamespace):
    def items(self):
        return vars(self).items()


@pytest.fixture
def catalog(monkeypatch):
    """Photos in place of those of a file."""
    squares = Squares(8)
    squares.sizes = np.array([squares.image(image_id).shape[:2] for image_id in squares.ids])
    for module in (psl_files, segment_files):
        monkeypatch.setattr(module, "Catalog", lambda _: squares)
    for module in (tasks, label_tasks):
        monkeypatch.setattr(module, "task_images", lambda _: squares)
    return squares


@pytest.mark.parametrize(
    ("theirs", "own", "expected"),
    [
        ({"selected_on": "val", "selected_epoch": 4, "selected_miou": 0.5}, {}, "val (its labels)"),
        ({"selected_on": "val (its labels)"}, {}, "val (its labels)"),
        ({"selected_on": "val"}, {"select": "best", "monitor": "val"}, "val"),
        ({}, {}, None),
    ],
)
def test_a_choice_on_true_masks_travels_from_labels_to_predictions(tmp_path, catalog, theirs, own, expected):
    with StoreWriter(tmp_path / "after.h5", stage="masks", meta=theirs) as writer:
        for image_id in catalog.ids:
            writer.write(image_id, catalog.mask(image_id))
    parameters = {**SMALL, "epochs": 1, "weights": "none", **own}
    options = {
        "out": tmp_path / "psl.pt", "metrics_csv": tmp_path / "m.csv", "scratch": tmp_path / "scratch", "key": "k",
        "progress": False, "meta": {"parameters": parameters},
    }  # fmt: skip
    files = {"catalog": "c", "after": str(tmp_path / "after.h5"), **({"monitor": "c"} if own else {})}
    psl_files.train_psl_files(files=files, parameters=parameters, options=options)
    meta = load_segmenter(tmp_path / "psl.pt").meta
    assert (meta["method"], meta.get("selected_on")) == ("large_fov", expected)
    assert ("selected_miou" in meta) == bool(own)  # the score of the labels' network is not this one's

    shown = {**SHOWN, "quantise": "float16"}
    made = {name: str(tmp_path / f"{name}.h5") for name in ("logits", "predictions", "crf")}
    tasks.logits_task(Job({"psl_network": tmp_path / "psl.pt"}, {"shard": made["logits"]}, shown))
    label_tasks.label_task(Job({"logits": made["logits"]}, {"predictions": made["predictions"]}, {}))
    crf = {"crf": "deeplab_v1", "crf_image": "rgb_raw", "crf_skip": 0.001}
    label_tasks.crf_task(Job({"logits": made["logits"]}, {"predictions": made["crf"]}, crf))
    for name, path in made.items():
        found = conditions(Store(path).meta)
        assert found.get("selected_on") == expected
        assert {key: found[key] for key in SHOWN} == SHOWN
        assert (found["init"], found["architecture"], found["backbone"]) == ("none", "large_fov", "tiny")
        assert found.get("crf") == ("deeplab_v1" if name == "crf" else None)
