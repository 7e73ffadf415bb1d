"""Training on photos with erased pixels."""

import pickle

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from camflow.data.erased import ErasedCatalog, ErasedSamples, ErasedStore, erase, pack_regions
from camflow.errors import DataError, StoreError
from camflow.models.backbones import IMAGENET_MEAN, IMAGENET_STD
from camflow.store import StoreWriter
from camflow.train.augment import TrainTransform, normalize
from camflow.train.classify import LabelledSamples
from tests.localize.photos import CLASSES, Photos

MEAN, STD = IMAGENET_MEAN, IMAGENET_STD


class Square(Photos):
    """Photos of one size; ``fill`` is what lies under the erased pixels, when it is given."""

    def __init__(self, count, fill=None, ids=None):
        super().__init__(count, ids)
        self.fill = fill

    def size(self, image_id):
        return (48, 48)

    def image(self, image_id):
        photo = super().image(image_id)
        if self.fill is not None:
            photo[mask_of(image_id, photo.shape[:2]).any(axis=0)] = self.fill
        return photo


def mask_of(image_id, size, count=2):
    """Two overlapping boxes that differ from image to image; i00 has nothing erased."""
    masks = np.zeros((count, *size), bool)
    n = int(image_id[1:])
    if n:
        masks[0, 8 + n : 22 + n, 5:19] = True
        masks[1, 4:15, 12 : 26 + n] = True
    return masks


def store_of(path, catalog):
    with StoreWriter(path, stage="erased", class_names=CLASSES) as writer:
        for image_id in catalog.ids:
            packed, attrs = pack_regions(np.array([0, 2]), mask_of(image_id, catalog.size(image_id)))
            writer.write(image_id, packed, **attrs)
    return ErasedStore(path)


@pytest.fixture
def erased(tmp_path):
    return store_of(tmp_path / "erased.h5", Square(4))


def draw(samples, index, seed=0):
    return samples.sample(index, np.random.default_rng(seed))


def test_an_erased_photo_is_the_mean_there_and_itself_elsewhere(erased):
    catalog = Square(4)
    photo = ErasedCatalog(catalog, erased, MEAN).image("i02")
    gone = mask_of("i02", (48, 48)).any(axis=0)
    assert photo.dtype == np.uint8
    assert np.abs(photo[gone] - 255 * np.array(MEAN)).max() < 0.5
    np.testing.assert_array_equal(photo[~gone], catalog.image("i02")[~gone])
    np.testing.assert_array_equal(photo, erase(catalog.image("i02"), gone, MEAN))


def test_without_resizing_the_input_is_zero_there_and_unchanged_elsewhere(erased):
    transform = TrainTransform(MEAN, STD, crop=48, scale=None, hflip=0.0)
    samples = ErasedSamples(ErasedCatalog(Square(4), erased, MEAN), transform)
    for index, image_id in enumerate(samples.ids):
        found = draw(samples, index)
        gone = mask_of(image_id, (48, 48)).any(axis=0)
        expected = normalize(Square(4).image(image_id), MEAN, STD).transpose(2, 0, 1)
        assert found["image"].dtype == torch.float32
        assert (found["image"].numpy()[:, gone] == 0).all()
        np.testing.assert_array_equal(found["image"].numpy()[:, ~gone], expected[:, ~gone])
        np.testing.assert_array_equal(found["label"].numpy(), Square(4).label(image_id))


@pytest.mark.parametrize("augment", [{}, {"colour_jitter": {}}], ids=["plain", "jitter"])
@pytest.mark.parametrize("scale", [(40, 44), (70, 90), None], ids=["smaller", "larger", "square"])
def test_resized_mirrored_and_cropped(erased, scale, augment):
    """The mask follows the photo: zeros where it comes to lie, and away from it what the whole photo gives."""
    transform = TrainTransform(MEAN, STD, crop=56, scale=scale, hflip=0.5, augment=augment)
    samples = ErasedSamples(ErasedCatalog(Square(4), erased, MEAN), transform)
    whole = LabelledSamples(Square(4), transform)
    for seed in range(4):
        for index, image_id in enumerate(samples.ids[1:], 1):
            found, untouched = draw(samples, index, seed)["image"].numpy(), draw(whole, index, seed)["image"].numpy()
            mask = mask_of(image_id, (48, 48)).any(axis=0).astype(np.uint8)
            _, moved = transform(Square(4).image(image_id), np.random.default_rng(seed), mask)
            gone = moved == 1
            assert gone.any()
            assert (found[:, gone] == 0).all()
            if not augment:  # contrast changes with what is in a photo
                far = distance_transform_edt(~gone) > 6
                np.testing.assert_array_equal(found[:, far], untouched[:, far])


@pytest.mark.parametrize("scale", [(30, 90), None])
def test_nothing_of_what_is_erased_gets_through(erased, scale):
    transform = TrainTransform(MEAN, STD, crop=40, scale=scale, augment={"colour_jitter": {}})
    black, white = (ErasedSamples(ErasedCatalog(Square(4, fill), erased, MEAN), transform) for fill in (0, 255))
    for seed in range(4):
        assert torch.equal(draw(black, 3, seed)["image"], draw(white, 3, seed)["image"])
    assert not np.array_equal(black.catalog.catalog.image("i03"), white.catalog.catalog.image("i03"))


def test_without_erased_pixels_the_samples_are_the_plain_ones(erased):
    transform = TrainTransform(MEAN, STD, crop=40, scale=(30, 70), augment={"colour_jitter": {}, "hide_and_seek": {}})
    pair = ErasedSamples(ErasedCatalog(Square(4), erased, MEAN), transform), LabelledSamples(Square(4), transform)
    for seed in range(5):
        ours, plain = (draw(samples, 0, seed) for samples in pair)
        assert torch.equal(ours["image"], plain["image"])
        assert torch.equal(ours["label"], plain["label"])


def test_the_rest_of_the_catalog_is_its_own(erased):
    catalog = Square(4)
    ours = ErasedCatalog(catalog, erased, MEAN)
    assert (ours.ids, ours.class_names, ours.split) == (catalog.ids, CLASSES, "val")
    np.testing.assert_array_equal(ours.labels, catalog.labels)
    np.testing.assert_array_equal(ours.sizes, catalog.sizes)
    np.testing.assert_array_equal(ours.mask("i01"), catalog.mask("i01"))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = ours.nonsense
    again = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(again.image("i02"), ours.image("i02"))


def test_parts_of_a_catalog_stay_erased(tmp_path):
    catalog = Photos(6)
    ours = ErasedCatalog(catalog, store_of(tmp_path / "e.h5", catalog), MEAN)
    parts = [ours.shard(k, 2) for k in range(2)]
    assert sorted(i for part in parts for i in part.ids) == catalog.ids
    for part in parts:
        for image_id in part.ids:
            np.testing.assert_array_equal(part.image(image_id), ours.image(image_id))


def test_a_store_of_other_images_is_refused(tmp_path, erased):
    with pytest.raises(StoreError, match="'i05'"):
        ErasedCatalog(Square(6), erased, MEAN).image("i05")
    with pytest.raises(DataError, match=r"image 'i01'.*48x48 pixels, the photo has 33x47"):
        ErasedCatalog(Photos(4), erased, MEAN).image("i01")
