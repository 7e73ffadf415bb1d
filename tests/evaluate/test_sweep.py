"""The one-pass sweep against the loop over thresholds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camflow.errors import ConfigError, DataError
from camflow.evaluate.confusion import confusion_matrix
from camflow.evaluate.sweep import SeedSweep, threshold_grid

LABELS = 6


def brute_force(images, thresholds):
    """What every published script does: per threshold, stack a constant channel, arg-max, count."""
    total = np.zeros((len(thresholds), LABELS, LABELS), np.int64)
    for j, threshold in enumerate(thresholds):
        for maps, classes, truth in images:
            stack = np.pad(maps, ((1, 0), (0, 0), (0, 0)), constant_values=threshold)
            prediction = np.pad(classes + 1, (1, 0))[stack.argmax(axis=0)]
            total[j] += confusion_matrix(truth, prediction, LABELS)
    return total


def images(seed, dtype, steps, count=3):
    """Maps whose values often equal a threshold exactly, so that ties matter."""
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(count):
        size = tuple(rng.integers(1, 12, 2))
        classes = np.sort(rng.choice(LABELS - 1, rng.integers(0, 4), replace=False))
        maps = (rng.integers(0, steps + 1, (len(classes), *size)) / steps).astype(dtype)
        near = rng.integers(0, 3, maps.shape)  # a third just below, a third just above
        maps = np.where(
            near == 1, np.nextafter(maps, dtype(2)), np.where(near == 2, np.nextafter(maps, dtype(-1)), maps)
        )
        drawn.append((maps, classes, rng.choice([*range(LABELS), 255], size).astype(np.uint8)))
    return drawn


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**16),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from([(0.0, 1.0, 0.01), (0.15, 0.34, 0.01), (0.0, 0.59, 0.01), (0.3, 0.3, 0.1), (0.0, 1.0, 0.125)]),
)
def test_equals_brute_force_to_the_pixel(seed, dtype, grid):
    data, thresholds = images(seed, dtype, 100), threshold_grid(*grid)
    sweep = SeedSweep(LABELS, thresholds)
    for one in data:
        sweep.update(*one)
    assert np.array_equal(sweep.result(), brute_force(data, thresholds))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**16), st.lists(st.floats(-0.5, 1.5), min_size=1, max_size=9))
def test_any_ascending_thresholds(seed, thresholds):
    data, thresholds = images(seed, np.float32, 10), sorted(thresholds)
    sweep = SeedSweep(LABELS, thresholds)
    for one in data:
        sweep.update(*one)
    assert np.array_equal(sweep.result(), brute_force(data, thresholds))


def test_more_threshold_less_foreground():
    sweep = SeedSweep(LABELS, threshold_grid(0, 1, 0.05))
    for one in images(3, np.float32, 100, 9):
        sweep.update(*one)
    foreground = sweep.result()[:, :, 1:].sum(axis=(1, 2))
    assert (np.diff(foreground) <= 0).all()
    assert foreground[0] > foreground[-1]


def test_parts_add_up():
    data, grid = images(5, np.float32, 100, 8), threshold_grid(0, 1, 0.01)
    whole, one, two = (SeedSweep(LABELS, grid) for _ in range(3))
    for k, image in enumerate(data):
        whole.update(*image)
        (one if k % 2 else two).update(*image)
    assert np.array_equal(one.merge(two).result(), whole.result())
    with pytest.raises(ValueError, match="same"):
        one.merge(SeedSweep(LABELS, grid[:-1]))


def test_no_class_is_all_background():
    sweep = SeedSweep(3, [0.0, 0.5])
    sweep.update(np.zeros((0, 2, 2), np.float32), np.zeros(0, int), np.array([[0, 1], [2, 255]], np.uint8))
    assert sweep.result()[:, :, 0].tolist() == [[1, 1, 1]] * 2
    assert sweep.result().sum() == 6


def test_ties_between_classes_go_to_the_earlier():
    sweep = SeedSweep(3, [0.2])
    sweep.update(np.full((2, 1, 1), 0.5, np.float32), np.array([0, 1]), np.array([[2]], np.uint8))
    assert sweep.result()[0, 2].tolist() == [0, 1, 0]


def test_what_does_not_fit_is_named():
    sweep = SeedSweep(3, [0.2])
    maps = np.zeros((1, 2, 2), np.float32)
    with pytest.raises(DataError, match="img3"):
        sweep.update(maps, np.array([0]), np.zeros((2, 3), np.uint8), "img3")
    with pytest.raises(DataError, match=r"img3.*label 7"):
        sweep.update(maps, np.array([0]), np.full((2, 2), 7, np.uint8), "img3")
    for wrong in ([], [0.3, 0.2]):
        with pytest.raises(ConfigError):
            SeedSweep(3, wrong)


def test_grid_has_round_numbers():
    assert threshold_grid(0.15, 0.34, 0.01) == [float(f"{k / 100:.2f}") for k in range(15, 35)]
    assert threshold_grid(0, 1, 0.01)[-1] == 1.0
    assert len(threshold_grid(0, 0.99, 0.01)) == 100
    with pytest.raises(ConfigError):
        threshold_grid(0.5, 0.1, 0.1)
