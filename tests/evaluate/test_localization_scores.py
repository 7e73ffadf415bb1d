"""Localisation scores from curves: the authors' arrays, loops over images, and stores of a made split."""

import json

import cv2
import numpy as np
import pytest

from camflow.errors import ConfigError, DataError, StoreError
from camflow.evaluate.box_curves import LEVELS, boxes_at, levels_of
from camflow.evaluate.localization import (
    CurveParams,
    Curves,
    LocalizationParams,
    at_threshold,
    box_accuracy,
    box_curves_of,
    localization_scores,
    read_curves,
    score_curves,
    thresholds_of,
    top_k,
)
from camflow.localize.maps import read_seed
from camflow.params import from_config
from camflow.store import Store, StoreWriter, join_shards, shard_of
from tests.golden.loader import golden
from tests.localize.photos import CLASSES, Photos, seed_of, seed_store

CURVES = CurveParams(size=48)


class Boxed(Photos):
    """One or two boxes of each present class, but for the first class of every image whose number ends in 3."""

    def boxes(self, image_id):
        rng, (height, width) = self._rng(image_id, "boxes"), self.size(image_id)
        present = np.flatnonzero(self.label(image_id))[image_id.endswith("3") :]
        rows = []
        for k in present:
            for _ in range(rng.integers(1, 3)):
                x, y = np.sort(rng.integers(0, width + 1, 2)), np.sort(rng.integers(0, height + 1, 2))
                rows.append((k, x[0], y[0], x[1], y[1]))
        return np.array(rows, np.int32).reshape(-1, 5)


@pytest.fixture
def catalog():
    return Boxed(12)


@pytest.fixture
def maps(tmp_path, catalog):
    return seed_store(tmp_path / "maps.h5", catalog)


def curves_at(path, catalog, maps, params=CURVES):
    with StoreWriter(path, stage="curves", class_names=CLASSES, meta={"key": "k"}) as writer:
        box_curves_of(catalog, maps, writer, params)
    return Store(path, stage="curves")


def confidence_at(path, catalog, classes=5):
    with StoreWriter(path, stage="scores", class_names=CLASSES) as writer:
        for n, image_id in enumerate(catalog.ids):
            writer.write(image_id, np.random.default_rng(n).random(classes).astype(np.float32))
    return Store(path)


def made_curves(seed=0, images=9, classes=4):
    """Any curves: some images with two classes; maps of several peaks."""
    rng = np.random.default_rng(seed)
    pairs = [(i, k) for i in range(images) for k in sorted(rng.choice(classes, 1 + i % 2, replace=False))]
    rows, present = np.array(pairs).T
    labels = np.zeros((images, classes), np.uint8)
    labels[rows, present] = 1
    values = np.round(rng.random((len(rows), 2, LEVELS)), 1)  # some are exactly .3, .5 and .7
    ious, peaks = rng.random((2, len(rows))), rng.choice([255, 255, 31, 200, 0], len(rows))
    return Curves(rows, present, values, peaks, ious, (0.2, 0.3)), rng.random((images, classes)), labels


NAMES = ("a", "b", "c", "d")


# --- the authors' arrays ---------------------------------------------------------------------------------------------


def test_accuracies_equal_the_authors():
    arrays = golden("wsol_box_eval")
    peaks = arrays["q"].max(axis=(1, 2)).astype(int)
    values = np.zeros((len(peaks), 2, LEVELS))
    for i, peak in enumerate(peaks):
        for k, name in enumerate(("v1", "v2")):
            values[i, k, levels_of(arrays["thresholds"], peak)] = arrays[f"{name}_best_iou"][i]
    every = Curves(np.arange(36), np.zeros(36, int), values, peaks, np.zeros((0, 36)))
    for interval, ending in ((0.001, ""), (0.01, "_interval01")):
        score = localization_scores(every, ["object"], LocalizationParams(interval, fixed_fractions=()))
        assert 100 * score["maxboxacc"] == pytest.approx(float(arrays[f"maxboxacc_v1{ending}"]), abs=1e-9)
        assert 100 * score["maxboxacc_v2"] == pytest.approx(float(arrays[f"maxboxacc_v2{ending}"]), abs=1e-9)
        for rule in ("v1", "v2"):
            counts = 36 * np.array([score["curve"][rule][d] for d in ("0.3", "0.5", "0.7")])
            np.testing.assert_allclose(counts, arrays[f"{rule}_num_correct{ending}"], rtol=0, atol=1e-9)
            best = 100 * np.array(list(score["max_box_acc"][rule].values()))
            np.testing.assert_allclose(best, arrays[f"{rule}_max_box_acc{ending}"], rtol=0, atol=1e-9)


