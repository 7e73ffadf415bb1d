"""LPCAM's sensitivity against separate runs: cluster, choose, extract, score."""

import dataclasses

import numpy as np
import pytest
import torch

from camflow.evaluate.scores import ScoreParams, score_seed
from camflow.localize.cam import CamParams, extract_cams
from camflow.localize.lpcam import LpcamParams, class_vectors, extract_lpcams, similarity_maps
from camflow.localize.prototypes import PrototypeParams, cluster_class, select
from camflow.models.classifier import build_classifier
from camflow.store import Store, StoreWriter
from camflow.studies.scored import Scored
from camflow.studies.sensitivity import sensitivity_study, settings_of
from tests.localize.photos import CLASSES, Photos

PROTOTYPES = PrototypeParams(clusters=4, tau=0.3)
SELECTION = LpcamParams(scales=(1.0, 0.5), mu_f=0.25, context=(0.12, 0.2))
VALUES = {"images": 3, "clusters": [2, 6], "tau": [0.3, 0.5], "mu_f": [0.1], "mu_b": [0.1, 0.3]}
THRESHOLDS = ScoreParams(thresholds={"start": 0.1, "stop": 0.9, "step": 0.1}).thresholds
ROUNDING = 1e-3  # stores round maps to float16


class Blocks(Photos):
    """Masks of 8 px blocks, so that a map can be right in a place and wrong in another."""

    def mask(self, image_id):
        mask = super().mask(image_id)
        return mask if mask is None else np.kron(mask[::8, ::8], np.ones((8, 8), np.uint8))[: len(mask), : len(mask[0])]


TRAINING, CATALOG = Photos(0, [f"i{n:02d}" for n in range(10, 22)]), Blocks(6)
USED = ["i01", "i02", "i03", "i05"]


@pytest.fixture(scope="module")
def model():
    return build_classifier("tiny", len(CLASSES), width=8, seed=3).eval()


@pytest.fixture(scope="module")
def masks(tmp_path_factory, model):
    path = tmp_path_factory.mktemp("masks") / "maps.h5"
    with StoreWriter(path, stage="maps", class_names=CLASSES) as writer:
        extract_cams(model, TRAINING, CamParams(scales=(1.0,)), writer)
    return Store(path, stage="maps")


def study(model, masks, selection=SELECTION, **changes):
    options = {"images": None, "values": VALUES, "thresholds": THRESHOLDS, **changes}
    scored = Scored(**{name: options.pop(name) for name in ("images", "values", "thresholds")})
    return sensitivity_study(model, CATALOG, TRAINING, masks, PROTOTYPES, selection, scored, **options)


@pytest.fixture(scope="module")
def table(model, masks):
    return study(model, masks)


def clusters(model, masks, params):
    return [cluster_class(model, TRAINING, masks, c, params) for c in range(len(CLASSES))]


def plain_path(folder, model, masks, prototypes, selection):
    vectors = class_vectors(clusters(model, masks, prototypes), selection)
    part = Blocks(0, USED)
    with StoreWriter(folder / "maps.h5", stage="maps", class_names=CLASSES) as writer:
        extract_lpcams(model, part, selection, writer, vectors)
    return score_seed(Store(folder / "maps.h5", stage="maps"), part, ScoreParams(thresholds=THRESHOLDS))


def check(row, score):
    curve = score["curve"]
    assert row["miou"] == pytest.approx(score["best"]["miou"], abs=ROUNDING)
    there = THRESHOLDS.index(row["threshold"])
    assert curve["miou"][there] == pytest.approx(score["best"]["miou"], abs=ROUNDING)
    assert row["precision"] == pytest.approx(curve["object_precision"][there], abs=5 * ROUNDING)
    assert row["recall"] == pytest.approx(curve["object_recall"][there], abs=5 * ROUNDING)


def setting(panel, value):
    """The parameters that a row stands for."""
    prototypes, selection = PROTOTYPES, SELECTION
    if panel in ("clusters", "tau"):
        prototypes = dataclasses.replace(PROTOTYPES, **{panel: int(value) if panel == "clusters" else value})
    elif panel == "mu_f":
        selection = dataclasses.replace(SELECTION, mu_f=value)
    else:
        selection = dataclasses.replace(SELECTION, context=(0.12 if value > 0.12 else value / 2, value))
    return prototypes, selection


