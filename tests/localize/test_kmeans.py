"""Spherical k-means: against brute force, and on the inputs that make the published one loop for ever."""

import numpy as np
import pytest
import torch

from camflow.errors import ConfigError
from camflow.localize import kmeans as module
from camflow.localize.kmeans import assign, kmeans, unit


def draw(n, d=16, seed=0, dtype=torch.float32):
    """Non-negative, sparse, of very different lengths: like features behind a ReLU."""
    rng = np.random.default_rng(seed)
    values = np.maximum(rng.standard_normal((n, d)), 0) * rng.lognormal(0, 1, (n, 1))
    return torch.from_numpy(values + 1e-3).to(dtype)


def blobs(k, each, d=24, seed=0):
    """k well separated directions with lengths from 0.1 to 10; returns points and their direction's number."""
    rng = np.random.default_rng(seed)
    which = rng.permutation(np.repeat(np.arange(k), each))
    rows = np.eye(k, d)[which] + 0.02 * rng.random((len(which), d))
    return torch.from_numpy(rows * rng.uniform(0.1, 10, (len(rows), 1))).float(), which


def lloyd(points, centres, rule, tolerance, bound):
    """The same algorithm, point by point in float64 with explicit cosines."""
    x, c = points.double().numpy(), centres.double().numpy()

    def unit_rows(a):
        return a / np.linalg.norm(a, axis=1, keepdims=True)

    shift, iteration = np.inf, 0
    while shift >= tolerance and iteration < bound:
        iteration += 1
        cosines = np.array([[float(p @ q) for q in unit_rows(c)] for p in unit_rows(x)])
        nearest = cosines.argmax(axis=1)
        new = np.stack([x[nearest == k].mean(axis=0) for k in range(len(c))])
        shift = np.linalg.norm(new - c, axis=1).sum() ** 2
        if rule == "unit":
            shift = np.linalg.norm(unit_rows(new) - unit_rows(c), axis=1).max()
        c = new
    return c, nearest, iteration


@pytest.mark.parametrize(("rule", "tolerance"), [("unit", 1e-3), ("authors", 0.05)])
def test_against_brute_force(monkeypatch, rule, tolerance):
    monkeypatch.setattr(module, "CHUNK", 37)  # several pieces, the last one short
    points, start = draw(200), np.arange(0, 200, 40)
    found = kmeans(points, 5, init_index=start, tolerance=tolerance, tolerance_rule=rule)
    centres, nearest, iterations = lloyd(points, points[start], rule, tolerance, 100)
    assert found.iterations == iterations > 2
    assert found.converged and found.repaired == 0
    assert np.array_equal(found.assignment.numpy(), nearest)
    np.testing.assert_allclose(found.centres.numpy(), centres, rtol=1e-5, atol=1e-6)
    assert found.members.tolist() == np.bincount(nearest).tolist()


