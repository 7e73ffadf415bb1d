"""The transforms, piece by piece and as a recipe."""

import numpy as np
import pytest
from PIL import Image

from camflow.errors import ConfigError
from camflow.train.augment import (
    AUGMENTATIONS,
    TrainTransform,
    check_augmentations,
    colour_jitter,
    hide_and_seek,
    long_side_size,
    normalize,
    random_crop_pad,
    random_flip,
    random_long_side,
    random_scale,
    resize,
    to_chw,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def rng(seed=0):
    return np.random.default_rng(seed)


def photo(height=30, width=50, seed=0):
    return rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_resize_is_pillows():
    image = photo()
    expected = np.asarray(Image.fromarray(image).resize((20, 12), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resize(image, (12, 20)), expected)
    assert resize(image, (30, 50)) is image
    labels = np.arange(30 * 50, dtype=np.uint8).reshape(30, 50)
    assert set(np.unique(resize(labels, (7, 9), nearest=True))) <= set(np.unique(labels))


@pytest.mark.parametrize(
    ("size", "long", "expected"),
    [((375, 500), 320, (240, 320)), ((500, 333), 640, (640, 426)), ((1, 900), 100, (1, 100))],
)
def test_long_side_size(size, long, expected):
    assert long_side_size(size, long) == expected


def test_random_long_side_covers_its_bounds():
    sides = [random_long_side(photo(8, 6), None, (10, 13), rng(s))[0].shape[0] for s in range(60)]
    assert set(sides) == {10, 11, 12, 13}
    image, labels = random_long_side(photo(), np.zeros((30, 50), np.uint8), (20, 40), rng(3))
    assert image.shape[:2] == labels.shape


def test_random_scale_and_flip_move_labels_along():
    labels = (photo()[..., 0] > 128).astype(np.uint8)
    image, scaled = random_scale(photo(), labels, (0.5, 1.5), rng(1))
    assert image.shape[:2] == scaled.shape
    assert 0.5 <= scaled.shape[0] / 30 <= 1.5
    flips = [random_flip(photo(), labels, rng(s)) for s in range(40)]
    mirrored = [not np.array_equal(image, photo()) for image, _ in flips]
    assert 10 < sum(mirrored) < 30
    for (_, moved), was in zip(flips, mirrored, strict=True):
        np.testing.assert_array_equal(moved, labels[:, ::-1] if was else labels)
    assert random_flip(photo(), None, rng(), p=0.0)[1] is None


def test_crop_cuts_a_window_from_a_large_image():
    image = np.arange(10 * 12 * 1, dtype=np.float32).reshape(10, 12, 1) + 1
    corners = set()
    for seed in range(200):
        crop, labels = random_crop_pad(image, image[..., 0].astype(np.uint8), 8, rng(seed))
        top, left = divmod(int(crop[0, 0, 0]) - 1, 12)
        np.testing.assert_array_equal(crop, image[top : top + 8, left : left + 8])
        np.testing.assert_array_equal(labels, crop[..., 0].astype(np.uint8))
        corners.add((top, left))
    assert corners == {(t, l) for t in range(3) for l in range(5)}


def test_crop_pads_a_small_image_with_zero_and_ignore():
    image = np.ones((2, 9, 3), np.float32)
    tops = set()
    for seed in range(40):
        crop, labels = random_crop_pad(image, np.full((2, 9), 4, np.uint8), 5, rng(seed))
        inside = crop[..., 0] == 1
        assert inside.sum() == 2 * 5
        np.testing.assert_array_equal(labels, np.where(inside, 4, 255))
        tops.add(int(inside.any(axis=1).argmax()))
    assert tops == {0, 1, 2, 3}


def test_normalize_in_double_and_layout():
    image = photo()
    expected = ((image.astype(np.float64) / 255 - np.array(MEAN)) / np.array(STD)).astype(np.float32)
    np.testing.assert_array_equal(normalize(image, MEAN, STD), expected)
    chw = to_chw(expected)
    assert chw.shape == (3, 30, 50)
    assert chw.flags["C_CONTIGUOUS"]


def test_hide_and_seek_hides_whole_cells():
    image = np.ones((50, 70, 3), np.float32)
    hidden = 1 - hide_and_seek(image, rng(2), sizes=(16,), p=0.5)[..., 0]
    for top in range(0, 50, 16):
        for left in range(0, 70, 16):
            assert len(np.unique(hidden[top : top + 16, left : left + 16])) == 1
    assert 0 < hidden.mean() < 1
    assert hide_and_seek(image, rng(), sizes=(0,)) is image
    assert hide_and_seek(image, rng(), sizes=(44,), p=1.0).max() == 0
    assert hide_and_seek(image, rng()).dtype == np.float32
    drawn = {hide_and_seek(image, rng(s), p=1.0).max() for s in range(40)}
    assert drawn == {0.0, 1.0}  # size 0 leaves the image whole


def test_colour_jitter():
    image = photo()
    nothing = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    grey = np.repeat(image[..., :1], 3, axis=2)  # grey survives the way to HSV and back unrounded
    np.testing.assert_array_equal(colour_jitter(grey, rng(), **nothing), grey)
    jittered = colour_jitter(image, rng(1))
    assert jittered.dtype == np.uint8
    assert jittered.shape == image.shape
    assert not np.array_equal(jittered, image)
    red = np.zeros((2, 2, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    turned = [colour_jitter(red, rng(s), **{**nothing, "hue": 0.5})[0, 0] for s in range(30)]
    assert any(c[1] > 200 for c in turned)
    assert any(c[2] > 200 for c in turned)


def test_recipe_is_a_function_of_its_generator():
    transform = TrainTransform(MEAN, STD, 32, (20, 40), augment={"hide_and_seek": {"sizes": [8]}, "colour_jitter": {}})
    labels = (photo()[..., 0] > 128).astype(np.uint8)
    a, la = transform(photo(), rng(5), labels)
    b, lb = transform(photo(), rng(5), labels)
    assert a.shape == (3, 32, 32)
    assert a.dtype == np.float32
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(la, lb)
    assert not np.array_equal(a, transform(photo(), rng(6))[0])


def test_plain_resize_without_scale():
    transform = TrainTransform(MEAN, STD, 24, None, hflip=0.0)
    image, labels = transform(photo(), rng())
    np.testing.assert_array_equal(image, to_chw(normalize(resize(photo(), (24, 24)), MEAN, STD)))
    assert labels is None


def test_registry():
    assert {place for place, _ in AUGMENTATIONS.values()} == {"photo", "input"}
    check_augmentations({"hide_and_seek": {}})
    with pytest.raises(ConfigError, match="did you mean 'hide_and_seek'"):
        check_augmentations({"hide_n_seek": {}})
