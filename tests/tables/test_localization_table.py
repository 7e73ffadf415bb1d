"""The table of scores against boxes, by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from camflow.evaluate.localization import Curves, LocalizationParams, localization_scores
from camflow.tables.localization import localization_table
from camflow.tables.scores import to_html, to_markdown
from camflow.tables.seeds import seeds_table

LOCALIZATION = {
    "kind": "localization", "maxboxacc": 0.71234, "maxboxacc_v2": 0.5, "threshold": 0.25, "gt_known_loc": 0.7,
    "top1_loc": 0.625, "top5_loc": 0.65, "top1_cls": 0.8, "top5_cls": 0.95,
    "fixed": {
        "0.1": {"contour": {"gt_known_loc": 0.9}},
        "0.2": {
            "contour": {"gt_known_loc": 0.45},
            "component": {"gt_known_loc": 0.4, "top1_loc": 0.3, "top5_loc": 0.35},
        },
        "0.3": {"contour": {"gt_known_loc": 0.55}, "component": {"gt_known_loc": 0.5, "top1_loc": 0.45}},
    },
    "conditions": {"n_images": 40},
}  # fmt: skip
PXAP = {"kind": "pxap", "pxap": 0.66666, "conditions": {"n_images": 40}}
SALIENCY = {
    "kind": "saliency", "le": 0.36, "om_top1": 0.48, "om_top5": 0.4, "f1": 0.6, "f1a": 0.5, "pointing": 0.875,
    "conditions": {"n_images": 39},
}  # fmt: skip
SCORES = {
    "d/p/m/localization.val.json": LOCALIZATION,
    "d/p/m/pxap.val.json": PXAP,
    "d/p/cam/localization.val.json": {**LOCALIZATION, "gt_known_loc": 0.1},
    "d/p/cam/localization.test.json": {**LOCALIZATION, "gt_known_loc": 0.2},
    "d/a/m/saliency.val.json": SALIENCY,
}


@pytest.fixture(scope="module")
def table():
    return localization_table(SCORES).set_index(["dataset", "classifier", "localizer", "split"])


def test_one_row_a_recipe_and_split_whatever_the_order(table):
    order = [("d", "a", "m", "val"), ("d", "p", "cam", "test"), ("d", "p", "cam", "val"), ("d", "p", "m", "val")]
    assert list(table.index) == order
    again = localization_table(dict(reversed(SCORES.items()))).set_index(table.index.names)
    pd.testing.assert_frame_equal(again[list(table.columns)], table)
    assert list(again.columns)[-1] == list(table.columns)[-1] == "images"


def test_scores_of_one_recipe_stand_side_by_side_in_per_cent(table):
    row = table.loc[("d", "p", "m", "val")]
    found = row.dropna().to_dict()
    assert found == {
        "MaxBoxAcc": 71.23, "MaxBoxAccV2": 50.0, "GT-known": 70.0, "Top-1 Loc": 62.5, "Top-5 Loc": 65.0,
        "Top-1 Cls": 80.0, "threshold": 0.25, "GT-known at 0.2": 40.0, "Top-1 Loc at 0.2": 30.0, "PxAP": 66.67,
        "images": 40,
    }  # fmt: skip
    saliency = table.loc[("d", "a", "m", "val")].dropna().to_dict()
    assert saliency == {"LE": 36.0, "OM": 48.0, "F1": 60.0, "pointing": 87.5, "images": 39}
    assert (table.loc[("d", "p", "cam", "val"), "GT-known"], table.loc[("d", "p", "cam", "test"), "GT-known"]) == (
        10,
        20,
    )


def test_what_was_not_asked_for_has_no_column():
    found = localization_table({"d/p/m/pxap.val.json": PXAP})
    assert list(found.columns) == ["dataset", "classifier", "localizer", "split", "PxAP", "images"]
    without = {**SALIENCY, "om_top1": None}
    assert "OM" not in localization_table({"d/p/m/saliency.val.json": without}).columns
    # Boxes of the fixed-fraction rule that nobody asked for.
    bare = {**LOCALIZATION, "fixed": {"0.2": {"contour": {"gt_known_loc": 0.45}}}}
    assert not [name for name in localization_table({"d/p/m/localization.val.json": bare}).columns if " at " in name]


def test_a_classifier_without_confidence_has_no_classification():
    bare = {key: value for key, value in LOCALIZATION.items() if not key.startswith("top")}
    bare["fixed"] = {"0.2": {"component": {"gt_known_loc": 0.4}}}
    row = localization_table({"d/p/m/localization.val.json": bare}).iloc[0].to_dict()
    assert row["GT-known at 0.2"] == 40.0 and not [name for name in row if name.startswith("Top")]


def test_it_reads_what_the_evaluation_writes():
    """A made split of four pairs whose best IoUs are known."""
    values = np.zeros((4, 2, 256))
    values[:3, 0] = 0.6  # V1: three of four hit at .5
    values[:2, 1] = 0.9  # V2: two of four at every IoU
    curves = Curves(np.arange(4), np.zeros(4, int), values, np.full(4, 255), np.array([[0.6, 0.4, 0.6, 0.9]]), (0.2,))
    score = localization_scores(
        curves, ["a", "b"], LocalizationParams(),
        scores=np.array([[1, 0], [0, 1], [1, 0], [1, 0]], float), labels=np.array([[1, 0]] * 4),
    )  # fmt: skip
    row = localization_table({"d/p/m/localization.val.json": score}).iloc[0].to_dict()
    wanted = {
        "MaxBoxAcc": 75.0, "MaxBoxAccV2": 50.0, "GT-known": 75.0, "Top-1 Loc": 50.0, "Top-5 Loc": 75.0, "Top-1 Cls": 75.0,
        "threshold": 0.0, "GT-known at 0.2": 75.0, "Top-1 Loc at 0.2": 75.0, "images": 4,
    }  # fmt: skip
    assert {key: row[key] for key in wanted} == wanted


def test_it_can_be_written_in_every_form():
    table = localization_table(SCORES)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in to_markdown(table).splitlines()[2:]]
    column = list(table.columns).index("GT-known")
    assert [float(row[column] or "nan") for row in rows] == pytest.approx([math.nan, 20, 10, 70], nan_ok=True)
    assert "nan" not in to_markdown(table).lower() and "71.23" in to_html(table)


# --- over seeds ------------------------------------------------------------------------------------------------------


def test_scores_against_boxes_over_seeds():
    scores = {f"d/p{n}/m/localization.val.json": {**LOCALIZATION, "gt_known_loc": g} for n, g in ((1, 0.7), (2, 0.74))}
    scores |= {f"d/p{n}/m/pxap.val.json": {**PXAP, "pxap": p} for n, p in ((1, 0.5), (2, 0.5))}
    scores |= {f"d/p{n}/m/saliency.val.json": {**SALIENCY, "le": le} for n, le in ((1, 0.3), (2, 0.4))}
    groups = {
        f"d/p{{1,2}}/m/{kind}.val.json": [f"d/p{n}/m/{kind}.val.json" for n in (1, 2)]
        for kind in ("localization", "pxap", "saliency")
    }
    table = seeds_table(scores, groups).set_index("kind")
    assert list(table.index) == ["localization", "pxap", "saliency"]
    assert table["each"].to_dict() == {"localization": "70.0, 74.0", "pxap": "50.0, 50.0", "saliency": "30.0, 40.0"}
    loc = table.loc["localization"]
    assert (loc["GT-known %"], loc["GT-known +-"]) == (72.0, 2.8)  # 4 / sqrt(2)
    assert (loc["Top-1 Loc %"], loc["MaxBoxAccV2 %"]) == (62.5, 50.0)
    assert (table.loc["saliency", "LE %"], table.loc["saliency", "LE +-"]) == (35.0, 7.1)
    assert (table.loc["pxap", "PxAP %"], table.loc["pxap", "PxAP +-"]) == (50.0, 0.0)
    assert math.isnan(table.loc["pxap", "LE %"]) and set(table["recipe"]) == {"d/p{1,2}/m"}
