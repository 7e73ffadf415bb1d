"""SEAM's maps: the published reading against its description, and what the common readers see."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from camflow.localize.extract import Views, seed_of_photo
from camflow.localize.maps import SeedMaps, full_size_maps
from camflow.localize.seam import SeamMapParams, extract_seam_maps, seam, seam_full_maps
from camflow.models.seam import build_seam
from camflow.store import Store, StoreWriter
from tests.localize.photos import CLASSES, Photos

SCALES = (0.5, 1.0, 1.5, 2.0)


@pytest.fixture(scope="module")
def model():
    return build_seam("tiny", len(CLASSES), width=4, seed=1).eval().double()


def published(model, photo, classes):
    """Every scale and view by itself, as the released inference has it."""
    height, width = photo.shape[:2]
    total = np.zeros((len(classes), height, width))
    for scale in SCALES:
        size = (round(width * scale), round(height * scale))
        small = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC)) if scale != 1 else photo
        x = torch.from_numpy(((small / 255 - model.mean) / model.std).transpose(2, 0, 1)[None].astype(np.float32))
        for flip in (False, True):
            seen = x.double().flip(-1) if flip else x.double()
            with torch.no_grad():
                _, after = model.image_size_maps(seen)
            after = functional.interpolate(after, size=(height, width), mode="bilinear", align_corners=False)
            maps = after[0, 1:][classes].numpy()
            total += maps[..., ::-1] if flip else maps
    low, high = total.min(axis=(1, 2), keepdims=True), total.max(axis=(1, 2), keepdims=True)
    total[total < low + 1e-5] = 0
    return (total - low - 1e-5) / (high - low + 1e-5)


@pytest.mark.parametrize("image_id", ["i01", "i02"])
def test_published_reading(model, image_id):
    photos = Photos(3)
    photo, classes = photos.image(image_id), [0, 2, 3]
    seed = seed_of_photo(model, seam, photo, classes, SeamMapParams())
    expected = published(model, photo, classes)
    found = seam_full_maps(seed, SCALES)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-9)
    stored = seam_full_maps(SeedMaps.unpack(*seed.pack()), SCALES)
    np.testing.assert_allclose(stored, found, atol=5e-3)


def test_every_map_is_stored_less_its_minimum(model):
    photo = Photos(2).image("i01")
    seed = seed_of_photo(model, seam, photo, [1, 4], Views(scales=SCALES))
    for maps in seed.maps:
        assert (maps.min(axis=(1, 2)) == 0).all() and maps.max() > 0
    maps = full_size_maps(seed)  # what every other stage reads
    assert maps.shape == (2, *photo.shape[:2]) and maps.min() >= 0 and maps.max() < 1


def test_a_constant_changes_nothing_in_the_published_reading():
    rng = np.random.default_rng(0)
    maps = [rng.random((2, 5, 7)), rng.random((2, 3, 4))]
    seed = SeedMaps(np.array([0, 1]), maps, (40, 56), stride=8)
    raised = SeedMaps(np.array([0, 1]), [m + np.array([3.0, 0.5])[:, None, None] for m in maps], (40, 56), stride=8)
    np.testing.assert_allclose(seam_full_maps(raised, (1.0, 0.5)), seam_full_maps(seed, (1.0, 0.5)), atol=1e-12)


def test_no_class_no_map():
    assert seam_full_maps(SeedMaps(np.zeros(0, int), [], (4, 5)), SCALES).shape == (0, 4, 5)


def test_whole_catalog(model, tmp_path):
    catalog = Photos(5)
    model.class_names = CLASSES
    with StoreWriter(tmp_path / "maps.h5", stage="maps", class_names=CLASSES) as writer:
        extract_seam_maps(model.float(), catalog, SeamMapParams(scales=(1.0, 0.5)), writer)
    model.double()
    store = Store(tmp_path / "maps.h5", stage="maps")
    assert store.ids == sorted(catalog.ids)
    seed = SeedMaps.unpack(store.read("i01"), store.attrs("i01"))
    assert [m.shape[1:] for m in seed.maps] == [(-(-n // 8), -(-m // 8)) for n, m in ((33, 47), (16, 24))]