def test_assignment_is_that_of_all_cosines():
    points, centres = draw(150, seed=1), draw(7, seed=2)
    index, cosine = assign(points, centres)
    full = torch.cosine_similarity(points[:, None], centres[None], dim=-1)
    assert torch.equal(index, full.argmax(dim=1))
    torch.testing.assert_close(cosine, full.amax(dim=1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("init", ["kmeans++", "random"])
def test_centres_are_means_of_their_members_and_no_cluster_is_empty(init):
    points = draw(120, seed=3)
    for seed in range(5):
        found = kmeans(points, 9, init=init, seed=seed)
        assert len(found.centres) == 9
        for k, centre in enumerate(found.centres):
            torch.testing.assert_close(centre, points[found.assignment == k].mean(dim=0))


def test_kmeans_plus_plus_finds_separated_directions():
    points, which = blobs(6, 30)
    for seed in range(5):
        found = kmeans(points, 6, seed=seed).assignment.numpy()
        assert len({(a, b) for a, b in zip(found, which, strict=True)}) == 6


def test_directions_do_not_depend_on_lengths():
    points, _ = blobs(4, 25)
    scale = torch.from_numpy(np.random.default_rng(1).uniform(0.01, 100, (len(points), 1))).float()
    one, other = (kmeans(p, 4, init_index=[0, 30, 60, 90]) for p in (points, points * scale))
    assert torch.equal(one.assignment, other.assignment)


def test_unit_rule_does_not_depend_on_the_scale_of_the_features_and_the_published_one_does():
    points, start = draw(300, seed=4), np.arange(6)
    for rule, same in (("unit", True), ("authors", False)):
        runs = [
            kmeans(points * s, 6, init_index=start, tolerance=1e-2, tolerance_rule=rule).iterations for s in (1, 128)
        ]
        assert (runs[0] == runs[1]) == same, rule


@pytest.mark.parametrize("init", ["kmeans++", "random"])
def test_seed_decides_and_the_global_generators_do_not(init):
    points = draw(200, seed=5)
    runs = []
    for noise in range(2):
        torch.manual_seed(noise)
        np.random.seed(noise)  # noqa: NPY002
        runs.append([kmeans(points, 8, init=init, seed=s, max_iterations=1) for s in (0, 1)])
    assert torch.equal(runs[0][0].centres, runs[1][0].centres)
    assert not torch.equal(runs[0][0].centres, runs[0][1].centres)
    generator = kmeans(points, 8, init=init, seed=np.random.default_rng(0), max_iterations=1)
    assert torch.equal(generator.centres, runs[0][0].centres)


def test_empty_cluster_takes_the_farthest_point():
    rows = torch.eye(4)[[0, 0, 0, 1, 1, 2]] + 0.01
    rows[5, 0] = 0.2  # nearest to direction 0, but the farthest of all from its centre
    found = kmeans(rows, 3, init_index=[0, 3, 1])  # rows 0 and 1 are equal: the third cluster gets nothing
    assert found.repaired >= 1 and found.converged
    assert sorted(found.members.tolist()) == [1, 2, 3]
    assert (found.assignment == found.assignment[5]).sum() == 1


def test_repair_does_not_empty_another_cluster():
    assignment = torch.tensor([0, 1, 1, -1])
    done = module._repair(assignment, torch.tensor([0.1, 0.9, 0.8, 0.0]), 4)  # the farthest is the only one of its own
    assert assignment.tolist() == [0, 1, 2, -1] and done == 1  # and nothing is left for the fourth


def test_all_starts_equal():
    """The case that leaves the published clustering without an end: all but one cluster are empty from the start."""
    points = draw(60, seed=6)
    points[:8] = points[0]
    found = kmeans(points, 8, init_index=np.arange(8))
    assert len(found.centres) == 8 and found.iterations <= 100
    assert torch.isfinite(found.centres).all() and (found.members > 0).all()


@pytest.mark.parametrize("init", ["kmeans++", "random"])
def test_fewer_points_than_clusters(init):
    points = draw(3, seed=7)
    found = kmeans(points, 12, init=init)
    assert len(found.centres) == 3 and found.converged
    assert torch.equal(found.centres[found.assignment], points)


@pytest.mark.parametrize("init", ["kmeans++", "random"])
def test_duplicates_make_one_cluster_each(init):
    points = draw(4, seed=8).repeat(25, 1) * torch.linspace(0.5, 2, 100)[:, None]
    found = kmeans(points, 12, init=init, seed=1)
    assert len(found.centres) == 4 and found.converged
    assert found.members.tolist() == [25] * 4


@pytest.mark.parametrize("init", ["kmeans++", "random"])
def test_rows_of_zeros_belong_nowhere(init):
    points = draw(40, seed=9)
    with_zeros = torch.zeros(60, 16)
    with_zeros[10:50] = points
    found = kmeans(with_zeros, 5, init=init)
    assert (found.assignment[:10] == -1).all() and (found.assignment[50:] == -1).all()
    assert (found.assignment[10:50] >= 0).all()
    assert torch.isfinite(found.centres).all() and (torch.linalg.vector_norm(found.centres, dim=1) > 0).all()
    start = kmeans(with_zeros, 3, init_index=[0, 10, 20])  # starting from a row of zeros
    assert len(start.centres) == 3 and torch.isfinite(start.centres).all()


@pytest.mark.parametrize("rows", [0, 5])
@pytest.mark.parametrize("init", ["kmeans++", "random"])
def test_nothing_to_cluster(rows, init):
    found = kmeans(torch.zeros(rows, 16), 4, init=init)
    assert found.centres.shape == (0, 16)
    assert found.assignment.tolist() == [-1] * rows
    assert found.members.tolist() == []
    assert found.iterations == 0 and found.converged


def test_rounds_are_bounded():
    found = kmeans(draw(500, seed=10), 12, tolerance=1e-30, tolerance_rule="authors", max_iterations=2)
    assert found.iterations == 2 and not found.converged


def test_half_precision_points_are_clustered_in_single():
    points = draw(100, seed=11, dtype=torch.float16)
    found, wide = (kmeans(p, 4, init_index=range(4)) for p in (points, points.float()))
    assert found.centres.dtype == torch.float32
    assert torch.equal(found.centres, wide.centres)


def test_points_are_not_changed():
    points = draw(50, seed=12)
    before = points.clone()
    kmeans(points, 10)
    assert torch.equal(points, before)


def test_unit_of_zeros_is_zeros():
    rows = unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    assert torch.equal(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_not_finite():
    points = draw(10)
    points[3, 3] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        kmeans(points, 2)


def test_start_beyond_the_points():
    with pytest.raises(ValueError, match="beyond the 10"):
        kmeans(draw(10), 2, init_index=[0, 10])


@pytest.mark.parametrize(
    "wrong",
    [{"k": 0}, {"init": "rndom"}, {"max_iterations": 0}, {"tolerance": 0}, {"tolerance_rule": "author"}],
)
def test_wrong_options(wrong):
    with pytest.raises(ConfigError, match="clusters" if "k" in wrong else next(iter(wrong))):
        kmeans(draw(10), **{"k": 2, **wrong})
