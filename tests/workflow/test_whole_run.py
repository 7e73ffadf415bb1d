"""The tiny default, run by Snakemake to the end: what is there, what it says, and the report made from it."""

import csv
import json
import os
import re

from camflow.store import Store

SCORES = [
    f"parts/{recipe}score.{split}.json"
    for recipe in ("plain/", "plain/cam/", "plain/cam/none/", "plain/cam/crf/")
    for split in ("train", "val")
]


def read(project, path):
    return json.loads((project.results / path).read_text())


def test_every_result_is_a_link_into_the_keyed_store(finished):
    for path in [*SCORES, "parts/plain/training.png", "parts/plain/cam/overlays.val.png", "tables/scores.csv"]:
        link = finished.results / path
        assert link.is_symlink(), path
        assert link.resolve().is_relative_to((finished.results / "store").resolve())
        assert not os.path.isabs(os.readlink(link))  # the folder can be moved


def test_a_score_says_what_it_is(finished):
    for path in SCORES:
        score = read(finished, path)
        assert score["target"] == path
        assert score["conditions"]["n_images"] == (10 if "train" in path else 6)
    seed = read(finished, "parts/plain/cam/score.val.json")
    train = read(finished, "parts/plain/cam/score.train.json")
    assert seed["threshold"] == train["best"]["threshold"]
    assert seed["threshold_source"]["split"] == "train"
    assert len(seed["curve"]["miou"]) == len(seed["curve"]["threshold"]) == 100


def test_the_seed_and_refiner_none_agree(finished):
    for split in ("train", "val"):
        seed = read(finished, f"parts/plain/cam/score.{split}.json")
        mask = read(finished, f"parts/plain/cam/none/score.{split}.json")
        assert seed["confusion"] == mask["confusion"]


def test_stores_carry_their_origin(finished):
    for name, stage in (("plain/cam/maps.val.h5", "maps"), ("plain/cam/crf/masks.val.h5", "masks")):
        store = Store((finished.results / "parts" / name).resolve(), stage=stage)
        assert store.meta["target"] == f"parts/{name}"
        assert store.meta["key"] in str(store.path)
        assert store.meta["software"]["torch"]
        assert len(store) == 6


def test_the_table_has_a_row_a_score(finished):
    with open(finished.results / "tables/scores.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == len(SCORES)
    assert all(0 <= float(row["measured %"]) <= 100 for row in rows)


def test_training_metrics_have_a_row_an_epoch(finished):
    folder = next((finished.results / "store").glob("parts-*/plain-*"))
    with open(folder / "training.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["epoch"] for row in rows] == ["1", "2"]


def test_the_report_has_figures_captions_and_labels(copy):
    copy.snakemake("--report", "report.html", cores=1)
    html = (copy.folder / "report.html").read_text()
    assert "overlays" in html
    assert "plain/cam/crf" in html
    for text in ("Tables", "Photo, truth", "background threshold"):
        assert re.search(text, html), text


def test_lists_and_lint(finished):
    run = finished.snakemake("--list-rules")
    assert "localize_cam" in run.stdout + run.stderr
