"""CAM and its two grids against IRN's own CAM driver (ResNet-50, output stride 16, four scales, mirror)."""

import numpy as np
import pytest
import torch

from camflow.localize.cam import CamParams, cam
from camflow.localize.extract import frame_size, rescale, seed_of_photo
from camflow.localize.maps import SeedMaps, full_size_maps, stride4_maps
from camflow.models.classifier import build_classifier
from tests.golden.loader import fill_by_rule, golden

FLOAT64 = 1e-10  # all tolerances: README of the arrays
FLOAT32_RAW = 1e-4


@pytest.fixture(scope="module")
def arrays():
    return golden("irn_cam")


@pytest.fixture(scope="module")
def seeds(arrays):
    """Seed maps of all 20 classes, {(dtype, photo): SeedMaps}."""
    model = fill_by_rule(build_classifier("resnet50", 20, output_stride=16)).eval()
    params = CamParams(scales=tuple(arrays["scales"]))
    return {
        (dtype, photo): seed_of_photo(model.to(dtype), cam, arrays[f"image_{photo}"], range(20), params)
        for dtype in (torch.float32, torch.float64)
        for photo in range(int(arrays["n_images"]))
    }


def only(seed: SeedMaps, keys) -> SeedMaps:
    return SeedMaps(keys, [m[keys] for m in seed.maps], seed.size, seed.frame, seed.stride)


@pytest.mark.parametrize("photo", [0, 1])
def test_rescaled_photos_are_identical(arrays, photo):
    image = arrays[f"image_{photo}"]
    for index, scale in enumerate(arrays["scales"]):
        if scale != 1:
            expected = arrays[f"image_{photo}_s{index}"]
            assert np.array_equal(rescale(image, frame_size(image.shape[:2], None), scale), expected)


@pytest.mark.parametrize("photo", [0, 1])
def test_float64(arrays, seeds, photo):
    seed, keys = seeds[torch.float64, photo], arrays[f"keys_{photo}"]
    for index, maps in enumerate(seed.maps):
        np.testing.assert_allclose(maps, arrays[f"raw_{photo}_s{index}"], rtol=0, atol=FLOAT64)
    np.testing.assert_allclose(stride4_maps(only(seed, keys)), arrays[f"cam_{photo}"], rtol=0, atol=FLOAT64)
    np.testing.assert_allclose(full_size_maps(only(seed, keys)), arrays[f"high_res_{photo}"], rtol=0, atol=FLOAT64)


@pytest.mark.parametrize("photo", [0, 1])
def test_sums_before_normalisation(arrays, seeds, photo):
    seed = seeds[torch.float64, photo]
    summed = arrays[f"cam_sum_{photo}"]
    peak = summed.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(stride4_maps(seed), summed / (peak + 1e-5), rtol=0, atol=FLOAT64)
    high, high_max = full_size_maps(seed), arrays[f"high_max_{photo}"]
    np.testing.assert_allclose(high.max(axis=(1, 2)), high_max / (high_max + 1e-5), rtol=0, atol=FLOAT64)


@pytest.mark.parametrize("photo", [0, 1])
def test_float32(arrays, seeds, photo):
    seed, keys = seeds[torch.float32, photo], arrays[f"keys_{photo}"]
    assert seed.maps[0].dtype == np.float32
    for index, maps in enumerate(seed.maps):
        np.testing.assert_allclose(maps, arrays[f"raw_{photo}_s{index}"], rtol=0, atol=FLOAT32_RAW)
    # About 3 times the reference's own float32 error, which varies with the build.
    for maps, name in ((stride4_maps(only(seed, keys)), "cam"), (full_size_maps(only(seed, keys)), "high_res")):
        tolerance = 3 * float(arrays[f"fp32_maxdiff_{name}_{photo}"])
        np.testing.assert_allclose(maps, arrays[f"{name}_{photo}"], rtol=0, atol=tolerance)


def test_a_class_without_activation_is_exactly_zero(arrays, seeds):
    seed, keys = seeds[torch.float32, 0], arrays["keys_0"]
    empty = [k for k, high_max in enumerate(arrays["high_max_0"]) if high_max == 0]
    assert set(empty) & set(keys)
    for grid in (stride4_maps, full_size_maps):
        assert not grid(only(seed, np.array(empty))).any()


@pytest.mark.parametrize("photo", [0, 1])
def test_storing_costs_less_than_float16_resolution(arrays, seeds, photo):
    seed = only(seeds[torch.float32, photo], arrays[f"keys_{photo}"])
    stored = SeedMaps.unpack(*seed.pack())
    np.testing.assert_allclose(full_size_maps(stored), arrays[f"high_res_{photo}"], rtol=0, atol=2e-3)
