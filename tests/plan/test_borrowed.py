"""Instances of the embedded default that a recipe on another dataset takes unasked are named; shipped overlays take none."""

from pathlib import Path

import pytest
import yaml

from camflow.plan.plan import PROJECT, Plan

OVERLAYS = [
    [name]
    for name in ("voc12", "voc12_mini", "coco14", "cub", "openimages", "ilsvrc", "cifar", "thumos14", "sequences")
] + [["voc12_mini", f"voc12_mini_{name}"] for name in ("refiners", "segmenters", "localization")]
VOC, MINE = "results/voc12", "results/mine"


def load(*files):
    return Plan.load([PROJECT / "config.yaml", *files])


@pytest.mark.parametrize("names", OVERLAYS, ids="+".join)
def test_shipped_overlays_train_their_own_instances(names):
    plan = load(*(PROJECT / "config" / f"{name}.yaml" for name in names))
    assert {item for path in plan.readable() for item in plan.borrowed(path)} == set()


def test_what_an_overlay_does_not_bring_is_named():
    plan = load(PROJECT / "config/voc12.yaml")
    assert plan.borrowed(f"{VOC}/seam/seam/psa/score.val.json") == ["classifiers.seam", "refiners.psa"]
    assert plan.borrowed(f"{VOC}/plain/cam/irn/score.val.json") == []
    assert plan.borrowed("results/parts/seam/seam/psa/score.val.json") == []
    for other in (
        "results/tables/scores.md",
        "results/papers/advcam_1.md",
        "all",
        "elsewhere/voc12/seam/classifier.pt",
    ):
        assert plan.borrowed(other) == []


def test_your_own_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = {"datasets": {"mine": {"format": "voc", "root": "x", "classes": ["cat"]}}}
    Path("one.yaml").write_text(yaml.safe_dump(mine))
    assert load("one.yaml").borrowed(f"{MINE}/plain/cam/crf/score.val.json") == ["classifiers.plain"]
    plain = {"classifiers": {"plain": {"method": "plain"}}}
    Path("two.yaml").write_text(yaml.safe_dump(plain))  # beside the dataset or after it
    assert load("one.yaml", "two.yaml").borrowed(f"{MINE}/plain/classifier.pt") == []
    Path("one.yaml").write_text(yaml.safe_dump({**mine, **plain}))
    assert load("one.yaml").borrowed(f"{MINE}/plain/classifier.pt") == []
