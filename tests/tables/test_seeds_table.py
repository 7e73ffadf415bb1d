"""Mean and spread over the seeds, by hand."""

import math

import pandas as pd
import pytest

from camflow.tables.scores import to_html, to_markdown
from camflow.tables.seeds import seeds_table

SCORES = {
    "d/p1/cam/score.val.json": {"kind": "seed", "miou": 0.50, "object_recall": 0.7, "object_precision": 0.6},
    "d/p2/cam/score.val.json": {"kind": "seed", "miou": 0.53, "object_recall": 0.7, "object_precision": 0.5},
    "d/p3/cam/score.val.json": {"kind": "seed", "miou": 0.47, "object_recall": 0.7, "object_precision": None},
    "d/p1/cam/crf/score.val.json": {"kind": "masks", "miou": 0.6},
    "d/p2/cam/crf/score.val.json": {"kind": "masks", "miou": 0.7},
    "d/p1/cam/crf/score.train.json": {"kind": "masks", "miou": 0.6},
    "d/p2/cam/crf/score.train.json": {"kind": "masks", "miou": 0.6},
    "d/p1/score.val.json": {"kind": "classification", "map": 0.9},
    "d/p2/score.val.json": {"kind": "classification", "map": 0.94},
}
GROUPS = {
    "d/p{1,2,3}/cam/score.val.json": [f"d/p{n}/cam/score.val.json" for n in (1, 2, 3)],
    "d/p{1,2}/cam/crf/score.val.json": [f"d/p{n}/cam/crf/score.val.json" for n in (1, 2)],
    "d/p{1,2}/cam/crf/score.train.json": [f"d/p{n}/cam/crf/score.train.json" for n in (1, 2)],
    "d/p{1,2}/score.val.json": [f"d/p{n}/score.val.json" for n in (1, 2)],
}


def test_scores_after_a_crf_are_rows_of_their_own():
    paths = {f"d/p{n}/cam/crf/deeplab/score{crf}.val.json" for n in (1, 2) for crf in ("", "_crf")}
    groups = {
        f"d/p{{1,2}}/cam/crf/deeplab/score{crf}.val.json": sorted(p for p in paths if f"score{crf}." in p)
        for crf in ("", "_crf")
    }
    table = seeds_table({path: {"kind": "masks", "miou": 0.6 if "_crf" in path else 0.5} for path in paths}, groups)
    found = table.set_index("recipe")["mIoU %"].to_dict()
    assert found == {"d/p{1,2}/cam/crf/deeplab": 50.0, "d/p{1,2}/cam/crf/deeplab +CRF": 60.0}


@pytest.fixture(scope="module")
def table():
    return seeds_table(SCORES, GROUPS)


def test_mean_and_sample_deviation(table):
    rows = table.set_index(["split", "kind"])
    seed = rows.loc[("val", "seed")]
    assert (seed["mIoU %"], seed["mIoU +-"]) == (50.0, 3.0)  # sqrt((0 + 9 + 9) / 2)
    assert (seed["recall %"], seed["recall +-"]) == (70.0, 0.0)
    assert seed["seeds"] == 3
    assert seed["each"] == "50.0, 53.0, 47.0"  # in the order of the seeds
    masks = rows.loc[("val", "masks")]
    assert (masks["mIoU %"], masks["mIoU +-"]) == (65.0, 7.1)  # 10 / sqrt(2)
    assert (rows.loc[("train", "masks"), "mIoU +-"]) == 0.0
    assert rows.loc[("val", "seed"), "recipe"] == "d/p{1,2,3}/cam"


def test_a_measure_that_a_seed_lacks_has_no_mean(table):
    seed = table[table["kind"] == "seed"].iloc[0]
    assert math.isnan(seed["precision %"]) and math.isnan(seed["precision +-"])


def test_classifiers_are_scored_by_map(table):
    row = table[table["kind"] == "classification"].iloc[0]
    assert (row["mAP %"], row["mAP +-"], row["each"]) == (92.0, 2.8, "90.0, 94.0")
    assert row["recipe"] == "d/p{1,2}"
    assert pd.isna(row["mIoU %"])
    assert table[table["kind"] != "classification"]["mAP %"].isna().all()


def test_rows_are_ordered_whatever_the_order_of_the_groups(table):
    order = [("train", "masks"), ("val", "classification"), ("val", "masks"), ("val", "seed")]
    assert list(zip(table["split"], table["kind"], strict=True)) == order
    assert list(table.columns[:4]) == ["recipe", "split", "kind", "seeds"]
    assert table.columns[-1] == "each"
    again = seeds_table(SCORES, dict(reversed(GROUPS.items())))
    pd.testing.assert_frame_equal(again, table, check_like=True)


def test_recipes_within_a_kind_are_ordered_by_name():
    groups = {f"d/{name}/score.val.json": GROUPS["d/p{1,2}/score.val.json"] for name in ("z{1,2}", "a{1,2}", "m{1,2}")}
    assert seeds_table(SCORES, groups)["recipe"].tolist() == ["d/a{1,2}", "d/m{1,2}", "d/z{1,2}"]


def test_a_measure_of_nobody_has_no_column():
    found = seeds_table(SCORES, {"d/p{1,2}/score.val.json": GROUPS["d/p{1,2}/score.val.json"]})
    assert list(found.columns) == ["recipe", "split", "kind", "seeds", "mAP %", "mAP +-", "each"]


def test_an_undefined_score_does_not_stop_the_table():
    """A score is null in its file where nothing could be measured."""
    scores = {f"d/p{n}/cam/score.val.json": {"kind": "seed", "miou": value} for n, value in ((1, 0.5), (2, None))}
    row = seeds_table(scores, {"d/p{1,2}/cam/score.val.json": list(scores)}).iloc[0]
    assert row["each"] == "50.0, -" and math.isnan(row["mIoU %"])


def test_it_can_be_written_in_every_form(table):
    assert "50.0, 53.0, 47.0" in to_markdown(table)
    assert "nan" not in to_markdown(table).lower()
    assert "d/p{1,2,3}/cam" in to_html(table)
