"""Maps of photos from Python equal what the drivers of the workflow store."""

import numpy as np
import pytest
import torch

from camflow.errors import DataError
from camflow.localize.advcam import AdvCamParams, extract_advcams
from camflow.localize.cam import CamParams, extract_cams
from camflow.localize.lpcam import LpcamParams, class_vectors, extract_lpcams
from camflow.localize.maps import full_size_maps, read_seed
from camflow.localize.photo import advcam_maps, cam_maps, lpcam_maps, lpcam_prototypes
from camflow.localize.prototypes import PrototypeParams, cluster_class
from camflow.models.classifier import build_classifier
from camflow.store import Store, StoreWriter

NAMES = ["a", "b", "c"]
RNG = np.random.default_rng(0)
PHOTOS = {
    f"{n:06d}": RNG.integers(0, 256, (*size, 3), np.uint8) for n, size in enumerate([(40, 56), (33, 20), (48, 48)])
}
CLASSES = [0, 2]
ONE = (1.0,)


class Images:
    class_names, ids = NAMES, list(PHOTOS)
    sizes = np.array([photo.shape[:2] for photo in PHOTOS.values()], np.int32)

    def label(self, image_id):
        return np.isin(np.arange(3), CLASSES).astype(np.uint8)

    def image(self, image_id):
        return PHOTOS[image_id]


@pytest.fixture(scope="module")
def model():
    model = build_classifier("tiny", 3, width=8).eval()
    model.class_names = NAMES
    return model


def stored(path, extract, model, params, *more):
    with StoreWriter(path, stage="maps", class_names=NAMES) as writer:
        extract(model, Images(), params, writer, *more)
    store = Store(path)
    return {image_id: full_size_maps(read_seed(store, image_id)) for image_id in store.ids}


@pytest.mark.parametrize(
    ("maps", "extract", "params"),
    [
        (cam_maps, extract_cams, CamParams(scales=(0.5, 1.0))),
        (cam_maps, extract_cams, CamParams(scales=ONE, flip=False, long_side=64)),
        (advcam_maps, extract_advcams, AdvCamParams(scales=ONE, steps=3)),
    ],
)
def test_a_photo_gets_what_a_catalog_gives_it(tmp_path, model, maps, extract, params):
    for image_id, wanted in stored(tmp_path / "maps.h5", extract, model, params).items():
        found = maps(model, PHOTOS[image_id], CLASSES, params)
        assert found.shape == wanted.shape and np.abs(found - wanted).max() < 5e-4  # the store keeps float16
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_prototypes_and_their_maps(tmp_path, model):
    clustering, params = PrototypeParams(clusters=3, tau=0.3), LpcamParams(scales=ONE, mu_f=0.1)
    with StoreWriter(tmp_path / "cams.h5", stage="maps", class_names=NAMES) as writer:
        extract_cams(model, Images(), CamParams(), writer)
    masks = Store(tmp_path / "cams.h5")
    wanted = {index: cluster_class(model, Images(), masks, index, clustering) for index in CLASSES}
    found = {index: lpcam_prototypes(model, list(PHOTOS.values()), index, clustering) for index in CLASSES}
    for index in CLASSES:
        assert np.array_equal(found[index].foreground.centres, wanted[index].foreground.centres)
        assert np.array_equal(found[index].context.score, wanted[index].context.score)
    vectors = torch.zeros(3, model.head.weight.shape[1])
    vectors[CLASSES] = class_vectors(wanted.values(), params)
    for image_id, maps in stored(tmp_path / "maps.h5", extract_lpcams, model, params, vectors).items():
        assert np.abs(lpcam_maps(model, PHOTOS[image_id], found, params) - maps).max() < 5e-4


def test_classes_come_sorted_and_photos_may_be_of_any_size(model):
    photo = PHOTOS["000000"]
    assert np.array_equal(cam_maps(model, photo, [2, 0, 2]), cam_maps(model, photo, [0, 2]))
    assert cam_maps(model, photo, []).shape == (0, 40, 56)
    for size in ((1, 1), (3, 90)):
        assert cam_maps(model, photo[:1, :1].repeat(size[0], 0).repeat(size[1], 1), [1]).shape == (1, *size)


def test_refusals(model):
    with pytest.raises(DataError, match=r"no class 3; the classifier has 3"):
        cam_maps(model, PHOTOS["000000"], [3])
    with pytest.raises(DataError, match=r"uint8 RGB .H, W, 3., not float32 .3, 4, 5."):
        cam_maps(model, np.zeros((3, 4, 5), np.float32), [0])