# --- reductions ------------------------------------------------------------------------------------------------------


def test_accuracy_by_hand():
    curves, _, _ = made_curves()
    thresholds = thresholds_of(0.07)
    found = box_accuracy(curves.values[:, 0], curves.peaks, thresholds, (0.3, 0.5, 1.0))
    for d, iou in enumerate((0.3, 0.5, 1.0)):
        for t, threshold in enumerate(thresholds):
            pairs = zip(curves.values[:, 0], curves.peaks, strict=True)
            hits = [curve[int(threshold * peak)] >= iou for curve, peak in pairs]
            assert found[d, t] == np.mean(hits)


def test_top_k_breaks_ties_by_order():
    scores = np.array([[0.5, 0.9, 0.5, 0.1]])
    assert top_k(scores, 1).tolist() == [[False, True, False, False]]
    assert top_k(scores, 2).tolist() == [[True, True, False, False]]
    assert top_k(scores, 9).all()


@pytest.mark.parametrize("k", [1, 2, 3])
def test_localisation_by_a_loop_over_images(k):
    curves, scores, labels = made_curves(k)
    params = LocalizationParams(interval=0.01, topk=(k,))
    score = localization_scores(curves, NAMES, params, scores=scores, labels=labels)
    v1 = at_threshold(curves.values[:, 0], curves.peaks, score["threshold"]) >= 0.5
    cases = [(score, v1)]
    for f, fraction in enumerate((0.2, 0.3)):
        level = [int(fraction * peak) for peak in curves.peaks]
        cases.append((score["fixed"][f"{fraction}"]["contour"], curves.values[range(len(level)), 0, level] >= 0.5))
        cases.append((score["fixed"][f"{fraction}"]["component"], curves.cam_ious[f] > 0.5))
    for found, hits in cases:
        right = []
        for i, of_image in enumerate(scores):
            among = np.argsort(of_image)[::-1][:k]
            right.append(any(hits[p] and curves.classes[p] in among for p in np.flatnonzero(curves.rows == i)))
        assert found["gt_known_loc"] == np.mean(hits)
        assert found[f"top{k}_loc"] == np.mean(right)
    classified = [labels[i, np.argsort(scores[i])[::-1][:k]].any() for i in range(len(scores))]
    assert score[f"top{k}_cls"] == np.mean(classified)
    assert (
        score["gt_known_loc"]
        == score["maxboxacc"]
        == max(localization_scores(curves, NAMES, params)["curve"]["v1"]["0.5"])
    )


def test_classes_add_up_to_the_split():
    curves, _, _ = made_curves(5, images=30)
    score = localization_scores(curves, [*NAMES, "absent"], LocalizationParams())
    rows = [row for row in score["per_class"].values() if row["n_maps"]]
    for key in ("gt_known_loc", "maxboxacc_v2"):
        weighted = sum(row["n_maps"] * row[key] for row in rows) / len(curves.rows)
        assert weighted == pytest.approx(score[key], abs=1e-12)
    assert score["per_class"]["absent"] == {"n_maps": 0, "gt_known_loc": None, "maxboxacc_v2": None}
    assert "top1_loc" not in score
    assert json.loads(json.dumps(score, allow_nan=False)) == score


def test_what_does_not_fit_is_refused():
    curves, scores, labels = made_curves()
    with pytest.raises(DataError, match="scores of shape"):
        localization_scores(curves, NAMES, LocalizationParams(), scores=scores[1:], labels=labels)
    with pytest.raises(DataError, match="labels of shape"):
        localization_scores(curves, NAMES, LocalizationParams(), scores=scores, labels=labels[:, 1:])
    with pytest.raises(DataError, match="diverged"):
        localization_scores(curves, NAMES, LocalizationParams(), scores=scores * np.nan, labels=labels)
    nothing = Curves(*(np.zeros(0, int),) * 2, np.zeros((0, 2, LEVELS)), np.zeros(0, int), np.zeros((0, 0)))
    with pytest.raises(DataError, match="box"):
        localization_scores(nothing, NAMES, LocalizationParams())


