"""Confident labels: by their definition, through the common driver, and what is refused."""

import numpy as np
import pytest

from camflow.errors import ConfigError
from camflow.refine.confident import PUBLISHED, ConfidentParams, confident_labels, confident_params, merge
from camflow.refine.crf import crf_params, dense_crf, unary_from_labels
from camflow.refine.driver import refine_maps
from camflow.store import Store, StoreWriter
from tests.localize.photos import CLASSES, Photos, seed_store


def scene(seed, size=(24, 31), count=2):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (*size, 3), dtype=np.uint8)
    image[:, size[1] // 2 :] += 150
    maps = rng.random((count, *size)).astype(np.float32) * 0.25
    maps[0, :, size[1] // 2 - 2 :] += 0.6
    maps[-1, : size[0] // 2, : size[1] // 3] += 0.12
    return image, maps


def by_pixel(foreground, background, classes):
    out = np.zeros(foreground.shape, int)
    for place in np.ndindex(*out.shape):
        if foreground[place]:
            out[place] = classes[foreground[place] - 1] + 1
        elif background[place]:
            out[place] = 255
    return out


def test_merge_by_brute_force():
    rng = np.random.default_rng(0)
    foreground, background = rng.integers(0, 4, (2, 40, 50))
    classes = np.array([2, 7, 19])
    found = merge(foreground, background, classes)
    assert found.dtype == np.uint8
    assert np.array_equal(found, by_pixel(foreground, background, classes))
    assert set(np.unique(found)) == {0, 3, 8, 20, 255}


@pytest.mark.parametrize("preset", PUBLISHED)
@pytest.mark.parametrize("count", [1, 2])
def test_two_separate_crfs_give_the_same(preset, count):
    image, maps = scene(3, count=count)
    params, classes = PUBLISHED[preset], np.array([4, 1][:count])
    marginals = []
    for level in (params.conf_fg, params.conf_bg):
        stack = np.concatenate([np.full((1, *maps.shape[1:]), level, np.float32), maps])
        marginals.append(dense_crf(image, unary_from_labels(stack.argmax(axis=0), count + 1, 0.7), params.crf))
    high, low = (m.argmax(axis=0) for m in marginals)
    refined = confident_labels(lambda: image, maps, classes, 0.0, params)
    assert np.array_equal(refined.labels, by_pixel(high, low, classes))
    assert refined.confidence.dtype == np.float32
    assert np.array_equal(refined.confidence > 0, refined.labels != 255)
    assert np.array_equal(refined.confidence[high > 0], marginals[0].max(axis=0)[high > 0])


def test_equal_thresholds_ignore_nothing():
    image, maps = scene(5)
    params = confident_params(conf_fg=0.3, conf_bg=0.3)
    assert 255 not in confident_labels(lambda: image, maps, np.array([0, 1]), 0.0, params).labels


def test_a_catalog_through_the_common_driver(tmp_path):
    catalog = Photos(8)
    store, out = seed_store(tmp_path / "maps.h5", catalog), tmp_path / "labels.h5"
    with StoreWriter(out, stage="masks", class_names=CLASSES) as writer:
        refine_maps(store, catalog, confident_labels, PUBLISHED["irn"], 0.0, writer)
    labels = Store(out, stage="masks")
    for image_id in catalog.ids:
        found = labels.read(image_id)
        assert found.shape == catalog.size(image_id)
        assert set(np.unique(found)) <= {0, 255, *(np.flatnonzero(catalog.label(image_id)) + 1)}
    assert not labels.read("i00").any()  # no class: all sure background


def test_presets():
    assert confident_params() == ConfidentParams(0.3, 0.05)
    assert (PUBLISHED["advcam"].conf_fg, PUBLISHED["advcam"].conf_bg) == (0.35, 0.15)
    assert (PUBLISHED["lpcam"].conf_fg, PUBLISHED["lpcam"].conf_bg) == (0.45, 0.25)
    with pytest.raises(ConfigError, match="advcam"):
        confident_params("advcm")
    with pytest.raises(ConfigError, match="conf_bg <= conf_fg"):
        confident_params(conf_fg=0.1, conf_bg=0.2)
    with pytest.raises(ConfigError, match="hard labels"):
        confident_params(crf=crf_params("psa"))
