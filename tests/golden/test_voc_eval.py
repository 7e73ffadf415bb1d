"""Confusion matrices, means and threshold sweeps against the evaluation scripts of AdvCAM, SEAM and DeepLab."""

import numpy as np
import pytest

from camflow.evaluate.confusion import (
    class_iou,
    confusion_matrix,
    frequency_weighted_iou,
    mean_accuracy,
    miou,
    noise_ratio,
    pixel_accuracy,
    seam_iou,
)
from camflow.evaluate.sweep import SeedSweep, threshold_grid
from tests.golden.loader import golden

LABELS = 21
close = {"rel": 0, "abs": 1e-12}


@pytest.fixture(scope="module")
def arrays():
    return golden("voc_eval")


@pytest.fixture(scope="module")
def confusion(arrays):
    return sum(confusion_matrix(arrays[f"gt_{i}"], arrays[f"pred_{i}"], LABELS) for i in range(4))


def sweep(arrays, thresholds):
    counter = SeedSweep(LABELS, thresholds)
    for i in range(3):
        counter.update(arrays[f"sweep_cam_{i}"], arrays[f"sweep_keys_{i}"], arrays[f"sweep_gt_{i}"])
    return counter.result()


def test_confusion(arrays, confusion):
    assert np.array_equal(confusion, arrays["confusion"])
    np.testing.assert_allclose(class_iou(confusion), arrays["iou"], rtol=0, atol=1e-12)


def test_means(arrays, confusion):
    assert miou(confusion, "present") == pytest.approx(float(arrays["miou_nanmean"]), **close)
    assert miou(confusion, "truth") == pytest.approx(float(arrays["deeplab_miou"]), **close)
    assert 100 * miou(confusion, "seam") == pytest.approx(float(arrays["seam_miou_percent"]), **close)
    np.testing.assert_allclose(100 * seam_iou(confusion), arrays["seam_iou_percent"], rtol=0, atol=1e-12)
    assert pixel_accuracy(confusion) == pytest.approx(float(arrays["deeplab_pixel_acc"]), **close)
    assert mean_accuracy(confusion) == pytest.approx(float(arrays["deeplab_mean_acc"]), **close)
    assert frequency_weighted_iou(confusion) == pytest.approx(float(arrays["deeplab_fw_iou"]), **close)


def test_one_map_alone_where_the_rules_differ_most(arrays):
    last = confusion_matrix(arrays["gt_3"], arrays["pred_3"], LABELS)
    assert np.array_equal(last, arrays["last_only_confusion"])
    assert miou(last, "present") == pytest.approx(float(arrays["last_only_miou_nanmean"]), **close)
    assert miou(last, "truth") == pytest.approx(float(arrays["last_only_deeplab_miou"]), **close)


def test_sweep(arrays):
    thresholds = threshold_grid(0.15, 0.34, 0.01)
    assert np.array_equal(thresholds, arrays["sweep_thresholds"])
    confusions = sweep(arrays, thresholds)
    assert np.array_equal(confusions, arrays["sweep_confusion"])
    curve = miou(confusions)
    np.testing.assert_allclose(curve, arrays["sweep_miou"], rtol=0, atol=1e-12)
    assert thresholds[int(curve.argmax())] == float(arrays["sweep_best_threshold"])
    assert curve.max() == pytest.approx(float(arrays["sweep_best_miou"]), **close)
    np.testing.assert_allclose(noise_ratio(confusions), arrays["sweep_fg_is_bg_share"], rtol=0, atol=1e-12)


def test_seam_sweep(arrays):
    thresholds = threshold_grid(0, 0.59, 0.01)
    assert np.array_equal(thresholds, arrays["seam_sweep_thresholds"])
    curve = 100 * miou(sweep(arrays, thresholds), "seam")
    np.testing.assert_allclose(curve, arrays["seam_sweep_miou_percent"], rtol=0, atol=1e-12)
