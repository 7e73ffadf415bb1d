"""The random walk against its definition, and what is built on it."""

import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from scipy import ndimage

from camflow.errors import ConfigError, DataError
from camflow.evaluate.instances import InstanceScore, average_precision, mask_ious
from camflow.refine.neighbours import neighbours, path_cells, source_window
from camflow.refine.walk import (
    PUBLISHED,
    Affinities,
    InstanceParams,
    WalkParams,
    centroids,
    chebyshev,
    edge_affinities,
    enlarge,
    instance_map,
    instance_masks,
    pair_affinities,
    semantic_labels,
    semantic_scores,
    walk_params,
)


def edge_map(grid, seed=0, dtype=np.float64):
    """Thin ridges between flat regions, as a trained network draws them."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal(grid), 2)
    return np.clip(np.exp(-((smooth / smooth.std() / 0.25) ** 2)) * 0.9 + 0.02 * rng.random(grid), 0.001, 0.999).astype(
        dtype
    )


# --- neighbours ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("radius", "pairs", "cells"), [(5, 34, 242), (10, 152, 2134)])
def test_numbers_of_pairs_and_cells(radius, pairs, cells):
    near = neighbours(radius)
    assert near.offsets.shape == near.search.shape == (pairs, 2)
    assert sum(map(len, near.paths)) == cells


def test_each_unordered_pair_once():
    offsets = {tuple(o) for o in neighbours(7).search.tolist()}
    both = offsets | {(-y, -x) for y, x in offsets}
    assert len(both) == 2 * len(offsets)
    reach = range(-7, 8)
    assert both == {(y, x) for y in reach for x in reach if 0 < y * y + x * x < 49}


@pytest.mark.parametrize("offset", [(0, 4), (3, -2), (4, 2), (9, 1), (1, -9)])
def test_path_lies_near_the_line(offset):
    path = path_cells(*offset)
    assert path[0].tolist() == list(offset)
    assert path[-1].tolist() == [0, 0]
    assert len({tuple(c) for c in path.tolist()}) == len(path)
    direction = np.array(offset) / np.hypot(*offset)
    assert (abs(path @ np.array([-direction[1], direction[0]])) < 1).all()
    for y, x in path.tolist():  # inside the box
        assert min(0, offset[0]) <= y <= max(0, offset[0])
        assert min(0, offset[1]) <= x <= max(0, offset[1])


def test_too_small_grids_and_radii_are_named():
    for grid in ((4, 30), (30, 8)):
        with pytest.raises(ConfigError, match="no pairs of radius 5"):
            source_window(grid, 5)
    assert source_window((5, 9), 5) == (slice(0, 1), slice(4, 5))
    with pytest.raises(ConfigError, match="radius"):
        neighbours(1)


# --- affinities ------------------------------------------------------------------------------------------------------


def dense_affinity(edge, radius, borders):
    """A by its definition, one pair at a time; paths by distance to the line."""
    height, width = edge.shape
    matrix = np.eye(edge.size)
    reach = range(1 - radius, radius)
    for (y, x), dy, dx in itertools.product(np.ndindex(height, width), reach, reach):
        v, u = y + dy, x + dx
        if not (0 <= v < height and 0 <= u < width):
            continue
        if not ((dy > 0 or (dy == 0 and dx > 0)) and dy * dy + dx * dx < radius**2):
            continue
        if borders == "psa" and not (y <= height - radius and radius - 1 <= x <= width - radius):
            continue
        box = itertools.product(range(y, v + 1), range(min(x, u), max(x, u) + 1))
        line = [c for c in box if (dy * (c[1] - x) - dx * (c[0] - y)) ** 2 / (dy * dy + dx * dx) < 1]
        value = 1 - max(edge[c] for c in line)
        matrix[y * width + x, v * width + u] = matrix[v * width + u, y * width + x] = value
    return matrix


def dense_walk(matrix, maps, beta, exp_times):
    power = matrix**beta
    transition = power / power.sum(axis=0)
    for _ in range(exp_times):
        transition = transition @ transition
    return (maps.reshape(len(maps), -1) @ transition).reshape(maps.shape)


@pytest.mark.parametrize("borders", ["irn", "psa"])
@pytest.mark.parametrize("radius", [2, 3, 5])
def test_matrix_by_its_definition(radius, borders):
    edge = edge_map((11, 12))
    expected = dense_affinity(edge, radius, borders)
    found = edge_affinities(edge, radius, borders).transition(3).dense()
    np.testing.assert_allclose(found, expected**3 / (expected**3).sum(axis=0), rtol=0, atol=1e-14)


def test_pairs_of_psa_fill_the_same_structure():
    edge = edge_map((11, 12))
    full = edge_affinities(edge, 5, "psa").weights
    rows, columns = source_window(edge.shape, 5)
    pairs = full[:, rows, columns].reshape(len(full), -1)
    assert np.array_equal(pair_affinities(pairs, edge.shape).weights, full)
    assert edge_affinities(edge).weights[:, 8:].any()
    assert not full[:, 8:].any()


def test_refuses_what_is_no_boundary_map():
    with pytest.raises(ValueError, match="float"):
        edge_affinities(np.zeros((8, 9), np.uint8))
    with pytest.raises(ConfigError, match="did you mean 'psa'"):
        edge_affinities(edge_map((8, 9)), 5, "pssa")
    with pytest.raises(ValueError, match="no affinities"):
        Affinities(np.zeros((33, 8, 9)), 5)


@pytest.mark.parametrize("grid", [(1, 1), (1, 9), (9, 1), (3, 4)])
def test_grids_smaller_than_the_radius(grid):
    edge = edge_map((12, 12))[: grid[0], : grid[1]].copy()
    maps = np.random.default_rng(0).random((2, *grid))
    found = edge_affinities(edge).transition(10).walk(maps, 8)
    expected = dense_walk(dense_affinity(edge, 5, "irn"), maps, 10, 8)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


# --- the walk --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("borders", ["irn", "psa"])
@pytest.mark.parametrize(("beta", "exp_times"), [(10, 8), (10, 6), (8, 0), (2.5, 3), (1, 10)])
def test_equals_the_dense_power(beta, exp_times, borders):
    edge, rng = edge_map((12, 15), 1), np.random.default_rng(1)
    maps = rng.random((3, 12, 15))
    expected = dense_walk(dense_affinity(edge, 5, borders), maps, beta, exp_times)
    found = edge_affinities(edge, 5, borders).transition(beta).walk(maps, exp_times)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)
    single = edge_affinities(edge.astype(np.float32), 5, borders).transition(beta).walk(maps, exp_times)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, rtol=0, atol=1e-6)


def test_signed_and_many_vectors():
    edge = edge_map((9, 14), 2)
    maps = np.random.default_rng(2).standard_normal((40, 9, 14))
    expected = dense_walk(dense_affinity(edge, 5, "irn"), maps, 10, 8)
    transition = edge_affinities(edge).transition(10)
    np.testing.assert_allclose(transition.walk(maps, 8), expected, rtol=0, atol=1e-11)
    np.testing.assert_allclose(transition.walk(maps[7:8], 8), expected[7:8], rtol=0, atol=1e-11)


@pytest.mark.parametrize("borders", ["irn", "psa"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_stays(dtype, borders):
    transition = edge_affinities(edge_map((40, 53), 3, dtype), 5, borders).transition(10)
    maps = np.stack([np.full((40, 53), value, dtype) for value in (1, 0.3, 0)])
    found = transition.walk(maps, 8)
    assert np.array_equal(found[2], maps[2])
    np.testing.assert_allclose(found, maps, rtol=1e-6 if dtype == np.float32 else 1e-11)


def test_stays_within_the_range_and_does_not_cross_boundaries():
    edge = np.full((20, 30), 0.01)
    edge[:, 14:16] = 1.0
    maps = np.zeros((1, 20, 30))
    maps[0, 5:9, 3:6] = 1
    found = edge_affinities(edge).transition(10).walk(maps, 8)
    assert found.min() > -1e-12
    assert found.max() <= 1
    assert found[0, :, :14].min() > 0
    assert abs(found[0, :, 16:]).max() < 1e-12


def test_linear_in_the_maps_whatever_stands_beside_them():
    edge = edge_map((15, 18), 4)
    rng = np.random.default_rng(4)
    a, b = rng.random((2, 2, 15, 18))
    transition = edge_affinities(edge).transition(10)
    together = transition.walk(np.concatenate([a, b, 2 * a - b]), 8)
    np.testing.assert_allclose(together[4:], 2 * together[:2] - together[2:4], rtol=0, atol=1e-12)
    assert transition.walk(a[:0], 8).shape == (0, 15, 18)
    with pytest.raises(ValueError, match="on a grid"):
        transition.walk(a[:, :14], 8)


def test_bytes_do_not_depend_on_threads_or_company():
    transition = edge_affinities(edge_map((60, 70), 11, np.float32)).transition(10)
    maps = np.random.default_rng(11).random((3, 60, 70)).astype(np.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = transition.walk(maps, 8)
        torch.set_num_threads(1)
        assert np.array_equal(transition.walk(maps, 8), two)
        assert np.array_equal(transition.walk(maps[1:2], 8), two[1:2])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("power", [1, 2, 7, 64, 256, 1024])
def test_expansion_of_the_power(power):
    x = np.linspace(-1, 1, 401)
    found = np.polynomial.chebyshev.chebval(x, chebyshev(power, 1e-14))
    np.testing.assert_allclose(found, x**power, rtol=0, atol=1e-12)
    assert sum(chebyshev(power, 1e-6)) == pytest.approx(1, abs=1e-15)
    assert power < 200 or len(chebyshev(power, 1e-9)) < 0.4 * power


def test_needs_little_memory():
    edge, maps = edge_map((94, 125), 5, np.float32), np.ones((3, 94, 125), np.float32)
    edge_affinities(edge).transition(10).walk(maps, 0)
    tracemalloc.start()  # numpy's memory; torch's part is the block of vectors and one value per entry
    semantic_scores(edge, maps, WalkParams())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6


# --- semantic masks --------------------------------------------------------------------------------------------------


def test_semantic_masks_by_their_definition():
    edge, rng = edge_map((12, 15), 6), np.random.default_rng(6)
    maps, classes, size = rng.random((2, 12, 15)) * np.array([1, 0.5])[:, None, None], np.array([3, 11]), (47, 58)
    params = walk_params("advcam", threshold=0.6)
    expected = dense_walk(dense_affinity(edge, 5, "irn"), maps**1.5 * (1 - edge), 10, 8)
    scores = semantic_scores(edge, maps, params)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-11)
    large = torch.nn.functional.interpolate(torch.from_numpy(expected)[None], scale_factor=4, mode="bilinear")[0]
    large = large.numpy()[:, :47, :58]
    large = large / large.max()  # over both classes at once
    winner = np.concatenate([np.full((1, *size), 0.6), large]).argmax(axis=0)
    refined = semantic_labels(scores, classes, size, 0.6)
    assert np.array_equal(refined.labels, np.array([0, 4, 12])[winner])
    np.testing.assert_allclose(refined.confidence, np.maximum(large.max(axis=0), 0.6), atol=1e-6)


def test_sweeps_reuse_what_is_there():
    edge, maps = edge_map((16, 20), 7, np.float32), np.random.default_rng(7).random((2, 16, 20)).astype(np.float32)
    affinities = edge_affinities(edge)
    for beta, exp_times, gamma in itertools.product((1, 10), (3, 8), (1, 1.5)):
        params = WalkParams(beta=beta, exp_times=exp_times, gamma=gamma)
        reused = semantic_scores(edge, maps, params, affinities.transition(beta))
        assert np.array_equal(reused, semantic_scores(edge, maps, params))


def test_nothing_to_walk():
    edge = edge_map((6, 7), 8, np.float32)
    for maps in (np.zeros((0, 6, 7), np.float32), np.zeros((2, 6, 7), np.float32)):
        scores = semantic_scores(edge, maps, WalkParams())
        assert not np.isnan(scores).any()
        assert not semantic_labels(scores, np.arange(len(maps)), (24, 28), 0.25).labels.any()
    assert enlarge(maps[:0], (24, 28)).shape == (0, 24, 28)
    with pytest.raises(ValueError, match="do not cover"):
        enlarge(maps, (25, 28))
    with pytest.raises(ValueError, match="make both again"):
        semantic_scores(edge, np.ones((1, 6, 8), np.float32), WalkParams())


def test_presets():
    assert walk_params() == WalkParams(5, 10.0, 8, 1.0, 0.25)
    assert PUBLISHED["advcam"].gamma == 1.5
    assert PUBLISHED["lpcam"].threshold == 0.35
    with pytest.raises(ConfigError, match="lpcam"):
        walk_params("lpcm")
    for wrong in ({"beta": 0}, {"exp_times": -1}, {"gamma": 0}, {"threshold": 2}, {"radius": 1}):
        with pytest.raises(ConfigError):
            WalkParams(**wrong)


# --- instance masks --------------------------------------------------------------------------------------------------


def two_objects(grid=(24, 40)):
    """Displacements to the middle of the left or the right half."""
    y, x = np.mgrid[: grid[0], : grid[1]].astype(np.float32)
    goal = np.where(x < grid[1] / 2, grid[1] * 0.25, grid[1] * 0.75)
    return np.stack([grid[0] / 2 - y, goal - x]).astype(np.float32)


def centroids_by_cell(field, steps):
    _, height, width = field.shape
    out = np.zeros(field.shape, int)
    for start in np.ndindex(height, width):
        place = np.array(start, float)
        for _ in range(steps):
            move = [ndimage.map_coordinates(f, place[:, None], order=1, mode="nearest")[0] for f in field]
            place = np.clip(place + move, 0, [height - 1, width - 1])
        out[(slice(None), *start)] = np.rint(place)
    return out


def test_centroids_by_cell():
    rng = np.random.default_rng(9)
    field = ndimage.gaussian_filter(rng.standard_normal((2, 9, 11)), (0, 1, 1)) * 2
    found, expected = centroids(field, 7), centroids_by_cell(field.astype(np.float32), 7)
    assert (found == expected).mean() > 0.99  # float32 against float64
    assert np.array_equal(centroids(np.zeros((2, 4, 5)), 3), np.mgrid[:4, :5])


def test_cells_are_grouped_by_object():
    ids = instance_map(two_objects())
    assert len(np.unique(ids)) == 2
    assert len(np.unique(ids[:, :20])) == len(np.unique(ids[:, 20:])) == 1


def test_two_objects_of_one_class_and_one_of_another():
    edge = np.full((24, 40), 0.01, np.float32)
    edge[:, 19:21] = 0.99
    maps = np.zeros((2, 24, 40), np.float32)
    maps[0, 6:18, 4:16], maps[0, 6:18, 26:36] = 0.8, 0.9
    maps[1, 0:3, :8] = 0.3
    found = instance_masks(edge, two_objects(), maps, np.array([5, 2]), (95, 158), WalkParams())
    assert found.masks.dtype == bool
    assert found.masks.shape[1:] == (95, 158)
    assert sorted(found.classes[found.scores > 0].tolist()) == [5, 5]
    left, right = sorted(found.masks[found.classes == 5], key=lambda m: np.argwhere(m)[:, 1].mean())
    assert left[:, :70].mean() > 0.9
    assert not left[:, 90:].any()
    assert right[:, 90:].mean() > 0.9
    assert found.scores.max() == pytest.approx(1)
    assert not (found.masks.sum(axis=0) > 1).any()


def test_small_components_score_nothing():
    edge = np.full((24, 40), 0.99, np.float32)  # nothing spreads
    maps = np.zeros((1, 24, 40), np.float32)
    maps[0, 3:20, 4:10], maps[0, 12, 30] = 1, 1
    found = instance_masks(edge, two_objects(), maps, np.array([0]), (96, 160), WalkParams(), InstanceParams())
    assert sorted((found.scores > 0).tolist()) == [False, True]
    assert found.masks[found.scores == 0].sum() < 0.01 * 96 * 160


def test_images_without_instances():
    edge, field = np.full((5, 6), 0.1, np.float32), np.zeros((2, 5, 6), np.float32)
    for maps in (np.zeros((0, 5, 6), np.float32), np.zeros((1, 5, 6), np.float32)):
        found = instance_masks(edge, field, maps, np.arange(len(maps)), (20, 24), WalkParams())
        assert found.masks.shape == (0, 20, 24)
        assert len(found.classes) == len(found.scores) == 0


# --- average precision -----------------------------------------------------------------------------------------------


def test_ious():
    a = np.zeros((3, 4, 4), bool)
    a[0, :2], a[1, :, :1] = True, True
    b = np.zeros((2, 4, 4), bool)
    b[0, :2], b[1, 1:3] = True, True
    np.testing.assert_allclose(mask_ious(a, b), [[1, 4 / 12], [2 / 10, 2 / 10], [0, 0]])


def test_average_precision_by_hand():
    assert average_precision(np.array([1, 0, 1], bool), 4) == pytest.approx((1 + 2 / 3) / 4)
    assert average_precision(np.array([0, 1], bool), 1) == pytest.approx(0.5)
    assert average_precision(np.array([0, 1, 1], bool), 2) == pytest.approx(2 / 3)  # precision made non-increasing
    assert average_precision(np.zeros(0, bool), 3) == 0


def bars(*spans, width=40):
    masks = np.zeros((len(spans), 4, width), bool)
    for mask, (start, stop) in zip(masks, spans, strict=True):
        mask[:, start:stop] = True
    return masks


def test_one_prediction_per_object_and_scores_across_images():
    score = InstanceScore(3)
    # Image a: object 0-10. The better of two predictions on it takes it, the other is wrong.
    score.update(bars((0, 9), (0, 10)), [0, 0], [0.5, 0.9], bars((0, 10)), [0], image_id="a")
    # Image b: an object missed, a prediction with overlap .6, right at .5 only; class 1 predicted, never there.
    score.update(bars((0, 6), (20, 30)), [0, 1], [0.7, 0.9], bars((0, 10), (30, 40)), [0, 0], image_id="b")
    result = score.result()
    assert result["thresholds"] == (0.5, 0.75)
    # order: .9 right, .7 right at .5 only, .5 wrong (taken); three objects
    np.testing.assert_allclose(result["ap"][:, 0], [2 / 3, 1 / 3])
    assert np.isnan(result["ap"][:, 1:]).all()
    np.testing.assert_allclose(result["map"], [2 / 3, 1 / 3])


def test_merged_parts_equal_the_whole_and_a_perfect_prediction_scores_one():
    rng = np.random.default_rng(10)
    whole, parts = InstanceScore(2), [InstanceScore(2), InstanceScore(2)]
    for image in range(12):
        truth, classes = rng.random((3, 8, 8)) < 0.5, rng.integers(0, 2, 3)
        masks = truth ^ (rng.random(truth.shape) < rng.choice([0.05, 0.2, 0.6], (3, 1, 1)))
        scores = rng.random(3)
        for target in (whole, parts[image % 2]):
            target.update(masks, classes, scores, truth, classes)
    parts[0].merge(parts[1])
    np.testing.assert_array_equal(parts[0].result()["ap"], whole.result()["ap"])
    assert 0 < whole.result()["map"][1] < whole.result()["map"][0] < 1
    perfect = InstanceScore(2)
    perfect.update(truth, classes, np.ones(3), truth, classes)
    assert (perfect.result()["map"] == 1).all()
    assert np.isnan(InstanceScore(2).result()["map"]).all()


def test_no_predictions_or_no_objects():
    score = InstanceScore(1)
    none = np.zeros((0, 4, 40), bool)
    score.update(none, [], [], bars((0, 5)), [0])
    score.update(bars((0, 5)), [0], [1.0], none, [])
    assert score.result()["map"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((bars((0, 5)), [0], [1.0], bars((0, 5), width=41), [0]), "image 'x'.*make the predictions again"),
        ((bars((0, 5)), [0, 0], [1.0], bars((0, 5)), [0]), "differ in number"),
        ((bars((0, 5)), [3], [1.0], bars((0, 5)), [0]), "class outside 0 to 2"),
    ],
)
def test_mismatches_name_the_image(arguments, words):
    with pytest.raises(DataError, match=words):
        InstanceScore(3).update(*arguments, image_id="x")
