"""MCTformer through the real workflow: its network, its maps, and other localizers on it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from project import TINY

from camflow.models.classifier import load_classifier
from camflow.store import Store

MAPS = ("cam", "mctformer", "advcam", "one", "lpcam", "lpcam_attention")
CONFIG = {
    "classifiers": {
        **TINY["classifiers"],
        "mctformer": {
            "method": "mctformer", "backbone": "small", "width": 12, "depth": 3, "heads": 2, "crop": 48, "crop_area": None,
            "augment": {}, "epochs": 2, "batch_size": 4, "lr": 0.003, "warmup_epochs": 1,
        },
    },
    "localizers": {
        **TINY["localizers"],
        "mctformer": {"method": "mctformer"},
        "advcam": {"method": "advcam", "scales": [1.0], "steps": 2, "pooled": "logits"},
        "one": {"method": "advcam", "scales": [1.0], "steps": 1, "accumulate": "refined"},
        "lpcam": {"method": "lpcam", "scales": [1.0], "clusters": 2, "tolerance_rule": "unit"},
        "lpcam_attention": {
            "method": "lpcam", "scales": [1.0], "clusters": 2, "tolerance_rule": "unit", "mask": "mctformer",
            "fusion": "attention",
        },
    },
    "refiners": {**TINY["refiners"], "irn": {"method": "irn"}},
    "recipes": [f"parts/mctformer/{{{','.join(MAPS)}}}", "parts/mctformer/mctformer/crf"],
}  # fmt: skip


@pytest.mark.long
def test_what_is_planned_and_what_is_refused(copy):
    copy.configure(**CONFIG)
    planned = copy.planned("results/parts/mctformer/lpcam_attention/maps.val.h5")
    assert planned == {
        "train_mctformer": 1, "localize_mctformer": 2, "join_maps": 2, "cluster_lpcam": 2, "join_prototypes": 1,
        "localize_lpcam": 2,
    }  # fmt: skip
    for recipe, words in (
        ("plain/mctformer/maps.val.h5", "localizer 'mctformer' (method mctformer) needs attention maps, which"),
        ("mctformer/mctformer/irn/masks.val.h5", "refiner 'irn' (method irn) needs convolutional trunk, which"),
    ):
        run = copy.snakemake("-n", f"results/parts/{recipe}", check=False)
        assert run.returncode and words in run.stdout + run.stderr


@pytest.mark.long
def test_everything_of_mctformer_is_made(copy):
    copy.configure(**CONFIG)
    copy.snakemake()
    assert copy.planned() == {}
    folder = copy.results / "parts/mctformer"
    metrics = pd.read_csv((folder / "classifier.pt").resolve().with_name("training.csv"))
    assert list(metrics.columns) == ["epoch", "lr", "train_class", "train_loss", "train_patch", "train_map"]
    model = load_classifier(folder / "classifier.pt")
    assert model.meta["method"] == "mctformer" and len(model.blocks) == 3
    assert json.loads((folder / "score.val.json").read_text())["target"] == "parts/mctformer/score.val.json"
    found, stores = {}, {}
    for name in MAPS:
        store = stores[name] = Store(folder / name / "maps.val.h5", stage="maps")
        assert len(store) == 6 and store.meta["recipe"] == f"parts/mctformer/{name}"
        found[name] = json.loads((folder / name / "score.val.json").read_text())["best"]
    for image_id in stores["one"].ids:  # one step of climbing is none
        one, own, other = (stores[name].read(image_id).astype(float) for name in ("one", "mctformer", "cam"))
        np.testing.assert_allclose(one, own, rtol=0, atol=1e-3)
        assert own.size == 0 or abs(own - other).max() > 0.1
    assert (folder / "mctformer/crf/score.val.json").is_file()
    # An edit of its code makes anew what comes from it, and nothing of a plain recipe.
    wanted = [f"results/parts/{name}/cam/score.val.json" for name in ("plain", "mctformer")]
    copy.snakemake(*wanted)
    copy.edit("camflow/models/vit.py", "std=0.02", "std=0.03")
    assert copy.planned(wanted[0]) == {}
    planned = copy.planned(wanted[1])
    assert planned.pop("train_mctformer") == 1 and "train_plain" not in planned and "localize_cam" in planned
    # The studies of both localizers, with the fusion and the climbed scores of the method.
    copy.configure(**{**CONFIG, "studies": {
        "climb": {"steps": 2, "lambda": [], "tau": [], "step_size": []},
        "sensitivity": {"clusters": [], "tau": [], "mu_f": [0.5], "mu_b": []},
    }})  # fmt: skip
    copy.edit("camflow/models/vit.py", "std=0.03", "std=0.02")
    files = ("advcam/climb.val.csv", "lpcam_attention/sensitivity.val.csv")
    copy.snakemake(*(f"results/parts/mctformer/{file}" for file in files))
    climb, sensitivity = (pd.read_csv(folder / file) for file in files)
    own = climb[(climb["panel"] == "tau") & (climb["steps"] == 2)]["miou"].item()
    assert own == pytest.approx(found["advcam"]["miou"], abs=2e-3)
    own = sensitivity[sensitivity["panel"] == "clusters"]["miou"].item()
    assert own == pytest.approx(found["lpcam_attention"]["miou"], abs=2e-3)