@pytest.mark.parametrize(
    ("kind", "entry", "key"),
    [
        (CurveParams, {"frame": "squashed"}, "squash"),
        (CurveParams, {"resize": "nearest"}, "resize"),
        (CurveParams, {"connectivity": 6}, "connectivity"),
        (CurveParams, {"fractions": [20]}, "fractions"),
        (LocalizationParams, {"interval": 0}, "interval"),
        (LocalizationParams, {"iou_thresholds": []}, "iou_thresholds"),
        (LocalizationParams, {"topk": [0]}, "topk"),
        (LocalizationParams, {"fixed_fractions": [1.0]}, "fixed_fractions"),
    ],
)
def test_settings_out_of_range_are_named(kind, entry, key):
    with pytest.raises(ConfigError, match=key):
        from_config(kind, entry)


# --- a split ---------------------------------------------------------------------------------------------------------


def fit(box, truth, extra):
    """IoU of two boxes, as plain numbers."""
    sides = [max(min(box[k + 2], truth[k + 2]) - max(box[k], truth[k]) + extra, 0) for k in (0, 1)]
    areas = [(b[2] - b[0] + extra) * (b[3] - b[1] + extra) for b in (box, truth)]
    return sides[0] * sides[1] / (sum(areas) - sides[0] * sides[1])


def resized(seed, k, shape, rule):
    return sum(cv2.resize(m[k].astype(np.float64), shape[::-1], interpolation=rule) for m in seed.maps)


def test_entries_by_the_long_way(tmp_path, catalog, maps):
    """From the maps through OpenCV's resizing and contours to each class's curves and fixed boxes."""
    store, compared, near = curves_at(tmp_path / "curves.h5", catalog, maps), 0, 0
    for image_id in catalog.ids:
        values, attrs = store.read(image_id), store.attrs(image_id)
        truth, (height, width) = catalog.boxes(image_id), catalog.size(image_id)
        assert attrs["classes"].tolist() == sorted(set(truth[:, 0].tolist()))
        assert values.shape == (len(attrs["classes"]), 2, LEVELS)
        seed = read_seed(maps, image_id)
        for row, k in enumerate(attrs["classes"].tolist()):
            column = seed.classes.tolist().index(k)
            own = truth[truth[:, 0] == k, 1:].tolist()
            square = resized(seed, column, (48, 48), cv2.INTER_CUBIC)
            q = (255 * (square - square.min()) / np.ptp(square)).astype(np.uint8)
            squashed = [[int(x * 48 / n) for x, n in zip(box, (width, height) * 2, strict=True)] for box in own]
            for level in (0, 51, 76, 127, 200, 255):
                for rule, name in enumerate(("largest", "all")):
                    best = max(fit(b, t, 1) for b in boxes_at(q, level, name).tolist() for t in squashed)
                    near += abs(values[row, rule, level] - best) < 1e-12
                    compared += 1
            full = resized(seed, column, (height, width), cv2.INTER_LINEAR)
            for f, fraction in enumerate((0.2, 0.3)):
                _, _, table, _ = cv2.connectedComponentsWithStats((full > fraction * full.max()).astype(np.uint8))
                x, y, w, h, _ = table[1 + table[1:, cv2.CC_STAT_AREA].argmax()].tolist()
                box = attrs["cam_boxes"][f, row].tolist()
                assert np.abs(np.subtract(box, [x, y, x + w, y + h])).max() <= 1
                assert attrs["cam_ious"][f, row] == pytest.approx(max(fit(box, t, 0) for t in own), abs=1e-12)
    # OpenCV's weights are float32, so a few pixels change their level.
    assert compared > 150
    assert near > 0.97 * compared


