"""The dense CRF: against the authors' arrays, against mean field written out, and on its borders."""

import numpy as np
import pytest
from pydensecrf import utils

from camflow.errors import ConfigError
from camflow.refine.crf import (
    PUBLISHED,
    CrfParams,
    crf_labels,
    crf_params,
    dense_crf,
    dense_crf_many,
    params_from_config,
    seed_unary,
    unary_from_labels,
    unary_from_probabilities,
)
from camflow.refine.threshold import winners
from tests.golden.loader import golden

MARGINALS = 1e-3  # proposed tolerance for another build of the library; the same build is bit-identical
PIXELS = 0.005


# --- published arrays ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scene", [0, 1, 2])
@pytest.mark.parametrize("source", ["irn", "advcam"])
def test_hard_labels_of_irn(source, scene):
    arrays = golden("irn_labels")
    image, maps = arrays[f"image_{scene}"], arrays[f"cam_{scene}"]
    unaries = []
    for kind, threshold in zip(("fg", "bg"), arrays[f"thresholds_{source}_fg_bg"], strict=True):
        assert np.array_equal(winners(maps, threshold), arrays[f"{source}_{scene}_{kind}_local_before"])
        unaries.append(seed_unary(maps, threshold, PUBLISHED["irn"]))
    for kind, marginals in zip(("fg", "bg"), dense_crf_many(image, unaries, PUBLISHED["irn"]), strict=True):
        np.testing.assert_allclose(marginals, arrays[f"{source}_{scene}_{kind}_marginals"], rtol=0, atol=MARGINALS)
        assert (marginals.argmax(axis=0) != arrays[f"{source}_{scene}_{kind}_local_crf"]).mean() <= PIXELS


@pytest.mark.parametrize("scene", [0, 1, 2])
def test_probabilities_of_deeplab(scene):
    arrays = golden("irn_labels")
    unary = unary_from_probabilities(arrays[f"deeplab_{scene}_prob"])
    marginals = dense_crf(arrays[f"image_{scene}"], unary, PUBLISHED["deeplab_v2"])
    np.testing.assert_allclose(marginals, arrays[f"deeplab_{scene}_marginals"], rtol=0, atol=MARGINALS)


@pytest.mark.parametrize("scene", [0, 1])
@pytest.mark.parametrize("alpha", [4, 24, 32])
def test_background_of_psa(alpha, scene):
    arrays = golden("psa")
    unary = seed_unary(arrays[f"crf{scene}_cam"], 0.0, crf_params("psa", alpha=alpha))
    marginals = dense_crf(arrays[f"crf{scene}_image"], unary, PUBLISHED["psa"])
    np.testing.assert_allclose(marginals, arrays[f"crf{scene}_alpha{alpha}_prob"], rtol=0, atol=MARGINALS)


# --- mean field by its definition ------------------------------------------------------------------------------------


def mean_field(image, unary, params):
    """Krähenbühl and Koltun's algorithm 1 with all pairs and symmetrically normalised kernels, as their library has."""
    height, width = image.shape[:2]
    y, x = (grid.reshape(-1, 1) for grid in np.mgrid[:height, :width].astype(float))
    place = np.hstack([x, y])
    smooth = place / params.gaussian_sxy
    appearance = np.hstack([place / params.bilateral_sxy, image.reshape(-1, 3) / params.bilateral_srgb])
    kernel = 0
    for features, weight in ((smooth, params.gaussian_compat), (appearance, params.bilateral_compat)):
        affinity = np.exp(-((features[:, None] - features[None]) ** 2).sum(axis=2) / 2)
        scale = 1 / np.sqrt(affinity.sum(axis=1) + 1e-20)
        kernel = kernel + weight * scale[:, None] * affinity * scale
    energy = unary.astype(float)
    q = softmax(-energy)
    for _ in range(params.iterations):
        q = softmax(-energy + q @ kernel)
    return q.reshape(-1, height, width)


def softmax(values):
    values = np.exp(values - values.max(axis=0))
    return values / values.sum(axis=0)


@pytest.mark.parametrize("preset", sorted(PUBLISHED))
def test_agrees_with_mean_field(preset):
    """The library filters approximately (permutohedral lattice): marginals agree closely, labels nearly always."""
    rng = np.random.default_rng(5)
    image = np.full((18, 24, 3), 60, np.uint8)
    image[:, 11:] = 190
    image = (image + rng.integers(0, 4, image.shape)).astype(np.uint8)
    maps = np.stack([rng.random((18, 24)) * 0.3, rng.random((18, 24)) * 0.2]).astype(np.float32)
    maps[0, :, 9:] += 0.6  # the seed's border is two pixels off the photo's
    params = PUBLISHED[preset]
    unary = seed_unary(maps, 0.3, params)
    ours, expected = dense_crf(image, unary, params), mean_field(image, unary, params)
    assert abs(ours - expected).mean() < 0.03
    assert (ours.argmax(axis=0) == expected.argmax(axis=0)).mean() > 0.97


