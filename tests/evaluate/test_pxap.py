"""PxAP against the authors' arrays, numpy's histograms and scikit-learn."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from camflow.errors import ConfigError, DataError, StoreError
from camflow.evaluate.frames import frame_mask, score_maps
from camflow.evaluate.pxap import PxapHistogram, PxapParams, bin_edges, score_pxap
from camflow.localize.maps import read_seed
from tests.golden.loader import golden
from tests.localize.photos import CLASSES, Photos, seed_store

PARAMS = PxapParams(size=40)


# --- the authors' arrays ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("interval", "ending"), [(0.001, ""), (0.01, "_interval01")])
def test_histograms_and_scores_equal_the_authors(interval, ending):
    arrays, total = golden("wsol_pxap"), PxapHistogram(interval)
    for i, truth in enumerate(arrays["gt_mask_224"]):
        one = PxapHistogram(interval)
        one.update(arrays[f"img{i}_score_u16"] / 65535, truth)
        assert 100 * one.pxap() == pytest.approx(float(arrays[f"pxap_per_image{ending}"][i]), abs=1e-9)
        total.merge(one)
    assert np.array_equal(total.counts, [arrays[f"hist_false{ending}"], arrays[f"hist_true{ending}"]])
    assert 100 * total.pxap() == pytest.approx(float(arrays[f"pxap{ending}"]), abs=1e-9)
    if not ending:
        assert np.array_equal(total.edges, arrays["bin_edges"])


# --- other ways to the same ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [0.001, 0.01, 0.07, 0.3, 1.0])
def test_bins_are_exact_at_the_edges(interval):
    edges = bin_edges(interval)
    inside = edges[edges <= 1]
    near = [np.nextafter(inside, 2), np.nextafter(inside, -1), inside, np.random.default_rng(0).random(5000)]
    scores = np.concatenate(near)
    scores = scores[(scores >= 0) & (scores <= 1)][None]
    truth = (np.arange(scores.size) % 3 == 0).astype(np.uint8)[None]
    histogram = PxapHistogram(interval)
    histogram.update(scores, truth)
    for label in (0, 1):
        assert np.array_equal(histogram.counts[label], np.histogram(scores[truth == label], edges)[0])


def test_equals_average_precision_of_the_bins():
    rng = np.random.default_rng(1)
    truth = (rng.random((60, 70)) < 0.3).astype(np.uint8)
    scores = np.clip(rng.normal(0.4 + 0.3 * truth, 0.2), 0, 1)
    histogram = PxapHistogram(0.125)
    histogram.update(scores, truth)
    binned = np.floor(scores / 0.125)
    assert histogram.pxap() == pytest.approx(average_precision_score(truth.ravel(), binned.ravel()), abs=1e-12)


def test_facts_of_the_protocol():
    truth = np.zeros((10, 10), np.uint8)
    truth[:3] = 1
    truth[9] = 255
    perfect, constant = PxapHistogram(), PxapHistogram()
    perfect.update(np.where(truth == 255, 0.9, truth).astype(float), truth)  # whatever the ignored pixels hold
    constant.update(np.full((10, 10), 0.5), truth)
    assert perfect.pxap() == 1
    assert constant.pxap() == pytest.approx(30 / 90)
    assert perfect.counts.sum() == 90


def test_refusals():
    histogram, truth = PxapHistogram(), np.zeros((2, 2), np.uint8)
    for bad in (np.nan, 1.5, -0.1):
        with pytest.raises(DataError, match="i5"):
            histogram.update(np.full((2, 2), bad), truth, "i5")
    with pytest.raises(DataError, match="i5"):
        histogram.update(np.zeros((2, 3)), truth, "i5")
    histogram.update(np.zeros((2, 2)), truth)
    with pytest.raises(DataError, match="foreground"):
        histogram.pxap()
    with pytest.raises(ValueError):
        histogram.merge(PxapHistogram(0.01))
    with pytest.raises(ConfigError, match="interval"):
        PxapParams(interval=0)
    with pytest.raises(ConfigError, match="bicubic"):
        PxapParams(resize="cubic")


# --- a split ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", ["squash", "crop", "image"])
def test_split_by_a_loop_with_numpys_histograms(tmp_path, frame):
    catalog = Photos(12)
    maps, params = seed_store(tmp_path / "maps.h5", catalog), PxapParams(frame=frame, size=40)
    score, steps = score_pxap(maps, catalog, params), []
    edges, scored = bin_edges(0.001), {k: [[], []] for k in range(len(CLASSES))}
    for image_id in catalog.ids:
        mask = catalog.mask(image_id)
        if mask is None:
            continue
        seed, labels = read_seed(maps, image_id), frame_mask(mask, params.where)
        for k, values in zip(seed.classes, score_maps(seed, params.where), strict=True):
            scored[k][0].append(values[(labels != k + 1) & (labels != 255)])
            scored[k][1].append(values[labels == k + 1])

    def area(parts):
        false, true = (np.histogram(np.concatenate(values), edges)[0][::-1].cumsum() for values in parts)
        recall = true / true[-1]
        return sum(true[i] / (true[i] + false[i]) * (recall[i] - recall[i - 1]) for i in range(1, len(true)) if true[i])

    for k, name in enumerate(CLASSES):
        assert score["per_class"][name]["n_maps"] == len(scored[k][0])
        assert score["per_class"][name]["pxap"] == pytest.approx(area(scored[k]), abs=1e-12)
    pooled = [[values for parts in scored.values() for values in parts[label]] for label in (0, 1)]
    assert score["pxap"] == pytest.approx(area(pooled), abs=1e-12)
    assert score["conditions"]["n_pixels"] == sum(values.size for values in pooled[0] + pooled[1])
    assert score["conditions"]["n_images_without_mask"] == 2
    assert json.loads(json.dumps(score, allow_nan=False)) == score
    score_pxap(maps, catalog, params, steps.append)
    assert sum(steps) == 12


def test_missing_things_are_named(tmp_path):
    maps = seed_store(tmp_path / "maps.h5", Photos(12), leave_out=("i02",))
    with pytest.raises(StoreError, match="i02"):
        score_pxap(maps, Photos(12), PARAMS)
    with pytest.raises(DataError, match=r"val.*toy.*no masks"):
        score_pxap(maps, Photos(0, ["i04", "i09"]), PARAMS)
    with pytest.raises(DataError, match="foreground"):
        score_pxap(maps, Photos(0, ["i00"]), PARAMS)
    score = score_pxap(maps, Photos(0, ["i01"]), PARAMS)
    absent = [n for n, label in zip(CLASSES, Photos(2).label("i01"), strict=True) if not label]
    assert absent
    assert all(score["per_class"][name] == {"pxap": None, "n_maps": 0} for name in absent)