def test_every_row_is_the_best_score_of_a_plain_run(tmp_path, model, masks, table):
    scores = set()
    for _, row in table.iterrows():
        found = plain_path(tmp_path, model, masks, *setting(row["panel"], row["value"]))
        check(row, found)
        scores.add(round(found["best"]["miou"] / ROUNDING))
    assert len(scores) > 5  # the comparison can tell settings apart
    own = [row for row in table.itertuples() if setting(row.panel, row.value) == (PROTOTYPES, SELECTION)]
    assert [row.panel for row in own] == ["clusters", "tau", "mu_f", "mu_b"]
    assert len({(row.threshold, row.miou, row.precision, row.recall) for row in own}) == 1


def test_values_and_columns(table):
    assert list(table.columns) == ["panel", "value", "threshold", "miou", "precision", "recall", "images"]
    found = [(name, part["value"].tolist()) for name, part in table.groupby("panel", sort=False)]
    assert found == [("clusters", [2, 4, 6]), ("tau", [0.3, 0.5]), ("mu_f", [0.1, 0.25]), ("mu_b", [0.1, 0.2, 0.3])]
    assert set(table["images"]) == {len(USED)}  # i00 has no class, i04 no mask


def test_mu_b_chooses_among_the_context_only(model, masks):
    of_all = clusters(model, masks, PROTOTYPES)
    rows = [row for row in settings_of(PROTOTYPES, SELECTION, VALUES) if row[0] == "mu_b"]
    assert all(prototypes == PROTOTYPES for _, _, prototypes, _ in rows)
    kept = {value: [select(one, chosen) for one in of_all] for _, value, _, chosen in rows}
    for one in kept.values():
        for (class_prototypes, _), (own, _) in zip(one, kept[0.2], strict=True):
            np.testing.assert_array_equal(class_prototypes, own)
    assert [sum(len(context) for _, context in one) for one in kept.values()] == [
        sum(int(((c.context.score > low) & (c.context.score < high)).sum()) for c in of_all)
        for low, high in ((0.05, 0.1), (0.12, 0.2), (0.12, 0.3))
    ]
    assert len({sum(len(context) for _, context in one) for one in kept.values()}) > 1


@pytest.mark.parametrize("context", [(0.05, 0.9), (0.0, 0.5), (0.6, 0.9)])
def test_the_own_setting_is_among_the_rows_of_every_panel(context):
    selection = LpcamParams(context=context)
    for panel in ("clusters", "tau", "mu_f", "mu_b"):
        rows = settings_of(PROTOTYPES, selection, {panel: [3] if panel == "clusters" else [0.4]})
        assert [r[2:] for r in rows if r[0] == panel].count((PROTOTYPES, selection)) == 1


def test_no_more_than_the_sample_is_scored(model, masks):
    values = {"clusters": [], "tau": []}
    found = study(model, masks, images=2, values=values)
    assert set(found["images"]) == {2}
    assert len(found) == 4


def test_workers_do_not_change_a_byte(model, masks):
    done = []
    one, other = (
        study(model, masks, values={"clusters": [2]}, workers=n, progress=done.append).to_csv() for n in (1, 3)
    )
    assert one.encode() == other.encode()
    assert sum(done) == 2 * (len(USED) + int(TRAINING.labels.sum()))


def test_reduced_precision_ends_with_the_features(tmp_path, model, masks, monkeypatch):
    rough, reduced = dataclasses.replace(SELECTION, precision="bfloat16", scales=(1.0,)), []

    def watched(*arguments):
        reduced.append(torch.is_autocast_enabled("cpu"))
        return similarity_maps(*arguments)

    monkeypatch.setattr("camflow.localize.lpcam.similarity_maps", watched)
    row = study(model, masks, rough, values={}).iloc[0]
    assert len(reduced) == 4 * len(USED) and not any(reduced)
    check(row, plain_path(tmp_path, model, masks, PROTOTYPES, rough))


def test_a_class_without_prototypes_does_not_stop_the_study(model, tmp_path):
    """No image shows the last class among those that are clustered: its maps are zero, the others go on."""
    training = Photos(0, [i for i in TRAINING.ids if not TRAINING.label(i)[-1]])
    with StoreWriter(tmp_path / "maps.h5", stage="maps", class_names=CLASSES) as writer:
        extract_cams(model, training, CamParams(scales=(1.0,)), writer)
    found = sensitivity_study(
        model, CATALOG, training, Store(tmp_path / "maps.h5"), PROTOTYPES, SELECTION,
        Scored(None, {}, THRESHOLDS),
    )  # fmt: skip
    assert np.isfinite(found["miou"]).all()
