"""AdvCAM, LPCAM and their studies through the real workflow."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from project import TINY

from camflow.store import Store

LOCALIZERS = {
    **TINY["localizers"],
    "advcam": {"method": "advcam", "scales": [1.0], "steps": 2},
    "lpcam": {"method": "lpcam", "scales": [1.0], "clusters": 2, "init": "kmeans++", "tolerance_rule": "unit"},
}
STUDIES = {
    "amplification": {"images": 2, "steps": 2},
    "loss_surface": {"images": 2, "points": 3},
    "climb": {"steps": 3, "lambda": [0, 1], "tau": [0.3], "step_size": []},
    "successive": {"images": 2, "at": [1, 2]},
    "tsne": {"steps": 2},
    "sensitivity": {"clusters": [1], "tau": [0.2], "mu_f": [0.5], "mu_b": [0.5]},
}
CONFIG = {"localizers": LOCALIZERS, "recipes": ["parts/plain/{cam,advcam,lpcam}"], "studies": STUDIES}


@pytest.mark.long
def test_steps_are_run_and_shared(copy):
    copy.configure(**CONFIG, runtime={"shards": 1})
    wanted = [f"results/parts/plain/{name}/maps.val.h5" for name in ("advcam", "lpcam")]
    steps = {"cluster_lpcam": 2, "join_prototypes": 1}
    assert copy.planned(*wanted) == {**steps, "localize_advcam": 1, "localize_lpcam": 1, "join_maps": 2}
    copy.snakemake(*wanted)
    assert copy.planned(*wanted) == {}
    for name in ("advcam", "lpcam"):
        maps = Store(copy.results / f"parts/plain/{name}/maps.val.h5", stage="maps")
        assert len(maps) == 6 and maps.meta["recipe"] == f"parts/plain/{name}"
    # Another selection of the same clusters clusters nothing.
    strict = {**LOCALIZERS, "lpcam": {**LOCALIZERS["lpcam"], "mu_f": 0.2}}
    copy.configure(**{**CONFIG, "localizers": strict}, runtime={"shards": 1})
    assert copy.planned(wanted[1]) == {"localize_lpcam": 1, "join_maps": 1}


@pytest.mark.long
def test_everything_of_the_report_is_made(copy):
    studies = ["amplification", "loss_surface", "climb", "successive", "sensitivity", "prototypes"]
    report = {"images": 2, "split": "train", "studies": studies}
    copy.configure(**{**CONFIG, "report": report})
    copy.snakemake()
    assert copy.planned() == {}
    folder = copy.results / "parts/plain"
    for name in ("amplification", "loss_surface", "climb"):
        assert len(pd.read_csv(folder / f"advcam/{name}.train.csv"))
    for path in (
        "advcam/climb.train.png", "advcam/successive.train.png", "lpcam/sensitivity.train.png", "lpcam/prototypes.png",
        "comparison.train.png",
    ):  # fmt: skip
        assert (folder / path).read_bytes().startswith(b"\x89PNG")
    # The study's row at the method's own setting is the score that the workflow gives that method.
    climb = pd.read_csv(folder / "advcam/climb.train.csv")
    own = climb[(climb["panel"] == "tau") & (climb["tau"] == 0.5)]["miou"].item()
    score = json.loads((folder / "advcam/score.train.json").read_text())
    assert own == pytest.approx(score["best"]["miou"], abs=2e-3)  # the store keeps maps in float16
    sensitivity = pd.read_csv(folder / "lpcam/sensitivity.train.csv")
    own = sensitivity[(sensitivity["panel"] == "clusters") & (sensitivity["value"] == 2)]["miou"].item()
    score = json.loads((folder / "lpcam/score.train.json").read_text())
    assert own == pytest.approx(score["best"]["miou"], abs=2e-3)
