"""Sequences through the real workflow, and what the shipped overlay for THUMOS14 plans."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from project import TINY, Project, copy_project

from camflow.store import Store, StoreWriter
from camflow.temporal.cam import ProposalParams, localize_sequences
from camflow.temporal.evaluate import TemporalScoreParams, score_proposals
from camflow.temporal.made import SPLITS, MadeParams, write_made
from camflow.temporal.network import TemporalParams, train_temporal

MADE = {"train": 12, "val": 9, "classes": 3, "features": 16, "steps": 40}
NETWORK = {"width": 8, "epochs": 3, "batch_size": 4, "hide_segments": 5}
CONFIG = {
    "recipes": ["sequences/temporal/proposals"],
    "datasets": {**TINY["datasets"], "sequences": {"format": "sequences", **MADE}},
    "classifiers": {**TINY["classifiers"], "temporal": {"method": "temporal", "monitor": "val", **NETWORK}},
    "localizers": {**TINY["localizers"], "proposals": {"method": "temporal_cam", "threshold": 0.3}},
    "evaluation": {"splits": ["val"], "temporal": {"protocol": "thumos14", "tiou": [0.1, 0.5]}},
}


def direct(folder: Path) -> dict:
    """The score of the same settings without the workflow, from the made sequences themselves."""
    torch.set_num_threads(1)
    made, stores = MadeParams(**MADE), {}
    for split in SPLITS:
        with StoreWriter(folder / f"{split}.h5", stage="sequences", class_names=made.class_names) as writer:
            write_made(made, split, writer)
        stores[split] = Store(folder / f"{split}.h5")
    model = train_temporal(
        stores["train"], None, TemporalParams(**NETWORK), out=folder / "net.pt", metrics_csv=folder / "metrics.csv",
        scratch=folder / "scratch", key="k", progress=False,
    )  # fmt: skip
    with StoreWriter(folder / "found.h5", stage="proposals", class_names=made.class_names) as writer:
        localize_sequences(model, stores["val"], ProposalParams(threshold=0.3), writer)
    params = TemporalScoreParams("thumos14", (0.1, 0.5))
    return score_proposals(stores["val"], Store(folder / "found.h5"), params)


@pytest.mark.long
def test_from_made_sequences_to_a_table(fresh, tmp_path):
    fresh.configure(**CONFIG)
    fresh.snakemake()
    assert fresh.planned() == {}
    score = json.loads((fresh.results / "sequences/temporal/proposals/detections.val.json").read_text())
    wanted = direct(tmp_path)
    assert score["map_at"] == wanted["map_at"] and score["per_class"] == wanted["per_class"]
    assert score["target"] == "sequences/temporal/proposals/detections.val.json"
    proposals = Store(fresh.results / "sequences/temporal/proposals/maps.val.h5", stage="proposals")
    assert (proposals.shards, len(proposals)) == (2, MADE["val"])
    check = json.loads((fresh.results / "sequences/check.val.json").read_text())
    assert (check["videos"], check["steps"], check["excluded"]) == (MADE["val"], MADE["steps"], [])
    table = pd.read_csv(fresh.results / "tables/temporal.csv")
    assert table.loc[0, "mAP@0.5"] == pytest.approx(100 * wanted["map_at"]["0.5"], abs=0.005)
    assert list(table.columns) == [
        "dataset", "classifier", "localizer", "split", "seeds", "protocol", "mAP@0.1", "mAP@0.5", "mean", "videos",
        "classes",
    ]  # fmt: skip
    metrics = pd.read_csv((fresh.results / "sequences/temporal/classifier.pt").resolve().with_name("training.csv"))
    assert len(metrics) == 3 and "val_accuracy" in metrics
    # Another tIoU scores anew, another threshold localises anew, and neither trains.
    fresh.configure(**{**CONFIG, "evaluation": {**CONFIG["evaluation"], "temporal": {"tiou": [0.3]}}})
    assert fresh.planned() == {"score_temporal": 1, "make_tables": 1}
    strict = {**CONFIG["localizers"], "proposals": {"method": "temporal_cam", "threshold": 0.6}}
    fresh.configure(**{**CONFIG, "localizers": strict})
    assert fresh.planned() == {"localize_temporal_cam": 2, "join_maps": 1, "score_temporal": 1, "make_tables": 1}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    return copy_project(tmp_path_factory.mktemp("temporal") / "project")


def thumos(root: Path) -> Path:
    """A THUMOS14 folder with two videos of each split, and those that the overlay leaves out."""
    (root / "annotations").mkdir(parents=True)
    (root / "features").mkdir()
    for subset, name in (("val", "validation"), ("test", "test")):
        videos = [f"video_{name}_{number:07d}" for number in (1, 2, *((270, 1292) if subset == "test" else ()))]
        (root / f"annotations/Diving_{subset}.txt").write_text("".join(f"{video}  1.0  2.5\n" for video in videos))
        for video in videos:
            np.save(root / f"features/{video}.npy", np.zeros((50, 8), np.float32))
    return root


def test_thumos14_plans_from_its_folder(project, tmp_path):
    root = thumos(tmp_path / "thumos")
    planned = project.planned("--configfile", "config/thumos14.yaml", "--config", f"videos_root={root}")
    assert planned == {
        "check_sequences": 2, "train_temporal": 2, "plot_training": 2, "localize_temporal_cam": 2 * 2, "join_maps": 2,
        "score_temporal": 2, "make_tables": 1,
    }  # fmt: skip


@pytest.mark.long
def test_thumos14_asks_for_its_folder_and_photos_are_refused(project, tmp_path):
    run = project.snakemake("-n", "--configfile", "config/thumos14.yaml", check=False)
    text = run.stdout + run.stderr
    assert run.returncode != 0 and "Traceback" not in text
    assert "datasets.thumos14.root: give the folder of the dataset, here or as --config videos_root=FOLDER" in text
    given = ("--configfile", "config/thumos14.yaml", "--config", f"videos_root={thumos(tmp_path / 'thumos')}")
    run = project.snakemake("-n", "results/thumos14/full/score.test.json", *given, check=False)
    assert "'thumos14' holds feature sequences, not photos, so this classifier has no score.test.json" in (
        run.stdout + run.stderr
    )


@pytest.mark.long
def test_the_overlay_of_sequences_trains_three_seeds_of_each(project):
    planned = project.planned("--configfile", "config/sequences.yaml")
    assert planned == {
        "prepare_sequences": 1, "check_sequences": 2, "train_temporal": 6, "plot_training": 6,
        "localize_temporal_cam": 6, "join_maps": 6, "score_temporal": 6, "make_tables": 2,
    }  # fmt: skip
