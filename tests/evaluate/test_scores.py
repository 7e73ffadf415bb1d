"""Scores as dictionaries: content, provenance, and what is refused."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from camflow.errors import ConfigError, DataError, StoreError
from camflow.evaluate.classification import predict_scores, score_classification
from camflow.evaluate.confusion import confusion_matrix, miou
from camflow.evaluate.scores import ScoreParams, score_masks, score_seed
from camflow.localize.maps import full_size_maps, read_seed
from camflow.models.classifier import build_classifier
from camflow.refine.driver import refine_maps
from camflow.refine.threshold import ThresholdParams, threshold_labels
from camflow.store import Store, StoreWriter, write_json
from tests.localize.photos import CLASSES, Photos, seed_store

PARAMS = ScoreParams(thresholds={"start": 0, "stop": 0.9, "step": 0.05})


@pytest.fixture
def catalog():
    return Photos(15)


@pytest.fixture
def maps(tmp_path, catalog):
    return seed_store(tmp_path / "maps.h5", catalog)


def masks_at(path, maps, catalog, threshold):
    with StoreWriter(path, stage="masks") as writer:
        refine_maps(maps, catalog, threshold_labels, ThresholdParams(), threshold, writer)
    return Store(path, stage="masks")


# --- seeds -----------------------------------------------------------------------------------------------------------


def test_seed_score_by_hand(maps, catalog):
    score = score_seed(maps, catalog, PARAMS)
    curve = []
    for threshold in PARAMS.thresholds:
        total = 0
        for image_id in catalog.ids:
            truth, seed = catalog.mask(image_id), read_seed(maps, image_id)
            if truth is not None:
                stack = np.pad(full_size_maps(seed), ((1, 0), (0, 0), (0, 0)), constant_values=threshold)
                prediction = np.pad(seed.classes + 1, (1, 0))[stack.argmax(axis=0)]
                total = total + confusion_matrix(truth, prediction, 6)
        curve.append(float(miou(total)))
    assert score["curve"]["miou"] == pytest.approx(curve, abs=1e-12)
    assert score["best"]["miou"] == max(score["curve"]["miou"])
    assert score["best"]["threshold"] == PARAMS.thresholds[int(np.argmax(curve))]
    assert score["miou"] == score["best"]["miou"]
    assert score["threshold_source"] == {"kind": "best on this split"}
    assert score["conditions"]["n_images"] == 12
    assert score["conditions"]["n_images_without_mask"] == 3
    assert list(score["per_class"]) == ["background", *CLASSES]


def test_threshold_from_another_split(tmp_path, maps, catalog):
    other = score_seed(maps, catalog.shard(0, 2), PARAMS)
    score = score_seed(maps, catalog, PARAMS, threshold_from=other)
    assert score["threshold"] == other["best"]["threshold"]
    assert score["threshold_source"]["kind"] == "best on another split"
    assert score["threshold_source"]["split"] == "val"
    assert score["miou"] <= score["best"]["miou"]
    # The seed at that threshold as a label map is the same thing.
    masks = score_masks(masks_at(tmp_path / "masks.h5", maps, catalog, score["threshold"]), catalog, PARAMS)
    assert masks["confusion"] == score["confusion"]
    assert masks["miou"] == score["miou"]
    with pytest.raises(DataError, match="seed"):
        score_seed(maps, catalog, PARAMS, threshold_from={"kind": "masks"})


def test_fixed_threshold_need_not_be_on_the_grid(maps, catalog):
    score = score_seed(maps, catalog, ScoreParams(thresholds=(0.2, 0.4), threshold=0.3))
    assert score["threshold"] == 0.3
    assert score["curve"]["threshold"] == [0.2, 0.4]
    assert score["miou"] == score_seed(maps, catalog, ScoreParams(thresholds=(0.3,)))["miou"]


def test_score_file_does_not_depend_on_workers(tmp_path, maps, catalog):
    for jobs in (1, 2):
        write_json(tmp_path / f"{jobs}.json", score_seed(maps, catalog, PARAMS, jobs=jobs))
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_undefined_values_are_null(maps, catalog):
    one = Photos(0, ["i01"])
    score = score_seed(maps, one, ScoreParams(thresholds=(1.0,)))
    absent = [n for n in CLASSES if not one.label("i01")[CLASSES.index(n)]]
    assert score["noise_ratio"] is None
    assert all(score["per_class"][n]["iou"] is None for n in absent)
    json.dumps(score, allow_nan=False)


def test_missing_things_are_named(tmp_path, maps, catalog):
    holes = seed_store(tmp_path / "holes.h5", catalog, leave_out=("i02",))
    with pytest.raises(StoreError, match="i02"):
        score_seed(holes, catalog, PARAMS)
    bare = Photos(0, ["i04", "i09"])
    for score, store in ((score_seed, maps), (score_masks, masks_at(tmp_path / "m.h5", maps, catalog, 0.3))):
        with pytest.raises(DataError, match=r"val.*toy.*no masks"):
            score(store, bare, PARAMS)


# --- masks -----------------------------------------------------------------------------------------------------------


def test_undecided_pixels(tmp_path, catalog):
    with StoreWriter(tmp_path / "masks.h5", stage="masks") as writer:
        for image_id in catalog.ids:
            writer.write(image_id, np.full(catalog.size(image_id), 255, np.uint8))
    masks = Store(tmp_path / "masks.h5")
    score = score_masks(masks, catalog, PARAMS)
    assert score["conditions"]["ignored_prediction_pixels"] == np.sum(score["confusion"])
    assert np.array(score["confusion"])[:, 1:].sum() == 0
    with pytest.raises(DataError, match=r"i00.*255"):
        score_masks(masks, catalog, ScoreParams(ignored_prediction="error"))


def test_mask_of_another_size_is_named(tmp_path, catalog):
    with StoreWriter(tmp_path / "masks.h5", stage="masks") as writer:
        for image_id in catalog.ids:
            writer.write(image_id, np.zeros((3, 3), np.uint8))
    with pytest.raises(DataError, match="i00"):
        score_masks(Store(tmp_path / "masks.h5"), catalog, PARAMS)


@pytest.mark.parametrize(
    "wrong", [{"thresholds": ()}, {"thresholds": (0.2, 0.1)}, {"miou": "mean"}, {"ignored_prediction": "no"}]
)
def test_wrong_parameters(wrong):
    with pytest.raises(ConfigError):
        ScoreParams(**wrong)


# --- classification --------------------------------------------------------------------------------------------------


def test_classification_score():
    rng = np.random.default_rng(0)
    labels, logits = (rng.random((40, 3)) < 0.4).astype(np.uint8), rng.normal(size=(40, 3))
    labels[:, 2] = 0
    score = score_classification(logits, labels, ["a", "b", "c"], conditions={"split": "val"})
    expected = [average_precision_score(labels[:, c], logits[:, c]) for c in (0, 1)]
    assert score["map"] == pytest.approx(np.mean(expected))
    assert score["per_class"]["c"]["average_precision"] is None
    assert score["accuracy"] == pytest.approx(((logits > 0) == labels).mean())
    probabilities = 1 / (1 + np.exp(-logits))
    same = score_classification(probabilities, labels, ["a", "b", "c"], threshold=0.5)
    assert {k: same[k] for k in ("map", "accuracy", "exact_match", "top1")} == {
        k: score[k] for k in ("map", "accuracy", "exact_match", "top1")
    }
    assert score["conditions"]["split"] == "val"
    json.dumps(score, allow_nan=False)


def test_perfect_and_empty_classification():
    labels = np.eye(3, dtype=np.uint8)
    score = score_classification(labels * 2.0 - 1, labels, ["a", "b", "c"])
    assert (score["map"], score["accuracy"], score["exact_match"], score["top1"]) == (1, 1, 1, 1)
    nothing = score_classification(np.zeros((2, 3)), np.zeros((2, 3)), ["a", "b", "c"])
    assert nothing["map"] is None
    assert nothing["top1"] is None


@pytest.mark.parametrize(
    ("scores", "labels", "what"),
    [
        (np.zeros((2, 3)), np.zeros((2, 2)), "fit"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "empty"),
        (np.full((2, 3), np.nan), np.zeros((2, 3)), "diverged"),
    ],
)
def test_impossible_classification(scores, labels, what):
    with pytest.raises(DataError, match=what):
        score_classification(scores, labels, ["a", "b", "c"])


def test_predicted_scores(catalog):
    model = build_classifier("tiny", len(CLASSES), width=8, seed=1)
    logits = predict_scores(model, catalog, batch_size=4)
    assert logits.shape == (15, 5)
    assert np.array_equal(logits, predict_scores(model, catalog, batch_size=1))
    some = Photos(0, catalog.ids[5:9])
    assert np.array_equal(predict_scores(model, some), logits[5:9])
    photo = (catalog.image("i03") / 255 - np.array(model.mean)) / np.array(model.std)
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(photo.transpose(2, 0, 1)[None]).float())
    np.testing.assert_allclose(logits[3], expected[0], atol=1e-5)
    assert not np.array_equal(logits, predict_scores(model, catalog, long_side=30))
