"""AMN through the real workflow: labels of one recipe, a network on them, its own maps, other localizers on it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from project import TINY

from camflow.models.amn import Amn
from camflow.models.classifier import load_classifier
from camflow.store import Store

LAUNCH = {
    key: value for key, value in TINY["classifiers"]["plain"].items() if key in ("backbone", "width", "weights", "crop")
}
AMN = {
    **LAUNCH, "method": "amn", "labels": "plain/cam/confident", "warm_start": "plain", "output_stride": None,
    "rates": [1, 2], "scale": [1, 1], "epochs": 2, "batch_size": 4, "lr": 0.001, "head_lr_mult": 3,
}  # fmt: skip
LPCAM = {"method": "lpcam", "scales": [1.0], "clusters": 2, "init": "kmeans++", "tolerance_rule": "unit"}
CONFIG = {
    "classifiers": {**TINY["classifiers"], "amn": AMN, "before": {**AMN, "labels": "plain/lpcam/confident"}},
    "localizers": {
        **TINY["localizers"],
        "amn": {"method": "amn", "scales": [1.0]},
        "dropped": {"method": "amn", "scales": [1.0], "dropout_at_test": True},
        "advcam": {"method": "advcam", "scales": [1.0], "steps": 2},
        "lpcam": LPCAM,
        "lpcam_amn": {**LPCAM, "mask": "amn"},
    },
    "refiners": {"none": {"method": "none"}, "confident": {"method": "confident", "conf_fg": 0.4, "conf_bg": 0.2}},
    "recipes": ["parts/amn/{cam,amn,dropped,advcam,lpcam_amn}", "parts/amn/amn/{none,confident}", "parts/before/amn"],
    "studies": {"climb": {"steps": 2, "lambda": [], "tau": [], "step_size": []}},
}


@pytest.mark.long
def test_labels_are_made_first_and_what_cannot_be_is_refused(copy):
    copy.configure(**CONFIG)
    planned = copy.planned("results/parts/amn/amn/maps.val.h5")  # the plain network is there, and so are its CAMs
    assert planned == {"refine_confident": 2, "train_amn": 1, "localize_amn": 2, "join_maps": 1}
    for path, words in {
        "plain/amn/maps.val.h5": "localizer 'amn' (method amn) needs label-conditioned maps, which parts and plain does not",
        "amn/score.val.json": "classifier 'amn' is told which classes a photo shows, so it cannot be scored",
    }.items():
        run = copy.snakemake("-n", f"results/parts/{path}", check=False)
        assert run.returncode and words in run.stdout + run.stderr and "Traceback" not in run.stdout + run.stderr


@pytest.mark.long
def test_everything_of_amn_is_made(copy):
    copy.configure(**CONFIG)
    copy.snakemake()
    assert copy.planned() == {}
    folder = copy.results / "parts/amn"
    metrics = pd.read_csv((folder / "classifier.pt").resolve().with_name("training.csv"))
    assert list(metrics.columns) == ["epoch", "lr", "train_background", "train_foreground", "train_loss"]
    assert (folder / "training.png").read_bytes().startswith(b"\x89PNG")
    assert isinstance(load_classifier(folder / "classifier.pt"), Amn) and not (folder / "score.val.json").exists()
    for name in ("cam", "amn", "dropped", "advcam", "lpcam_amn"):
        store = Store(folder / name / "maps.val.h5", stage="maps")
        assert len(store) == 6 and store.meta["recipe"] == f"parts/amn/{name}"
        assert 0 < json.loads((folder / name / "score.val.json").read_text())["best"]["miou"] < 1
    labels = Store(folder / "amn/confident/masks.val.h5", stage="masks")
    assert {int(v) for i in labels.ids for v in np.unique(labels.read(i))} <= {0, 1, 2, 255}
    maps = [Store(folder / name / "maps.val.h5") for name in ("amn", "dropped")]
    assert any(not np.array_equal(*(store.read(i) for store in maps)) for i in maps[0].ids)
    assert (copy.results / "parts/before/amn/score.val.json").exists()
    # A study of climbing shows the network photos together with their labels.
    copy.snakemake("results/parts/amn/advcam/climb.val.csv")
    assert len(pd.read_csv(folder / "advcam/climb.val.csv")) > 0
    # Another confidence makes the labels anew and what comes from them, and nothing of the plain network.
    changed = {**CONFIG["refiners"], "confident": {"method": "confident", "conf_fg": 0.5, "conf_bg": 0.2}}
    copy.configure(**{**CONFIG, "refiners": changed})
    planned = copy.planned("results/parts/amn/amn/score.val.json")
    assert planned["train_amn"] == 1 and "refine_confident" in planned and "localize_amn" in planned
    assert not {"train_plain", "localize_cam"} & set(planned)
