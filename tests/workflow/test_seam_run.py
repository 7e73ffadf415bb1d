"""SEAM through the real workflow: the network from a plain one, its own maps, and other localizers on it."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from project import TINY

from camflow.models.classifier import load_classifier
from camflow.store import Store

LAUNCH = {key: value for key, value in TINY["classifiers"]["plain"].items() if key in ("backbone", "width", "crop")}
CONFIG = {
    "classifiers": {
        **TINY["classifiers"],
        "seam": {
            **LAUNCH, "method": "seam", "warm_start": "plain", "scale": None, "epochs": 2, "batch_size": 4, "augment": {},
        },
    },
    "localizers": {
        **TINY["localizers"],
        "seam": {"method": "seam", "scales": [1.0]},
        "refined": {"method": "advcam", "scales": [1.0], "steps": 2, "accumulate": "refined"},
        "one": {"method": "advcam", "scales": [1.0], "steps": 1, "accumulate": "refined"},
        "lpcam": {"method": "lpcam", "scales": [1.0], "clusters": 2, "init": "kmeans++", "tolerance_rule": "unit"},
    },
    "recipes": ["parts/seam/{cam,seam,refined,one,lpcam}"],
    "studies": {"climb": {"steps": 2, "lambda": [], "tau": [], "step_size": []}},
}  # fmt: skip


@pytest.mark.long
def test_a_warm_start_is_trained_first_and_a_plain_classifier_refused(copy):
    copy.configure(**CONFIG)
    planned = copy.planned("results/parts/seam/seam/maps.val.h5")
    assert planned == {"train_seam": 1, "localize_seam": 2, "join_maps": 1}  # the plain network is there
    run = copy.snakemake("-n", "results/parts/plain/seam/maps.val.h5", check=False)
    assert "localizer 'seam' (method seam) needs pixel correlation, which parts and plain does not provide" in (
        run.stdout + run.stderr
    )
    changed = {**CONFIG["classifiers"], "plain": {**TINY["classifiers"]["plain"], "epochs": 1}}
    copy.configure(**{**CONFIG, "classifiers": changed})
    planned = copy.planned("results/parts/seam/seam/maps.val.h5")
    assert planned == {"train_plain": 1, "train_seam": 1, "localize_seam": 2, "join_maps": 1}


@pytest.mark.long
def test_everything_of_seam_is_made(copy):
    copy.configure(**CONFIG)
    copy.snakemake()
    assert copy.planned() == {}
    folder = copy.results / "parts/seam"
    metrics = pd.read_csv((folder / "classifier.pt").resolve().with_name("training.csv"))
    assert list(metrics.columns) == [
        "epoch", "lr", "train_cls", "train_ecr", "train_er", "train_loss", "train_map",
    ]  # fmt: skip
    assert (folder / "training.png").read_bytes().startswith(b"\x89PNG")
    model = load_classifier(folder / "classifier.pt")
    plain = load_classifier(copy.results / "parts/plain/classifier.pt")
    assert (model.net.stem.state_dict()["0.weight"] == plain.stem.state_dict()["0.weight"]).all()  # frozen
    assert json.loads((folder / "score.val.json").read_text())["target"] == "parts/seam/score.val.json"
    found = {}
    for name in ("cam", "seam", "refined", "one", "lpcam"):
        store = Store(folder / name / "maps.val.h5", stage="maps")
        assert len(store) == 6 and store.meta["recipe"] == f"parts/seam/{name}"
        found[name] = json.loads((folder / name / "score.val.json").read_text())["best"]
    assert found["one"] == found["seam"]  # one step of climbing is none
    # The climb study follows what is added up: its row at the method's own setting is the score of the method.
    copy.snakemake("results/parts/seam/refined/climb.val.csv")
    climb = pd.read_csv(folder / "refined/climb.val.csv")
    own = climb[(climb["panel"] == "tau") & (climb["steps"] == 2)]["miou"].item()
    assert own == pytest.approx(found["refined"]["miou"], abs=2e-3)
    # An edit of SEAM's code makes anew what comes from SEAM, and nothing of a plain recipe.
    wanted = [f"results/parts/{name}/cam/score.val.json" for name in ("plain", "seam")]
    copy.snakemake(*wanted)
    copy.edit("camflow/models/seam.py", "EPSILON = 1e-5", "EPSILON = 2e-5")
    assert copy.planned(wanted[0]) == {}
    planned = copy.planned(wanted[1])
    assert planned.pop("train_seam") == 1 and "train_plain" not in planned and "localize_cam" in planned
