"""Refining a catalog: order, workers, images with nothing to refine."""

import hashlib

import numpy as np
import pytest

from camflow.errors import ConfigError, DataError, StoreError
from camflow.localize.maps import SeedMaps, full_size_maps, read_seed
from camflow.refine.crf import PUBLISHED, crf_labels
from camflow.refine.driver import class_ids, refine_maps, refine_seed
from camflow.refine.threshold import ThresholdParams, threshold_labels, winners
from camflow.store import Store, StoreWriter
from tests.localize.photos import CLASSES, Photos, seed_store

METHODS = {"none": (threshold_labels, ThresholdParams()), "crf": (crf_labels, PUBLISHED["irn"])}


def refine(path, store, catalog, method="none", **options):
    with StoreWriter(path, stage="masks", class_names=CLASSES) as writer:
        refine_maps(store, catalog, *METHODS[method], 0.6, writer, **options)
    return Store(path, stage="masks")


@pytest.mark.parametrize("method", METHODS)
def test_every_image_in_class_ids(tmp_path, method):
    catalog = Photos(15)
    masks = refine(tmp_path / "masks.h5", seed_store(tmp_path / "maps.h5", catalog), catalog, method)
    assert masks.ids == catalog.ids
    for image_id in catalog.ids:
        labels = masks.read(image_id)
        assert labels.dtype == np.uint8
        assert labels.shape == catalog.size(image_id)
        assert set(np.unique(labels)) <= {0, *(np.flatnonzero(catalog.label(image_id)) + 1)}
    assert not masks.read("i00").any()  # no class
    assert any(masks.read(i).any() for i in catalog.ids)


def test_none_is_the_arg_max_of_the_stack(tmp_path):
    catalog = Photos(6)
    store = seed_store(tmp_path / "maps.h5", catalog)
    masks = refine(tmp_path / "masks.h5", store, catalog)
    for image_id in catalog.ids[1:]:
        seed = read_seed(store, image_id)
        stack = np.pad(full_size_maps(seed), ((1, 0), (0, 0), (0, 0)), constant_values=0.6)
        assert np.array_equal(masks.read(image_id), np.pad(seed.classes + 1, (1, 0))[stack.argmax(axis=0)])


def test_file_does_not_depend_on_the_number_of_workers(tmp_path):
    catalog = Photos(13)
    store = seed_store(tmp_path / "maps.h5", catalog)
    files = []
    for jobs in (1, 2):
        paths = tmp_path / f"{jobs}.h5", tmp_path / f"{jobs}c.h5"
        with StoreWriter(paths[1], stage="confidence") as confidence:
            refine(paths[0], store, catalog, "crf", jobs=jobs, confidence=confidence)
        files.append([hashlib.sha256(p.read_bytes()).hexdigest() for p in paths])
    assert files[0] == files[1]
    assert Store(paths[1]).read("i01").dtype == np.uint8


def test_ties_go_to_the_background_then_to_the_earlier_class():
    maps = np.array([[[0.3, 0.5, 0.2]], [[0.3, 0.5, 0.4]]], np.float32)
    assert winners(maps, 0.3).tolist() == [[0, 1, 2]]
    assert winners(maps, 0.5).tolist() == [[0, 0, 0]]


def test_threshold_is_compared_in_the_dtype_of_the_maps():
    score = np.float32(0.15)
    assert float(score) > 0.15
    assert winners(np.full((1, 1, 1), score), 0.15).item() == 0
    assert winners(np.full((1, 1, 1), float(score)), 0.15).item() == 1


@pytest.mark.parametrize("method", METHODS)
def test_nothing_to_refine_is_background_and_never_opens_the_photo(method):
    def photo():
        raise AssertionError("opened")

    nobody = SeedMaps(np.zeros(0, int), [], (5, 6))
    silent = SeedMaps(np.array([1, 3]), [np.zeros((2, 1, 1), np.float32)], (5, 6))
    for seed in (nobody, silent):
        refined = refine_seed(photo, seed, *METHODS[method], 0.0)
        assert not refined.labels.any()
        assert refined.labels.shape == refined.confidence.shape == (5, 6)


@pytest.mark.parametrize("method", METHODS)
def test_one_silent_class_beside_a_loud_one(method):
    maps = np.zeros((2, 2, 2), np.float32)
    maps[1] = 4
    image = np.full((20, 30, 3), 90, np.uint8)
    seed = SeedMaps(np.array([0, 2]), [maps], (20, 30))
    refined = refine_seed(lambda: image, seed, *METHODS[method], 0.3)
    assert (refined.labels == 3).all()


def test_many_classes():
    count = 60
    maps = np.random.default_rng(0).random((count, 2, 2)).astype(np.float32)
    seed = SeedMaps(np.arange(count) * 4, [maps], (12, 14))
    image = np.full((12, 14, 3), 90, np.uint8)
    for method in METHODS.values():
        labels = refine_seed(lambda: image, seed, *method, 0.1).labels
        assert labels.max() <= 4 * (count - 1) + 1
    with pytest.raises(ConfigError, match="254"):
        class_ids(np.zeros((1, 1), int), np.array([254]))


def test_missing_image_is_named(tmp_path):
    catalog = Photos(4)
    store = seed_store(tmp_path / "maps.h5", catalog, leave_out=("i02",))
    with pytest.raises(StoreError, match="i02"):
        refine(tmp_path / "masks.h5", store, catalog)
    assert not (tmp_path / "masks.h5").exists()


def test_photo_of_another_size_is_named(tmp_path):
    catalog = Photos(4)
    store = seed_store(tmp_path / "maps.h5", catalog)
    catalog.sizes = catalog.sizes + 1
    with pytest.raises(DataError, match="i00"):
        refine(tmp_path / "masks.h5", store, catalog)
