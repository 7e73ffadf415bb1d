"""The masker's maps: both readings by hand, mirroring, scales, and what the common readers see."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from camflow.errors import ConfigError, DataError
from camflow.localize.extract import seed_of_photo
from camflow.localize.maps import SeedMaps, full_size_maps
from camflow.localize.masker import METHODS, MaskerParams, MaskHost, class_mask_maps, extract_masker_maps, mask_maps
from camflow.models.classifier import build_classifier
from camflow.models.masker import build_masker
from camflow.store import Store, StoreWriter
from tests.localize.photos import CLASSES, Photos


@pytest.fixture
def model():
    return build_masker(build_classifier("tiny", len(CLASSES), width=4, seed=1), seed=2).eval()


def shown(model, photo, scale=1.0):
    """A photo at a scale as the network sees it, (1, 3, h, w)."""
    size = tuple(round(n * scale) for n in photo.shape[1::-1])
    small = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC)) if scale != 1 else photo
    return torch.from_numpy(((small / 255 - model.mean) / model.std).transpose(2, 0, 1)[None].astype(np.float32))


@pytest.mark.parametrize("image_id", ["i01", "i03"])  # 33x47 and 40x56
def test_every_class_has_the_mask(model, image_id):
    photo = Photos(4).image(image_id)
    params = MaskerParams(scales=(1.0, 1.5), flip=True)
    seed = seed_of_photo(MaskHost(model), mask_maps, photo, [0, 2, 3], params)
    assert seed.stride == 4 and seed.classes.tolist() == [0, 2, 3]
    for maps, scale in zip(seed.maps, params.scales, strict=True):
        x = shown(model, photo, scale)
        with torch.no_grad():
            mask = (model.masks(x) + model.masks(x.flip(-1)).flip(-1))[0, 0] / 2
        assert maps.shape == (3, -(-x.shape[2] // 4), -(-x.shape[3] // 4))
        for own in maps:
            np.testing.assert_allclose(own, mask.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("flip", [False, True])
def test_a_class_keeps_what_it_activates(model, flip):
    photo, classes = Photos(4).image("i00"), [1, 4]  # 40x56
    seed = seed_of_photo(MaskHost(model), class_mask_maps, photo, classes, MaskerParams(flip=flip, classes="cam"))
    views = [(shown(model, photo), False)]
    views += [(views[0][0].flip(-1), True)] if flip else []
    mask, cam = 0, 0
    with torch.no_grad():
        for x, mirrored in views:
            found = [model.masks(x)[0, 0], torch.relu(model.net.score_maps(x)[0, classes])]
            own = [value.flip(-1) if mirrored else value for value in found]
            mask, cam = mask + own[0] / len(views), cam + own[1]
    assert cam.amax(dim=(1, 2)).min() > 0
    large = functional.interpolate((cam / cam.amax(dim=(1, 2), keepdim=True))[None], scale_factor=2, mode="bilinear")
    expected = (mask * large[0]).numpy()
    np.testing.assert_allclose(seed.maps[0], expected, rtol=0, atol=1e-5)
    assert not np.allclose(expected[0], expected[1], atol=1e-2)


def test_a_class_without_activation_has_nothing(model):
    with torch.no_grad():
        model.head.weight[2] = 0
    photo = Photos(1).image("i00")
    seed = seed_of_photo(MaskHost(model), class_mask_maps, photo, [2, 3], MaskerParams(classes="cam"))
    assert not seed.maps[0][0].any() and np.isfinite(seed.maps[0]).all()


def test_a_stored_mask_keeps_its_unit(model):
    """The box rule of the paper thresholds at the mean of the mask itself."""
    photo = Photos(4).image("i03")
    seed = seed_of_photo(MaskHost(model), mask_maps, photo, [1], MaskerParams())
    stored = SeedMaps.unpack(*seed.pack())
    np.testing.assert_allclose(stored.maps[0], seed.maps[0], rtol=1e-3, atol=1e-6)
    assert 0 < stored.maps[0].max() < 0.99
    maps = full_size_maps(stored)
    assert maps.shape == (1, *photo.shape[:2])
    # Cells are 4 pixels: the maximum lies in the cell where the mask has it.
    y, x = np.unravel_index(maps[0].argmax(), maps[0].shape)
    cell = np.unravel_index(stored.maps[0][0].argmax(), stored.maps[0][0].shape)
    assert abs(y - (4 * cell[0] + 1.5)) <= 2 and abs(x - (4 * cell[1] + 1.5)) <= 2


@pytest.mark.parametrize("classes", list(METHODS))
def test_whole_catalog(model, tmp_path, classes):
    catalog = Photos(8)
    model.class_names = CLASSES
    params = MaskerParams(scales=(1.0, 0.5), flip=True, classes=classes)
    with StoreWriter(tmp_path / "maps.h5", stage="maps", class_names=CLASSES) as writer:
        extract_masker_maps(model, catalog, params, writer)
    store = Store(tmp_path / "maps.h5", stage="maps")
    assert store.ids == sorted(catalog.ids)
    seed = SeedMaps.unpack(store.read("i01"), store.attrs("i01"))
    assert [m.shape[1:] for m in seed.maps] == [(-(-n // 4), -(-m // 4)) for n, m in ((33, 47), (16, 24))]
    present = np.flatnonzero(catalog.label("i01"))
    expected = seed_of_photo(MaskHost(model), METHODS[classes], catalog.image("i01"), present, params)
    for found, own in zip(seed.maps, expected.maps, strict=True):
        np.testing.assert_allclose(found, own, rtol=2e-3, atol=1e-4)
    assert store.read("i07").size == 0  # without a class there is nothing to show


def test_what_cannot_be_is_named(model, tmp_path):
    with pytest.raises(ConfigError, match="unknown classes 'cams'"):
        MaskerParams(classes="cams")
    writer = StoreWriter(tmp_path / "maps.h5", stage="maps", class_names=CLASSES)
    with pytest.raises(ConfigError, match="has no masker; use one of method casm"):
        extract_masker_maps(model.net, Photos(2), MaskerParams(), writer)
    model.class_names = CLASSES[::-1]
    with pytest.raises(DataError, match="use a classifier trained on this dataset"):
        extract_masker_maps(model, Photos(2), MaskerParams(), writer)
