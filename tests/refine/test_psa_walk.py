"""PSA's labels and walk on images: padding, small photos, catalogs, errors; the numbers are in tests/golden."""

import numpy as np
import pytest
import torch

from camflow.errors import ConfigError, DataError
from camflow.localize.maps import full_size_maps
from camflow.models.psa import build_affinity_net
from camflow.refine.crf import crf_params
from camflow.refine.psa import (
    PropagateParams,
    has_pairs,
    label_scores,
    pooled_scores,
    predict_affinities,
    propagate,
    propagate_labels,
    propagate_maps,
    propagate_params,
)
from camflow.refine.psa_labels import (
    STAGE,
    ConfidentParams,
    alpha_probabilities,
    assemble_labels,
    block_mean,
    crop_labels,
    read_confident_scores,
    write_confident_scores,
)
from camflow.store import Store, StoreWriter
from tests.localize.photos import CLASSES, Photos, seed_of, seed_store


@pytest.fixture(scope="module")
def model():
    return build_affinity_net("tiny", width=4).eval()


# --- confident labels ------------------------------------------------------------------------------------------------


def test_rules_of_the_labels():
    """One cell per rule; columns: strong background, its class, weak background, its class."""
    cells = {
        1: (0.1, 0.9, 0.1, 0.9),  # a class even under the strong background
        255: (0.9, 0.1, 0.1, 0.9),  # they disagree
        0: (0.9, 0.1, 0.9, 0.1),  # background even under the weak one
        -1: (0.0, 0.0, 0.0, 0.0),  # padding
    }
    values = np.array(list(cells.values()), np.float32).T[:, None]
    assert assemble_labels(values[:2], values[2:]).tolist() == [[1, 255, 0, 255]]


def test_too_many_classes_are_named():
    with pytest.raises(ConfigError, match="254 classes"):
        assemble_labels(np.zeros((256, 1, 1)), np.zeros((256, 1, 1)))


def test_block_means_and_crops():
    values = np.random.default_rng(0).random((2, 3, 16, 24))
    expected = [[values[:, :, y : y + 8, x : x + 8].mean(axis=(2, 3)) for x in (0, 8, 16)] for y in (0, 8)]
    np.testing.assert_allclose(block_mean(values), np.array(expected).transpose(2, 3, 0, 1))
    assert crop_labels(values).shape == (2, 3)
    with pytest.raises(ValueError, match="no whole blocks"):
        block_mean(values[..., :20])


def test_scores_of_a_catalog(tmp_path):
    catalog = Photos(4)  # i00 has no class
    store = seed_store(tmp_path / "maps.h5", catalog)
    with StoreWriter(tmp_path / "labels.h5", stage=STAGE) as writer:
        write_confident_scores(store, catalog, ConfidentParams(), writer)
    labels = Store(tmp_path / "labels.h5", stage=STAGE)
    assert labels.ids == sorted(catalog.ids)
    assert (read_confident_scores(labels, "i00") == 1).all()
    seed, photo = seed_of(catalog, "i02"), catalog.image("i02")
    found = read_confident_scores(labels, "i02", photo.shape[:2])
    assert found.shape == (2, len(seed.classes) + 1, *photo.shape[:2])
    low, high = alpha_probabilities(photo, full_size_maps(seed), (4, 32), crf_params("psa"))
    np.testing.assert_allclose(found, [low, high], atol=3e-3)
    assert low[0].mean() >= high[0].mean()
    with pytest.raises(DataError, match="'i02': its affinity labels are for"):
        read_confident_scores(labels, "i02", (1, 2))


@pytest.mark.long
def test_scores_do_not_depend_on_the_number_of_processes(tmp_path):
    catalog = Photos(5)
    store = seed_store(tmp_path / "maps.h5", catalog)
    for jobs in (1, 2):
        with StoreWriter(tmp_path / f"{jobs}.h5", stage=STAGE) as writer:
            write_confident_scores(store, catalog, ConfidentParams(), writer, jobs=jobs)
    assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "2.h5").read_bytes()


def test_impossible_exponents_are_named():
    with pytest.raises(ConfigError, match="0 < alpha_low < alpha_high"):
        ConfidentParams(alpha_low=24, alpha_high=4)
    with pytest.raises(ConfigError, match="unknown preset 'irn'"):
        propagate_params("irn")
    with pytest.raises(ConfigError, match="logt is an integer"):
        PropagateParams(logt=1.5)
    with pytest.raises(ConfigError, match="above 0"):
        PropagateParams(beta=0)


# --- walk ------------------------------------------------------------------------------------------------------------


