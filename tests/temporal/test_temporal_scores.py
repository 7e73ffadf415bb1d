"""Average precision of temporal proposals: the golden protocols, plain loops, hand cases, and the stage."""

import numpy as np
import pytest

from camflow.errors import ConfigError, DataError, StoreError
from camflow.store import Store, StoreWriter
from camflow.temporal.evaluate import (
    PROTOCOLS,
    TemporalScoreParams,
    detection_scores,
    overlap,
    score_proposals,
    tiou,
)
from tests.golden.loader import golden

GOLDEN = {
    "activitynet": "activitynet",
    "activitynet_dropped": "activitynet_ambiguous_dropped",
    "thumos14": "thumos14_11point",
    "thumos14_precision": "thumos14_mean_precision",
}
LEVELS = (0.1, 0.3, 0.5, 0.7)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_protocols_are_golden(protocol):
    arrays = golden("temporal")
    scores = detection_scores(
        arrays["gt"],
        arrays["det"],
        n_classes=6,
        thresholds=arrays["tiou_thresholds"],
        protocol=protocol,
        ambiguous=arrays["ambiguous"],
    )
    np.testing.assert_allclose(scores.average_precision, arrays[f"ap_{GOLDEN[protocol]}"], atol=1e-9)
    np.testing.assert_allclose(scores.mean(), arrays[f"map_{GOLDEN[protocol]}"], atol=1e-9)
    if protocol.startswith("thumos14"):
        np.testing.assert_array_equal(scores.true_positives, arrays["thumos14_n_tp"])
        np.testing.assert_array_equal(scores.false_positives, arrays["thumos14_n_fp"])


# --- one detection, one threshold at a time --------------------------------------------------------------------------


def common(a, b):
    return max(0.0, min(a[1], b[1]) - max(a[0], b[0]))


def ratio(a, b):
    inside = common(a, b)
    union = (a[1] - a[0]) + (b[1] - b[0]) - inside
    return inside / union if union > 0 else 0.0


def by_loop(truth, detections, n_classes, level, protocol, ambiguous):
    """Average precision of every class, None without a segment."""
    result = []
    for c in range(n_classes):
        segments = [(v, s, e) for v, k, s, e in truth.tolist() if k == c]
        found = [(v, s, e, p) for v, k, s, e, p in detections.tolist() if k == c]
        found.sort(key=lambda row: -row[3])
        unclear = [[(s, e) for u, s, e in ambiguous.tolist() if u == row[0]] for row in found]
        if not segments:
            result.append(None)
            continue
        if protocol == "activitynet_dropped":
            found = [
                row
                for row, near in zip(found, unclear, strict=True)
                if not any(common(row[1:3], one) > 0 for one in near)
                or any(common(row[1:3], one[1:]) > 0 for one in segments if one[0] == row[0])
            ]
        verdict = [None] * len(found)
        if protocol.startswith("thumos14"):
            for segment in segments:
                free = [i for i, row in enumerate(found) if row[0] == segment[0] and verdict[i] is None]
                best = max(free, key=lambda i: ratio(found[i][1:3], segment[1:]), default=None)
                if best is not None and ratio(found[best][1:3], segment[1:]) > level:
                    verdict[best] = True
            for i, row in enumerate(found):
                if verdict[i] is None and not any(common(row[1:3], one) > 0 for one in unclear[i]):
                    verdict[i] = False
        else:
            taken = set()
            for i, row in enumerate(found):
                order = [j for j, one in enumerate(segments) if one[0] == row[0]]
                order.sort(key=lambda j: -ratio(row[1:3], segments[j][1:]))
                hit = [j for j in order if j not in taken and ratio(row[1:3], segments[j][1:]) >= level]
                taken.update(hit[:1])
                verdict[i] = bool(hit)
        hits = all_ = 0
        points = []  # recall, precision, whether a hit
        for one in verdict:
            hits, all_ = hits + (one is True), all_ + (one is not None)
            points.append((hits / len(segments), hits / all_ if all_ else 0.0, one is True))
        if protocol == "thumos14":
            best = [max([p for r, p, _ in points if r >= n / 10 - 1e-12], default=0.0) for n in range(11)]
            result.append(sum(best) / 11)
        elif protocol == "thumos14_precision":
            result.append(sum(p for _, p, hit in points if hit) / len(segments))
        else:  # every new recall counts with the best precision from there on
            result.append(
                sum(max(p for _, p, _ in points[i:]) / len(segments) for i, one in enumerate(points) if one[2])
            )
    return result


def drawn(seed):
    rng = np.random.default_rng(seed)

    def spans(count):
        start = rng.uniform(0, 60, count)
        return np.stack([start, start + rng.uniform(2, 15, count)], axis=1)

    truth = np.column_stack([rng.integers(0, 5, 40), rng.integers(0, 3, 40), spans(40)])
    near = truth[rng.integers(0, 40, 60)]
    near[:, 2:] += rng.normal(0, 2, (60, 2))
    near[:, 3] = np.maximum(near[:, 3], near[:, 2] + 0.5)
    far = np.column_stack([rng.integers(0, 6, 30), rng.integers(0, 4, 30), spans(30)])
    rows = np.concatenate([near, far])
    detections = np.column_stack([rows, rng.permutation(len(rows)) / len(rows)])
    ambiguous = np.column_stack([rng.integers(0, 5, 6), spans(6)])
    return truth, detections, ambiguous


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", range(4))
def test_matching_equals_a_plain_loop(protocol, seed):
    truth, detections, ambiguous = drawn(seed)
    scores = detection_scores(truth, detections, n_classes=5, thresholds=LEVELS, protocol=protocol, ambiguous=ambiguous)
    for t, level in enumerate(LEVELS):
        expected = by_loop(truth, detections, 5, level, protocol, ambiguous)
        np.testing.assert_allclose(
            scores.average_precision[:, t], [np.nan if value is None else value for value in expected], atol=1e-12
        )
    assert np.isnan(scores.average_precision[3:]).all() and not np.isnan(scores.mean()).any()


