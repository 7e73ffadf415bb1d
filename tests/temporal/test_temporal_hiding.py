"""Hidden segments and temporal class activation maps."""

import numpy as np
import pytest
import torch

from camflow.errors import ConfigError
from camflow.temporal.cam import ProposalParams, proposals, temporal_cams
from camflow.temporal.hiding import hidden_steps, hide_segments
from camflow.temporal.network import build_temporal
from tests.golden.loader import golden


def test_hidden_steps_are_golden():
    arrays = golden("temporal")
    hidden = hidden_steps(arrays["hide_draws"], float(arrays["hide_p"]), int(arrays["hide_T"]))
    np.testing.assert_array_equal(hidden, arrays["hide_frames_hidden"])
    assert len(arrays["hide_draws"]) == arrays["hide_segments"]


def test_share_of_hidden_steps():
    arrays, rng = golden("temporal"), np.random.default_rng(0)
    share = np.array([hidden_steps(rng.random(20), 0.5, 200).mean() for _ in range(3000)])
    mean, std = arrays["hide_expected_fraction"], arrays["hide_std_fraction"]
    assert abs(share.mean() - mean) < 4 * std / np.sqrt(3000)
    assert share.std() == pytest.approx(std, rel=0.05)


@pytest.mark.parametrize(("steps", "segments"), [(10, 3), (7, 7), (2000, 20), (5, 1)])
def test_segments_are_runs_of_nearly_equal_length(steps, segments):
    marks = np.array([hidden_steps(np.arange(segments) != s, 0.5, steps) for s in range(segments)])
    assert (marks.sum(axis=0) == 1).all()  # every step is in one segment
    lengths = marks.sum(axis=1)
    assert lengths.max() - lengths.min() <= 1
    assert all((np.diff(np.flatnonzero(row)) == 1).all() for row in marks)


def test_hidden_features_are_the_fill():
    sequence, fill = np.random.default_rng(1).random((40, 6), np.float32), np.arange(6.0)
    out = hide_segments(sequence, fill, np.random.default_rng(2), segments=8, p=0.5)
    hidden = hidden_steps(np.random.default_rng(2).random(8), 0.5, 40)
    assert 0 < hidden.sum() < 40 and out.dtype == np.float32
    np.testing.assert_array_equal(out[~hidden], sequence[~hidden])
    np.testing.assert_array_equal(out[hidden], np.tile(np.float32(fill), (hidden.sum(), 1)))


# --- maps and proposals ----------------------------------------------------------------------------------------------


def test_proposals_are_golden():
    arrays = golden("temporal")
    found = proposals(arrays["cam1d"], 1 / float(arrays["cam1d_rate"]), ProposalParams())
    np.testing.assert_allclose(found, arrays["cam1d_segments"], atol=1e-9)


def by_loop(cam, seconds, threshold, score):
    peak, rows, start = max(cam), [], None
    for t in range(len(cam) + 1):
        inside = t < len(cam) and peak > 0 and cam[t] > threshold * peak
        if inside and start is None:
            start = t
        if not inside and start is not None:
            run = cam[start:t]
            rows.append((start * seconds, t * seconds, max(run) if score == "max" else sum(run) / len(run)))
            start = None
    return np.array(rows).reshape(-1, 3)


@pytest.mark.parametrize("score", ["mean", "max"])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9])
def test_proposals_equal_a_plain_loop(score, threshold):
    for seed in range(5):
        cam = np.random.default_rng(seed).normal(0.3, 1, 60)
        found = proposals(cam, 0.25, ProposalParams(threshold, score))
        np.testing.assert_allclose(found, by_loop(cam.tolist(), 0.25, threshold, score), atol=1e-12)
    everywhere = proposals(np.ones(9), 2.0, ProposalParams(threshold, score))
    np.testing.assert_allclose(everywhere, [[0, 18, 1]])
    assert proposals(-np.ones(9), 2.0, ProposalParams(threshold, score)).shape == (0, 3)
    assert proposals(np.zeros(9), 2.0, ProposalParams(threshold, score)).shape == (0, 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"threshold": 1.0}, "below 1"),
        ({"score": "sum"}, "unknown 'sum'"),
        ({"classes": "give"}, "did you mean 'given'"),
    ],
)
def test_impossible_proposals_are_named(changes, words):
    with pytest.raises(ConfigError, match=words):
        ProposalParams(**changes)


def test_maps_explain_the_logits():
    sequence = np.random.default_rng(3).standard_normal((30, 5)).astype(np.float32)
    x = torch.from_numpy(sequence.T[None].copy())
    gap, gmp = (build_temporal(5, 4, width=8, pooling=pooling, seed=1).eval() for pooling in ("gap", "gmp"))
    cams = temporal_cams(gap, sequence)
    assert cams.shape == (4, 30)
    weights = {name: value.numpy().astype(np.float64) for name, value in gap.state_dict().items()}
    hidden = np.maximum(sequence @ weights["conv1.weight"][..., 0].T + weights["conv1.bias"], 0)
    hidden = np.maximum(hidden @ weights["conv2.weight"][..., 0].T + weights["conv2.bias"], 0)
    head = weights["classifier.weight"][..., 0]
    np.testing.assert_allclose(cams, (hidden @ head.T).T, atol=1e-5)
    with torch.no_grad():
        np.testing.assert_allclose(gap(x)[0], cams.mean(axis=1), atol=1e-5)
        np.testing.assert_allclose(gmp(x)[0], hidden.max(axis=0) @ head.T, atol=1e-5)