def test_photo_is_padded_after_normalisation(model):
    photo = Photos(3).image("i00")[:, :]
    large = np.random.default_rng(0).integers(0, 256, (44, 75, 3), dtype=np.uint8)
    found = predict_affinities(model, large)
    x = np.zeros((1, 3, 48, 80))
    x[0, :, :44, :75] = ((large / 255 - model.mean) / model.std).transpose(2, 0, 1)
    with torch.no_grad():
        expected = model(torch.from_numpy(x).float())[0]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)
    assert found.shape == (34, 2 * 2)
    assert photo.shape == (40, 56, 3)


def test_padding_is_nobodys():
    maps = np.full((2, 12, 12), 0.5, np.float32)
    pooled = pooled_scores(maps, 2.0)
    assert pooled.shape == (3, 2, 2)
    np.testing.assert_allclose(pooled[1], [[0.5, 0.25], [0.25, 0.125]])
    np.testing.assert_allclose(pooled[0], pooled[1] / 2)


def test_walk_is_dense_power(model):
    rng = np.random.default_rng(1)
    maps = rng.random((2, 48, 80)).astype(np.float32)
    affinity = rng.random((34, 2 * 2))
    params = PropagateParams(alpha=2, beta=3, logt=4)
    dense = np.eye(60)
    offsets = [(0, x) for x in range(1, 5)]
    offsets += [(y, x) for y in range(1, 5) for x in range(-4, 5) if y * y + x * x < 25]
    for p, (dy, dx) in enumerate(offsets):
        for n, (y, x) in enumerate((y, x) for y in (0, 1) for x in (4, 5)):
            i, j = y * 10 + x, (y + dy) * 10 + x + dx
            dense[i, j] = dense[j, i] = affinity[p, n]
    step = dense**3
    step /= step.sum(axis=0)
    expected = pooled_scores(maps, 2).reshape(3, 60) @ np.linalg.matrix_power(step, 16)
    np.testing.assert_allclose(propagate(affinity, maps, params).reshape(3, 60), expected, atol=1e-10)


def test_photos_too_small_for_a_pair_keep_their_scores(model):
    assert not has_pairs((4, 9)) and not has_pairs((5, 8)) and has_pairs((5, 9))
    photo = np.random.default_rng(2).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    affinity = predict_affinities(model, photo)
    assert affinity.shape == (0, 0)
    maps = np.random.default_rng(3).random((1, 30, 40)).astype(np.float32)
    assert np.array_equal(propagate(affinity, maps, PropagateParams()), pooled_scores(maps, 16))
    refined = propagate_labels(model, photo, maps, np.array([2]), PropagateParams())
    assert refined.labels.shape == (30, 40) and set(np.unique(refined.labels)) <= {0, 3}
    assert refined.confidence.dtype == np.float32


def test_nothing_active_is_background(model):
    photo = np.zeros((48, 80, 3), np.uint8)
    for maps in (np.zeros((0, 48, 80), np.float32), np.zeros((1, 48, 80), np.float32)):
        refined = propagate_labels(model, photo, maps, np.arange(len(maps)), PropagateParams())
        assert not refined.labels.any() and (refined.confidence == 1).all()


def test_ties_go_to_the_background():
    refined = label_scores(np.full((3, 2, 2), 0.5), np.array([4, 6]), (13, 16))
    assert refined.labels.shape == (13, 16) and not refined.labels.any()


def test_catalog_in_order_and_bad_photos(model, tmp_path):
    catalog = Photos(4)
    store = seed_store(tmp_path / "maps.h5", catalog)
    done = []
    for name in ("a.h5", "b.h5"):
        with StoreWriter(tmp_path / name, stage="masks", class_names=CLASSES) as writer:
            propagate_maps(model, store, catalog, PropagateParams(), writer, progress=done.append)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert sum(done) == 8
    masks = Store(tmp_path / "a.h5", stage="masks")
    assert not masks.read("i00").any()
    seed = seed_of(catalog, "i01")
    direct = propagate_labels(model, catalog.image("i01"), full_size_maps(seed), seed.classes, PropagateParams()).labels
    assert (masks.read("i01") == direct).mean() > 0.98  # stored maps are float16

    class Other(Photos):
        def image(self, image_id):
            return super().image(image_id)[:20]

    with (
        StoreWriter(tmp_path / "c.h5", stage="masks") as writer,
        pytest.raises(DataError, match=r"image 'i01' is .* its maps are for"),
    ):
        propagate_maps(model, store, Other(4), PropagateParams(), writer)