def test_protocols_differ_where_they_should():
    truth, ambiguous = np.array([[0, 0, 0.0, 10.0]]), np.array([[0, 20.0, 30.0]])
    detections = np.array([[0, 0, 21.0, 29.0, 0.9], [0, 0, 0.0, 5.0, 0.8], [0, 0, 40.0, 50.0, 0.7]])
    found = {
        protocol: detection_scores(
            truth, detections, n_classes=1, thresholds=[0.4, 0.5], protocol=protocol, ambiguous=ambiguous
        )
        for protocol in PROTOCOLS
    }
    # tIoU is exactly .5: enough for ActivityNet, which wants >=, and not for the toolkit, which wants >.
    np.testing.assert_allclose(found["activitynet"].average_precision, [[0.5, 0.5]])
    np.testing.assert_allclose(found["activitynet_dropped"].average_precision, [[1, 1]])
    np.testing.assert_allclose(found["thumos14"].average_precision, [[1, 0]])
    np.testing.assert_array_equal(found["thumos14"].false_positives, [[1, 2]])
    np.testing.assert_array_equal(found["activitynet"].false_positives, [[2, 2]])


def test_intervals():
    a, b = np.array([[0.0, 4.0], [0.0, 4.0], [2.0, 2.0]]), np.array([[3.0, 5.0], [4.0, 5.0], [2.0, 2.0]])
    np.testing.assert_allclose(overlap(a, b), [1, 0, 0])
    np.testing.assert_allclose(tiou(a, b), [0.2, 0, 0])


def test_nothing_found_and_nothing_there():
    truth, none = np.array([[0, 1, 0.0, 10.0]]), np.zeros((0, 5))
    for protocol in PROTOCOLS:
        scores = detection_scores(truth, none, n_classes=2, thresholds=[0.5], protocol=protocol)
        np.testing.assert_array_equal(scores.average_precision, [[np.nan], [0]])
        scores = detection_scores(np.zeros((0, 4)), none, n_classes=2, thresholds=[0.5], protocol=protocol)
        assert np.isnan(scores.mean()).all()


# --- the stage -------------------------------------------------------------------------------------------------------


def stores(folder, found):
    """Two videos, classes a and b (and c without a segment); ``found``: video -> rows class, start, end, score."""
    names = ["a", "b", "c"]
    with StoreWriter(folder / "s.h5", stage="sequences", class_names=names, meta={"excluded": ["x"]}) as writer:
        one = np.zeros((4, 2), np.float32)
        writer.write("u", one, segments=np.array([[0, 1.0, 3.0]]), ambiguous=np.zeros((0, 2)))
        writer.write("v", one, segments=np.array([[1, 0.0, 8.0]]), ambiguous=np.array([[9.0, 12.0]]))
    with StoreWriter(folder / "p.h5", stage="proposals", class_names=names) as writer:
        for video, rows in found.items():
            writer.write(video, np.array(rows, np.float64).reshape(-1, 4))
    return Store(folder / "s.h5"), Store(folder / "p.h5")


def test_stage_reads_stores(tmp_path):
    files = stores(tmp_path, {"u": [[0, 1, 3, 0.5]], "v": [[1, 10, 12, 0.9], [1, 0, 4, 0.4]]})
    score = score_proposals(*files, TemporalScoreParams(tiou=(0.5, 0.6)), conditions={"split": "val"})
    assert score["map_at"] == {"0.5": pytest.approx(0.75), "0.6": pytest.approx(0.5)}
    assert score["map"] == pytest.approx(0.625)
    assert score["per_class"]["b"] == {"average_precision": {"0.5": pytest.approx(0.5), "0.6": 0.0}, "n_segments": 1}
    assert score["conditions"] == {
        "split": "val",
        "protocol": "activitynet",
        "n_videos": 2,
        "n_proposals": 3,
        "excluded": ["x"],
        "class_names": ["a", "b"],
    }
    dropped = score_proposals(*files, TemporalScoreParams("activitynet_dropped", (0.5,), ("b",)))
    assert dropped["map"] == pytest.approx(1.0)


def test_stage_names_what_is_wrong(tmp_path):
    sequences, proposals = stores(tmp_path, {"u": []})
    with pytest.raises(StoreError, match="'v'"):
        score_proposals(sequences, proposals, TemporalScoreParams())
    sequences, proposals = stores(tmp_path, {"u": [], "v": []})
    with pytest.raises(DataError, match="'c' has no segment"):
        score_proposals(sequences, proposals, TemporalScoreParams(classes=("a", "c")))
    with pytest.raises(ConfigError, match="unknown 'd'"):
        score_proposals(sequences, proposals, TemporalScoreParams(classes=("d",)))
    with pytest.raises(ConfigError, match="did you mean 'thumos14'"):
        TemporalScoreParams("thumos13")
    with pytest.raises(ConfigError, match="thresholds above 0"):
        TemporalScoreParams(tiou=(0.0, 0.5))
    with StoreWriter(tmp_path / "q.h5", stage="proposals", class_names=["a"]) as writer:
        writer.write("u", np.zeros((0, 4)))
    with pytest.raises(DataError, match="other classes"):
        score_proposals(sequences, Store(tmp_path / "q.h5"), TemporalScoreParams())