def test_score_of_a_split(tmp_path, catalog, maps):
    store = curves_at(tmp_path / "curves.h5", catalog, maps)
    score = score_curves(store, confidence_at(tmp_path / "scores.h5", catalog), catalog, LocalizationParams())
    boxed = [i for i in catalog.ids if len(catalog.boxes(i))]
    assert score["conditions"]["n_images"] == len(boxed) < len(catalog.ids)
    assert score["conditions"]["n_images_without_box"] == len(catalog.ids) - len(boxed)
    assert score["conditions"]["n_maps"] == sum(len(set(catalog.boxes(i)[:, 0].tolist())) for i in boxed)
    assert score["conditions"]["curves"]["size"] == 48
    assert 0 < score["maxboxacc_v2"] < 1
    hits = []
    for image_id in boxed:
        values, peaks = store.read(image_id), store.attrs(image_id)["peaks"]
        at = (values[:, 0] * (np.arange(LEVELS) == [[int(score["threshold"] * peak)] for peak in peaks])).sum(axis=1)
        hits.append((at >= 0.5).any())
    assert score["top5_loc"] == np.mean(hits)  # of five classes, so any is among the five highest
    assert 0 < score["top1_loc"] <= score["top5_loc"]
    assert score["top1_cls"] < score["top5_cls"] == 1
    assert list(score["per_class"]) == CLASSES
    alone = score_curves(store, None, catalog, LocalizationParams())
    assert alone["maxboxacc"] == score["maxboxacc"]
    assert "top1_loc" not in alone


def test_parts_of_a_split_make_the_same_store(tmp_path, catalog, maps):
    whole = curves_at(tmp_path / "whole.h5", catalog, maps)
    parts = []
    for k in range(2):
        part = Boxed(0, [i for i in catalog.ids if shard_of(i, 2) == k])
        curves_at(tmp_path / f"{k}.h5", part, maps)
        parts.append(tmp_path / f"{k}.h5")
    join_shards(tmp_path / "all.h5", parts)
    scores = [score_curves(s, None, catalog, LocalizationParams()) for s in (whole, Store(tmp_path / "all.h5"))]
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    "changed",
    [
        {"frame": "crop"}, {"frame": "crop", "clip": True}, {"frame": "image"}, {"inclusive": False},
        {"connectivity": 4}, {"resize": "bilinear"}, {"normalise": "max"}, {"size": 40},
    ],
)  # fmt: skip
def test_every_switch_of_the_protocol_counts(tmp_path, catalog, maps, changed):
    plain, _ = read_curves(curves_at(tmp_path / "plain.h5", catalog, maps), catalog)
    before = {"frame": "crop"} if "clip" in changed else {}
    if before:
        plain, _ = read_curves(curves_at(tmp_path / "crop.h5", catalog, maps, CurveParams(size=48, **before)), catalog)
    params = from_config(CurveParams, {"size": 48, **changed})
    other, _ = read_curves(curves_at(tmp_path / "other.h5", catalog, maps, params), catalog)
    assert other.values.shape == plain.values.shape
    assert not np.array_equal(other.values, plain.values)


def test_progress_and_missing_things(tmp_path, catalog, maps):
    steps = []
    with StoreWriter(tmp_path / "c.h5", stage="curves", class_names=CLASSES) as writer:
        box_curves_of(catalog, maps, writer, CURVES, steps.append)
    assert sum(steps) == len(catalog.ids)
    store = Store(tmp_path / "c.h5")
    few = confidence_at(tmp_path / "few.h5", catalog, 3)
    with pytest.raises(DataError, match="5 classes"):
        score_curves(store, few, catalog, LocalizationParams())
    with pytest.raises(StoreError, match="no curves"):
        read_curves(maps, catalog)
    with pytest.raises(StoreError, match="i12"):
        read_curves(store, Boxed(13))
    bare = Boxed(0, ["i00", "i07"])  # no class, so no box
    with pytest.raises(DataError, match=r"val.*toy.*no boxes"):
        read_curves(store, bare)


def test_a_class_without_a_map_is_named(tmp_path, catalog):
    with StoreWriter(tmp_path / "maps.h5", stage="maps", class_names=CLASSES) as writer:
        for image_id in catalog.ids:
            seed = seed_of(catalog, image_id)
            array, attrs = type(seed)(seed.classes[:0], [m[:0] for m in seed.maps], seed.size).pack()
            writer.write(image_id, array, **attrs)
    with pytest.raises(DataError, match=r"i01.*lack the class"):
        curves_at(tmp_path / "curves.h5", catalog, Store(tmp_path / "maps.h5"))
