"""Kinds of wrong pixels by distance to the true boundaries, against loops over pixels."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camflow.errors import ConfigError, DataError
from camflow.evaluate.boundary import KINDS, band_names, boundary_distance, error_table
from camflow.evaluate.confusion import confusion_matrix


def blocks(seed, size=(13, 17), values=(0, 0, 1, 2, 255)):
    """Labels in blocks of 3 px, so that some pixels lie deep inside."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice(values, (size[0] // 3 + 1, size[1] // 3 + 1)).astype(np.uint8)
    return np.kron(coarse, np.ones((3, 3), np.uint8))[: size[0], : size[1]]


def noise(seed, size=(13, 17)):
    return np.random.default_rng(seed).choice([0, 1, 2, 3, 255], size).astype(np.uint8)


def nearest_other(truth, y, x):
    others = [math.hypot(y - v, x - u) for (v, u), label in np.ndenumerate(truth) if label not in (truth[y, x], 255)]
    return min(others, default=math.inf)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**16), st.booleans())
def test_distance_by_brute_force(seed, scattered):
    truth = noise(seed) if scattered else blocks(seed)
    found = boundary_distance(truth)
    assert found.shape == truth.shape and found.dtype == np.float64
    for (y, x), label in np.ndenumerate(truth):
        if label == 255:
            assert np.isnan(found[y, x])
        else:
            assert found[y, x] == pytest.approx(nearest_other(truth, y, x), abs=1e-12)


def test_distance_by_hand():
    truth = np.zeros((5, 9), np.uint8)
    truth[:, 6:] = 3
    expected = [6, 5, 4, 3, 2, 1, 1, 2, 3]
    assert boundary_distance(truth).tolist() == [expected] * 5
    truth[:, 5:7] = 255  # a rim: what it separates is that much further away
    np.testing.assert_array_equal(boundary_distance(truth), [[7, 6, 5, 4, 3, np.nan, np.nan, 3, 4]] * 5)
    assert np.isinf(boundary_distance(np.full((3, 4), 2, np.uint8))).all()
    assert np.isnan(boundary_distance(np.full((3, 4), 255, np.uint8))).all()


def kind_of(true, predicted):
    if true == predicted:
        return "right"
    return "missed object" if predicted == 0 else "false object" if true == 0 else "wrong class"


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**16), st.sampled_from([(2, 4, 8), (1,), (1.5, 3)]))
def test_table_by_brute_force(seed, bands):
    truth, predictions = blocks(seed), [noise(seed + 1), blocks(seed + 2)]
    expected = np.zeros((2, len(KINDS), len(bands) + 1), int)
    for number, prediction in enumerate(predictions):
        for (y, x), true in np.ndenumerate(truth):
            if true != 255:
                predicted = 0 if prediction[y, x] == 255 else prediction[y, x]
                band = sum(nearest_other(truth, y, x) > end for end in bands)
                expected[number, KINDS.index(kind_of(true, predicted)), band] += 1
    found = error_table(truth, predictions, bands)
    assert found.dtype == np.int64 and found.tolist() == expected.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_kinds_add_up_to_the_confusion_matrix(seed):
    truth, prediction = blocks(seed), np.minimum(noise(seed), 3)
    confusion = confusion_matrix(truth, prediction, 4)
    right, missed, false, wrong = error_table(truth, [prediction])[0].sum(axis=1)
    assert right == np.trace(confusion)
    assert missed == confusion[1:, 0].sum() and false == confusion[0, 1:].sum()
    assert right + missed + false + wrong == confusion.sum() == (truth != 255).sum()


def test_a_distance_at_the_end_of_a_band_belongs_to_it():
    truth = np.zeros((1, 20), np.uint8)
    truth[:, 10:] = 1
    found = error_table(truth, [np.zeros_like(truth)], (2, 4, 8))[0]
    assert found[KINDS.index("missed object")].tolist() == [2, 2, 4, 2]
    assert found[KINDS.index("right")].tolist() == [2, 2, 4, 2]
    alone = error_table(np.zeros((3, 3), np.uint8), [np.ones((3, 3), np.uint8)])[0]
    assert alone[KINDS.index("false object")].tolist() == [0, 0, 0, 9]  # no boundary is far


def test_names_of_the_bands():
    assert band_names((2, 4.0, 8)) == ["0-2", "2-4", "4-8", "8+"]
    assert band_names([1.5]) == ["0-1.5", "1.5+"]


@pytest.mark.parametrize("bands", [(), (0, 2), (4, 2), (2, 2), (-1, 2), (float("nan"),)])
def test_refuses_bands_that_are_none(bands):
    with pytest.raises(ConfigError, match="bands"):
        error_table(blocks(0), [blocks(0)], bands)


def test_refuses_a_label_map_of_another_size():
    with pytest.raises(DataError, match="i07"):
        error_table(blocks(0), [blocks(0), blocks(0, (12, 17))], image_id="i07")