def test_moves_the_border_of_the_seed_to_the_border_of_the_photo():
    image = np.full((40, 60, 3), 40, np.uint8)
    image[:, 30:] = 200
    maps = np.zeros((1, 40, 60), np.float32)
    maps[0, :, 25:] = 1
    refined = crf_labels(lambda: image, maps, np.array([6]), 0.3, PUBLISHED["irn"])
    assert np.array_equal(refined.labels, np.where(np.arange(60) >= 30, 7, 0)[None].repeat(40, axis=0))
    assert refined.confidence.min() > 0.5


# --- unaries ---------------------------------------------------------------------------------------------------------


def test_unaries_are_the_library_s():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 4, (9, 7)), rng.random((4, 9, 7)).astype(np.float32) * 1.2 - 0.1
    assert np.array_equal(unary_from_labels(labels, 4, 0.7), utils.unary_from_labels(labels, 4, 0.7, zero_unsure=False))
    assert np.array_equal(unary_from_probabilities(scores), utils.unary_from_softmax(scores))


def test_background_of_a_seed():
    maps = np.array([[[0.2, 0.9]], [[0.1, 0.3]]], np.float32)
    hard = seed_unary(maps, 0.5, CrfParams())
    np.testing.assert_allclose(np.exp(-hard), [[0.7, 0.15], [0.15, 0.7], [0.15, 0.15]], rtol=1e-6)
    constant = seed_unary(maps, 0.5, CrfParams(unary="probabilities"))
    np.testing.assert_allclose(np.exp(-constant), [[0.5, 0.5], [0.2, 0.9], [0.1, 0.3]], rtol=1e-6)
    power = seed_unary(maps, 0.5, CrfParams(unary="probabilities", alpha=2))
    np.testing.assert_allclose(np.exp(-power[0]), [0.64, 0.01], rtol=1e-5)


# --- reuse, borders, parameters --------------------------------------------------------------------------------------


def test_shared_lattice_is_bit_identical():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (30, 41, 3), dtype=np.uint8)
    unaries = [unary_from_probabilities(rng.random((3, 30, 41))) for _ in range(3)]
    for together, unary in zip(dense_crf_many(image, unaries, PUBLISHED["irn"]), unaries, strict=True):
        assert np.array_equal(together, dense_crf(image, unary, PUBLISHED["irn"]))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3)])
@pytest.mark.parametrize("preset", ["irn", "psa"])
def test_tiny_photos(size, preset):
    image, maps = np.full((*size, 3), 255, np.uint8), np.full((2, *size), 0.9, np.float32)
    maps[1] = 0.2
    refined = crf_labels(lambda: image, maps, np.array([0, 4]), 0.3, PUBLISHED[preset])
    assert refined.labels.shape == size
    assert (refined.labels == 1).all()


def test_constant_map_gives_a_constant_mask():
    image = np.random.default_rng(2).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    maps = np.ones((1, 20, 20), np.float32)
    assert (crf_labels(lambda: image, maps, np.array([2]), 0.3, PUBLISHED["irn"]).labels == 3).all()


def test_photo_and_unary_need_not_be_contiguous():
    rng = np.random.default_rng(3)
    image, scores = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8), rng.random((2, 20, 24))
    turned = np.asfortranarray(image)[:, ::-1]
    unary = np.asfortranarray(unary_from_probabilities(scores))
    assert np.array_equal(
        dense_crf(turned, unary, PUBLISHED["irn"]),
        dense_crf(turned.copy(order="C"), unary.copy(order="C"), PUBLISHED["irn"]),
    )
    with pytest.raises(ValueError, match="uint8"):
        dense_crf(image / 255, unary, PUBLISHED["irn"])


def test_presets():
    assert crf_params() == CrfParams()
    assert crf_params("deeplab_v2", iterations=3) == CrfParams("probabilities", 0.7, None, 1, 3, 67, 3, 4, 3)
    assert crf_params("psa", unary="labels").alpha is None
    assert params_from_config({"method": "crf", "preset": "psa", "threshold": 0.2, "alpha": 4}).alpha == 4
    with pytest.raises(ConfigError, match="deeplab_v2"):
        crf_params("deeplab_v3")
    for wrong in ({"unary": "soft"}, {"gt_prob": 1}, {"iterations": 0}, {"bilateral_srgb": 0}, {"alpha": 2}):
        with pytest.raises(ConfigError):
            crf_params("irn", **wrong)
