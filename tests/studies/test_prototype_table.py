"""The table of clusters says what selection keeps."""

import numpy as np
import pytest

from camflow.localize.prototypes import ClassPrototypes, Clusters, SelectionParams, select
from camflow.studies.prototypes import prototype_table

COLUMNS = ["class", "side", "cluster", "members", "score", "kept", "images", "iterations"]


def side(scores, iterations):
    centres = np.arange(3 * len(scores), dtype=np.float32).reshape(-1, 3)
    return Clusters(centres, np.array(scores, float), np.arange(len(scores)) + 10, iterations=iterations)


ALL = [
    ClassPrototypes("ant", side([0.95, 0.5, 0.91], 7), side([0.01, 0.3, 0.95, 0.05, 0.9], 9), images=4),
    ClassPrototypes("bee", side([0.2, 0.7], 2), side([], 0), images=5),  # falls back on its best
    ClassPrototypes("cow", side([], 0), side([0.5], 1), images=6),
]


@pytest.mark.parametrize("use_context", [True, False])
def test_kept_is_what_select_keeps(use_context):
    params = SelectionParams(use_context=use_context)
    table = prototype_table(iter(ALL), params)
    assert list(table.columns) == COLUMNS
    for one in ALL:
        for name, clusters, chosen in zip(
            ("foreground", "context"), (one.foreground, one.context), select(one, params), strict=True
        ):
            part = table[(table["class"] == one.class_name) & (table["side"] == name)]
            assert part["cluster"].tolist() == list(range(len(clusters.score)))
            assert part["score"].tolist() == clusters.score.tolist()
            assert part["members"].tolist() == clusters.members.tolist()
            assert part["kept"].sum() == len(chosen)
            np.testing.assert_array_equal(clusters.centres[part["kept"].to_numpy(bool)], chosen)
            assert (part["iterations"] == clusters.iterations).all()
            assert (part["images"] == one.images).all()


def test_by_hand():
    table = prototype_table(ALL, SelectionParams(mu_f=0.9, context=(0.05, 0.9)))
    kept = table[table["kept"]]
    assert list(zip(kept["class"], kept["side"], kept["cluster"], strict=True)) == [
        ("ant", "foreground", 0), ("ant", "foreground", 2), ("ant", "context", 1),
        ("bee", "foreground", 1), ("cow", "context", 0),
    ]  # fmt: skip
    assert len(table) == 8 + 2 + 1


def test_no_cluster_at_all_leaves_the_columns():
    assert list(prototype_table([], SelectionParams()).columns) == COLUMNS
