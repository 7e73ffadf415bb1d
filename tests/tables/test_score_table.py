"""The table of scores against its own inputs, read back by pandas."""

import io

import pandas as pd
import pytest

from camflow.errors import ConfigError
from camflow.tables.scores import scores_table, to_html, to_markdown

SCORES = {
    "d/p/score.val.json": {"kind": "classification", "map": 0.912345, "conditions": {"n_images": 7}},
    "d/p/cam/score.val.json": {
        "kind": "seed", "miou": 0.5, "threshold": 0.13, "object_precision": 0.25, "object_recall": 0.75,
        "noise_ratio": 0.125, "conditions": {"n_images": 7},
    },
    "d/p/cam/crf/score.val.json": {"kind": "masks", "miou": 0.625, "threshold": 0.13, "conditions": {"n_images": 6}},
}  # fmt: skip
PUBLISHED = {"d/p/cam/score.val.json": {"value": 48.3, "source": "a paper", "conditions": "other", "confirmed": False}}


def test_rows_are_what_the_scores_say():
    table = scores_table(SCORES, PUBLISHED).set_index(["classifier", "localizer", "refiner"])
    assert table.loc[("p", "", ""), "metric"] == "map"
    assert table.loc[("p", "", ""), "measured %"] == 91.23
    seed = table.loc[("p", "cam", "")]
    assert seed["measured %"] == 50.0
    assert seed["published %"] == 48.3
    assert seed["source"] == "a paper (unconfirmed); other"
    assert seed["precision %"] == 25.0
    assert seed["recall %"] == 75.0
    assert pd.isna(table.loc[("p", "", ""), "recall %"])
    assert list(table.index) == [("p", "", ""), ("p", "cam", ""), ("p", "cam", "crf")]
    assert table.loc[("p", "cam", "crf"), "images"] == 6
    assert "segmenter" not in table.columns


def test_predictions_with_and_without_crf_are_told_apart():
    made = {"kind": "masks", "miou": 0.5, "conditions": {"n_images": 6}}
    chosen = {**made, "conditions": {"n_images": 6, "selected_on": "val"}}
    scores = {
        "d/p/cam/crf/deeplab/score.val.json": made,
        "d/p/cam/crf/deeplab/score_crf.val.json": {**made, "miou": 0.6},
        "d/p/cam/crf/chosen/score.val.json": chosen,
    }
    table = scores_table(scores, {}).set_index(["segmenter", "CRF"])
    assert table["measured %"].to_dict() == {("chosen", ""): 50.0, ("deeplab", ""): 50.0, ("deeplab", "yes"): 60.0}
    assert table["selected on"].to_dict() == {("chosen", ""): "val", ("deeplab", ""): "", ("deeplab", "yes"): ""}
    assert not {"CRF", "selected on"} & set(scores_table(SCORES, {}).columns)


def test_how_a_network_started_and_was_shown_photos():
    made = {"kind": "masks", "miou": 0.5, "conditions": {"n_images": 6}}
    three = {"init": "classifier", "test_scales": [1.0, 0.75, 0.5], "test_flip": False, "reduce": "max_logit"}
    views = {
        "a": ({}, "1 0.75 0.5 max_logit"),
        "b": ({"test_flip": True, "reduce": "mean_prob"}, "1 0.75 0.5 mean_prob flip"),
        "c": ({"test_scales": [1.0]}, "1"),
        "d": ({"test_scales": [1.0], "test_flip": True}, "1 max_logit flip"),
    }
    scores = {
        f"d/p/cam/crf/{name}/score.val.json": {**made, "conditions": {"n_images": 6, **three, **changes}}
        for name, (changes, _) in views.items()
    }
    table = scores_table({**SCORES, **scores}, {}).set_index("segmenter")
    assert table.loc[list(views), "test"].to_dict() == {name: shown for name, (_, shown) in views.items()}
    assert set(table.loc[list(views), "init"]) == {"classifier"}
    assert set(table.loc[[""], "test"]) == set(table.loc[[""], "init"]) == {""}
    assert not {"init", "test"} & set(scores_table(SCORES, {}).columns)


def test_the_columns_of_published_values_are_always_there():
    assert {"published %", "source"} <= set(scores_table(SCORES, {}).columns)


def test_every_form_carries_the_same_numbers():
    table = scores_table(SCORES, PUBLISHED)
    html = pd.read_html(io.StringIO(to_html(table)), keep_default_na=False)[0] if _has_parser() else None
    rows = [line.split("|")[1:-1] for line in to_markdown(table).splitlines()[2:]]
    measured = list(table.columns).index("measured %")
    assert [float(row[measured]) for row in rows] == table["measured %"].tolist()
    if html is not None:
        assert html["measured %"].astype(float).tolist() == table["measured %"].tolist()
    assert "nan" not in to_markdown(table).lower()


def _has_parser() -> bool:
    try:
        import lxml  # noqa: F401
    except ImportError:
        return False
    return True


def test_a_published_value_of_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"did you mean .d/p/cam/score\.val\.json"):
        scores_table(SCORES, {"d/p/camm/score.val.json": {"value": 1.0, "source": "x"}})
