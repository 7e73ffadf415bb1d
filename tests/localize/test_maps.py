"""Seed maps: storage and the two grids."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camflow.errors import DataError, StoreError
from camflow.localize.maps import SeedMaps, checked_seed, full_size_maps, stride4_maps
from tests.localize.photos import Photos, seed_of, seed_store


def bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear resampling by its definition: output pixel centres mapped onto the input, borders repeated."""
    out = np.zeros(size)
    (h, w), (oh, ow) = image.shape, size
    for y in range(oh):
        for x in range(ow):
            fy, fx = (min(max((k + 0.5) * n / o - 0.5, 0), n - 1) for k, n, o in ((y, h, oh), (x, w, ow)))
            y0, x0 = int(fy), int(fx)
            y1, x1, dy, dx = min(y0 + 1, h - 1), min(x0 + 1, w - 1), fy - y0, fx - x0
            top = (1 - dx) * image[y0, x0] + dx * image[y0, x1]
            out[y, x] = (1 - dy) * top + dy * ((1 - dx) * image[y1, x0] + dx * image[y1, x1])
    return out


def test_both_grids_by_definition():
    rng = np.random.default_rng(0)
    seed = SeedMaps(np.array([2]), [rng.random((1, 3, 4)), rng.random((1, 2, 2))], (37, 50))
    stride4 = sum(bilinear(m[0], (10, 13)) for m in seed.maps)
    full = sum(bilinear(m[0], (48, 64)) for m in seed.maps)[:37, :50]
    np.testing.assert_allclose(stride4_maps(seed)[0], stride4 / (stride4.max() + 1e-5), atol=1e-12)
    np.testing.assert_allclose(full_size_maps(seed)[0], full / (full.max() + 1e-5), atol=1e-12)


def test_the_grids_sample_differently():
    ramp = np.linspace(0, 1, 4)[None, None].repeat(3, axis=1)
    seed = SeedMaps(np.array([0]), [ramp], (37, 50))  # 64 pixels of map over a photo of 50
    assert stride4_maps(seed)[0, 0, -1] > 0.99 / (1 + 1e-5)
    assert full_size_maps(seed)[0].argmax() % 50 == 49
    quarter = full_size_maps(seed)[0, 0, 25] * ramp.max()
    assert abs(quarter - stride4_maps(seed)[0, 0, 6]) > 0.05


def test_other_strides_and_resized_photos():
    maps = np.random.default_rng(1).random((1, 3, 4)).astype(np.float32)
    shown = SeedMaps(np.array([0]), [maps], (24, 32), stride=8)
    resized = SeedMaps(np.array([0]), [maps], (48, 64), frame=(24, 32), stride=8)
    small, large = full_size_maps(shown)[0], full_size_maps(resized)[0]
    expected = bilinear(small, (48, 64))
    np.testing.assert_allclose(large, expected / expected.max(), atol=2e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 4),
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=3),
    st.integers(0, 2**16),
    st.sampled_from([1e-6, 1.0, 1e5]),
)
def test_packing_keeps_values_to_float16(count, grids, seed, unit):
    rng = np.random.default_rng(seed)
    maps = [(rng.random((count, *grid)) * unit).astype(np.float32) for grid in grids]
    given_ = SeedMaps(np.arange(count), maps, (20, 30), (10, 15), 8)
    array, attrs = given_.pack()
    back = SeedMaps.unpack(array, attrs)
    assert array.dtype == np.float16
    assert (array >= 0).all()
    assert (array <= 1).all()
    assert (back.size, back.frame, back.stride) == ((20, 30), (10, 15), 8)
    assert back.classes.tolist() == list(range(count))
    for before, after in zip(maps, back.maps, strict=True):
        assert after.shape == before.shape
        np.testing.assert_allclose(after, before, rtol=2**-10, atol=1e-7 * unit)


def test_a_class_without_activation_is_exactly_zero_and_does_not_touch_others():
    maps = np.random.default_rng(2).random((2, 3, 3)).astype(np.float32)
    maps[1] = 0
    both, one = SeedMaps(np.array([1, 4]), [maps], (40, 40)), SeedMaps(np.array([1]), [maps[:1]], (40, 40))
    back = SeedMaps.unpack(*both.pack())
    for grid in (stride4_maps, full_size_maps):
        assert not grid(back)[1].any()
        assert np.array_equal(grid(both)[0], grid(one)[0])


def test_no_class_at_all():
    back = SeedMaps.unpack(*SeedMaps(np.zeros(0, int), [], (33, 20)).pack())
    assert full_size_maps(back).shape == (0, 33, 20)
    assert stride4_maps(back).shape == (0, 9, 5)


def test_one_pixel():
    seed = SeedMaps(np.array([0]), [np.ones((1, 1, 1), np.float32)], (1, 1))
    assert full_size_maps(seed).shape == stride4_maps(seed).shape == (1, 1, 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_impossible_values_are_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        SeedMaps(np.array([0]), [np.full((1, 2, 2), bad)], (4, 4)).pack()


def test_through_a_store(tmp_path):
    catalog = Photos(8)
    store = seed_store(tmp_path / "maps.h5", catalog)
    for image_id in catalog.ids:
        seed = checked_seed(store, image_id, catalog.size(image_id))
        expected = full_size_maps(seed_of(catalog, image_id))
        np.testing.assert_allclose(full_size_maps(seed), expected, atol=1e-3)
    with pytest.raises(StoreError, match="nobody"):
        checked_seed(store, "nobody")
    with pytest.raises(DataError, match=r"i01.*33x47"):
        checked_seed(store, "i01", (10, 10))
