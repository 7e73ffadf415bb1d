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
NAMES = ("lpcam/maps.val.h5", "lpcam/prototypes.png", "advcam/successive.val.png")
CONFIG = {"localizers": LOCALIZERS, "recipes": ["parts/plain/{cam,advcam,lpcam}"], "studies": STUDIES}


def test_steps_and_studies_run_and_are_shared(copy):
    copy.configure(**CONFIG)
    wanted = [f"results/parts/plain/{name}" for name in NAMES]
    assert copy.planned(*wanted) == {
        "cluster_lpcam": 2, "join_prototypes": 1, "localize_lpcam": 2, "join_maps": 1, "plot_prototypes": 1,
        "study_successive": 1, "plot_successive": 1,
    }  # fmt: skip
    copy.snakemake(*wanted)
    assert copy.planned(*wanted) == {}
    maps = Store(copy.results / "parts/plain/lpcam/maps.val.h5", stage="maps")
    assert len(maps) == 6 and maps.meta["recipe"] == "parts/plain/lpcam"
    # Another selection of the same clusters clusters nothing; a lost shard is not missed once they are joined.
    strict = {**LOCALIZERS, "lpcam": {**LOCALIZERS["lpcam"], "mu_f": 0.2}}
    copy.configure(**{**CONFIG, "localizers": strict})
    assert copy.planned(wanted[0]) == {"localize_lpcam": 2, "join_maps": 1}


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
