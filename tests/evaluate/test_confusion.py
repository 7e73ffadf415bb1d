"""Confusion matrices and their reductions, against scikit-learn and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from camflow.errors import DataError
from camflow.evaluate.confusion import (
    class_iou,
    class_scores,
    confusion_matrix,
    frequency_weighted_iou,
    mean_accuracy,
    miou,
    noise_ratio,
    object_precision,
    object_recall,
    pixel_accuracy,
    summary,
)


def maps(seed, labels=5, size=(13, 17), ignored=True):
    rng = np.random.default_rng(seed)
    truth = rng.choice([*range(labels), *([255] if ignored else [])], size).astype(np.uint8)
    return truth, rng.integers(0, labels, size).astype(np.uint8)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**16), st.integers(2, 30))
def test_against_scikit_learn(seed, labels):
    truth, prediction = maps(seed, labels)
    valid = truth != 255
    confusion = confusion_matrix(truth, prediction, labels)
    t, p, names = truth[valid], prediction[valid], list(range(labels))
    assert confusion.dtype == np.int64
    assert np.array_equal(confusion, metrics.confusion_matrix(t, p, labels=names))
    scores = class_scores(confusion)
    expected = {
        "iou": metrics.jaccard_score(t, p, labels=names, average=None, zero_division=0),
        "precision": metrics.precision_score(t, p, labels=names, average=None, zero_division=np.nan),
        "recall": metrics.recall_score(t, p, labels=names, average=None, zero_division=np.nan),
    }
    scores["iou"] = np.where(np.isnan(scores["iou"]), 0, scores["iou"])  # scikit-learn's means the same by 0
    for name, values in expected.items():
        np.testing.assert_allclose(scores[name], values, atol=1e-12, err_msg=name)
    assert pixel_accuracy(confusion) == pytest.approx(metrics.accuracy_score(t, p))
    weighted = metrics.jaccard_score(t, p, labels=names, average="weighted", zero_division=0)
    assert frequency_weighted_iou(confusion) == pytest.approx(weighted)
    assert mean_accuracy(confusion) == pytest.approx(np.nanmean(expected["recall"]))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**16))
def test_properties(seed):
    truth, prediction = maps(seed)
    confusion = confusion_matrix(truth, prediction, 5)
    scores = class_scores(confusion)
    np.testing.assert_allclose(scores["iou"] + scores["fp_rate"] + scores["fn_rate"], 1)
    top = confusion_matrix(truth[:6], prediction[:6], 5), confusion_matrix(truth[6:], prediction[6:], 5)
    assert np.array_equal(top[0] + top[1], confusion)
    order = np.random.default_rng(seed).permutation(5)
    renamed = confusion_matrix(np.where(truth < 5, order[truth % 5], 255), order[prediction], 5)
    assert miou(renamed) == pytest.approx(miou(confusion))
    perfect = confusion_matrix(truth, np.where(truth < 5, truth, 0), 5)
    assert all(miou(perfect, rule) == pytest.approx(1) for rule in ("present", "truth", "seam"))


def test_rules_by_hand():
    # Class 0: 3 of 4 right; class 1 predicted only; class 2 true only; class 3 nowhere.
    confusion = np.array([[3, 1, 0, 0], [0, 0, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(class_iou(confusion), [0.5, 0, 0, np.nan])
    assert miou(confusion, "present") == pytest.approx(0.5 / 3)
    assert miou(confusion, "truth") == pytest.approx(0.5 / 2)
    assert miou(confusion, "seam") == pytest.approx(0.5 / 4)
    assert miou(np.stack([confusion, confusion]), "present").shape == (2,)
    with pytest.raises(ValueError, match="present"):
        miou(confusion, "mean")


def test_foreground_scores_by_hand():
    confusion = np.array([[50, 6, 2], [10, 20, 4], [0, 3, 5]])
    assert noise_ratio(confusion) == pytest.approx(8 / 40)
    assert object_precision(confusion) == pytest.approx(25 / 40)
    assert object_recall(confusion) == pytest.approx(25 / 42)
    scores = class_scores(confusion)
    assert scores["fp_rate"][1] == pytest.approx(1 - 34 / 43)  # 1 - truth/union
    assert scores["fn_rate"][1] == pytest.approx(1 - 29 / 43)  # 1 - prediction/union
    both = summary(confusion)
    assert both["fp_rate"] == pytest.approx(np.mean(scores["fp_rate"][1:]))
    assert both["precision"] == pytest.approx(np.mean(scores["precision"]))


def test_nothing_counted_is_undefined_not_zero():
    empty = np.zeros((3, 3), int)
    assert all(np.isnan(v) for k, v in summary(empty).items())


def test_wrong_labels_are_named():
    good = np.zeros((2, 2), np.uint8)
    for truth, prediction, what in ((good + 9, good, "mask has label 9"), (good, good + 3, "prediction has label 3")):
        with pytest.raises(DataError, match=f"img7.*{what}"):
            confusion_matrix(truth, prediction, 3, image_id="img7")
    with pytest.raises(DataError, match="img7"):
        confusion_matrix(good, np.zeros((2, 3), int), 3, image_id="img7")
    assert confusion_matrix(good + 255, good + 9, 3).sum() == 0
