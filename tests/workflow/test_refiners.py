"""IRN and PSA, all their steps and the study of the walk, through the real workflow."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from project import TINY

from camflow.evaluate.objects import read_instances
from camflow.refine.irn import BOUNDARIES, INSTANCES
from camflow.store import Store

TRAINING = {"weights": "classifier", "epochs": 1, "batch_size": 4}
IRN = {
    "method": "irn", **TRAINING, "crop": 48, "scale": [1, 1], "radius": 3, "canvas": 48, "exp_times": 3,
    "instance_steps": 5,
}  # fmt: skip
PSA = {"method": "psa", **TRAINING, "crop": 72, "lr": 0.01, "logt": 3}
REFINERS = {**TINY["refiners"], "irn": IRN, "psa": PSA}
WALK = {"images": 4, "beta": [5], "exp_times": [2], "gamma": []}
CONFIG = {"refiners": REFINERS, "recipes": ["parts/plain/cam/{irn,psa}"], "studies": {"walk": WALK}}
CAM = "results/parts/plain/cam"
IRN_STEPS = {"label_irn": 2, "join_irn_labels": 1, "train_irn": 1, "predict_irn": 2, "join_irn_edges": 1}
PSA_STEPS = {"label_psa": 2, "join_psa_scores": 1, "train_psa": 1, "predict_psa": 2, "join_psa_affinities": 1}


@pytest.mark.long
def test_irn_runs_and_another_walk_only_walks_anew(copy):
    copy.configure(**CONFIG, runtime={"shards": 1})
    masks = f"{CAM}/irn/masks.val.h5"
    copy.snakemake(masks)
    store = Store(copy.results / "parts/plain/cam/irn/masks.val.h5", stage="masks")
    assert len(store) == 6 and store.meta["recipe"] == "parts/plain/cam/irn" and store.meta["threshold"] == 0.25
    assert {store.read(image_id).shape for image_id in store.ids} == {(48, 48)}
    copy.configure(**{**CONFIG, "refiners": {**REFINERS, "irn": {**IRN, "beta": 5}}})
    assert copy.planned(masks) == {"refine_irn": 1}


@pytest.mark.long
def test_every_file_of_both_is_made(copy):
    report = {"images": 2, "split": "val", "studies": ["walk"]}
    copy.configure(**CONFIG, report=report)
    masks = [f"{CAM}/{name}/masks.val.h5" for name in ("irn", "psa")]
    assert copy.planned(*masks) == {**IRN_STEPS, **PSA_STEPS, "refine_irn": 1, "refine_psa": 1}
    more = [f"{CAM}/irn/score_instances.val.json", f"{CAM}/irn/irn_training.csv", f"{CAM}/psa/psa_training.csv"]
    copy.snakemake("all", *more)
    assert copy.planned("all", *more) == {}
    folder = copy.results / "parts/plain/cam"
    for name in ("irn", "psa"):
        score = json.loads((folder / name / "score.val.json").read_text())
        assert score["kind"] == "masks" and 0 < score["miou"] < 1
        assert (folder / name / "overlays.val.png").read_bytes().startswith(b"\x89PNG")
        assert len(pd.read_csv(folder / name / f"{name}_training.csv")) == 1
    score = json.loads((folder / "irn/score_instances.val.json").read_text())
    assert 0 <= score["ap75"] <= score["ap50"] <= 1 and score["conditions"]["n_images"] == 6
    (made,) = copy.results.glob("store/parts-*/plain-*/cam-*/irn-*/instances.val-*.h5")
    found = Store(made, stage=INSTANCES)
    for image_id in found.ids:
        shapes, classes, scores = read_instances(found, image_id)
        assert shapes.shape[1:] == (48, 48) and len(shapes) == len(classes) == len(scores)
    # The study's row at the method's own setting is the score that the workflow gives that method.
    table = pd.read_csv(folder / "irn/walk.val.csv")
    assert set(table["beta"]) == {5, 10} and set(table["exp_times"]) == {2, 3} and set(table["gamma"]) == {1}
    assert table.groupby(["beta", "exp_times", "gamma"])["own"].first().sum() == 1
    assert (folder / "irn/walk.val.png").read_bytes().startswith(b"\x89PNG")
    whole = {**WALK, "images": None}
    copy.configure(**{**CONFIG, "studies": {"walk": whole}}, report=report)
    assert copy.planned() == {"study_walk": 1, "plot_walk": 1}
    copy.snakemake(f"{CAM}/irn/walk.val.csv")
    table = pd.read_csv(folder / "irn/walk.val.csv")
    own = table[table["own"] & np.isclose(table["threshold"], 0.25)]["miou"].item()
    assert own == pytest.approx(json.loads((folder / "irn/score.val.json").read_text())["miou"], abs=1e-12)

    # What decides only the walk repeats only the walk, of one refiner; shards and cores change no byte.
    (made,) = copy.results.glob("store/parts-*/plain-*/cam-*/irn_edges.val-*.h5")
    edges = Store(made, stage=BOUNDARIES)
    before = {image_id: edges.read(image_id) for image_id in edges.ids}
    edges.close()
    faster = {**REFINERS, "psa": {**PSA, "beta": 4}, "irn": {**IRN, "beta": 4}}
    copy.configure(**{**CONFIG, "refiners": faster}, report={"images": 2, "split": "val"})
    assert copy.planned(*masks) == {"refine_irn": 1, "refine_psa": 1}
    wider = {**REFINERS, "irn": {**IRN, "canvas": 64}}
    copy.configure(**{**CONFIG, "refiners": wider})
    assert copy.planned(masks[0]) == {"predict_irn": 2, "join_irn_edges": 1, "refine_irn": 1}
    copy.configure(**CONFIG, report=report, runtime={"shards": 3})
    made.unlink()
    copy.snakemake(f"{CAM}/irn/irn_edges.val.h5", cores=1)
    edges = Store(made, stage=BOUNDARIES)
    assert len(edges.shard_paths()) == 3
    assert all(np.array_equal(edges.read(image_id), value) for image_id, value in before.items())
