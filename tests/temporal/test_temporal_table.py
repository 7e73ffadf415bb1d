"""The table of temporal scores."""

import pytest

from camflow.tables.temporal import temporal_table


def score(*values, videos=5):
    levels = dict(zip(("0.1", "0.5"), values, strict=True))
    conditions = {"protocol": "thumos14", "n_videos": videos, "class_names": ["bow", "hop"]}
    return {"kind": "temporal", "map": sum(values) / 2, "map_at": levels, "conditions": conditions}


SCORES = {
    "s/net_seed_1/cam/detections.val.json": score(0.5, 0.25),
    "s/net_seed_0/cam/detections.val.json": score(0.9, 0.05),
    "s/has/cam/detections.val.json": score(0.8, 0.123456),
}


def test_a_row_a_score_and_a_row_a_group_of_seeds():
    groups = {
        "s/net_seed_{0,1}/cam/detections.val.json": [f"s/net_seed_{k}/cam/detections.val.json" for k in (0, 1)],
        "parts/a_{0,1}/score.val.json": ["parts/a_0/score.val.json", "parts/a_1/score.val.json"],  # of another table
    }
    table = temporal_table(SCORES, groups)
    assert table["classifier"].tolist() == ["has", "net_seed_0", "net_seed_1", "net_seed_{0,1}"]
    assert table["seeds"].tolist() == [1, 1, 1, 2]
    assert table["mAP@0.1"].tolist() == pytest.approx([80, 90, 50, 70])
    assert table["mAP@0.5"].tolist() == pytest.approx([12.35, 5, 25, 15])
    assert table["mean"].tolist() == pytest.approx([46.17, 47.5, 37.5, 42.5])
    assert set(table["protocol"]) == {"thumos14"} and set(table["videos"]) == {5} and set(table["classes"]) == {2}
    assert list(table.columns[-2:]) == ["videos", "classes"]


def test_without_groups():
    assert len(temporal_table(SCORES)) == 3
