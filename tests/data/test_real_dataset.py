"""A subset of PASCAL VOC on disk, read through every source of labels; skipped where it is not available."""

import json

import numpy as np
import pytest
from handmade import REAL
from PIL import Image

from camflow.data.catalog import Catalog
from camflow.data.check import check_dataset, write_catalog
from camflow.data.readers.base import make_reader

pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real photos are not at {REAL}")
CLASSES = ["cat", "cow", "dog", "horse", "sheep", "person"]
VOC_IDS = {"cat": 8, "cow": 10, "dog": 12, "horse": 13, "sheep": 17, "person": 15}


def reader(**more):
    return make_reader({"format": "voc", "root": str(REAL), "classes": CLASSES, **more}, "real")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    result = check_dataset(reader(boxes="animal_boxes_xyxy.json"), "val", progress=False, jobs=2)
    assert result.problems == []
    path = tmp_path_factory.mktemp("real") / "val.h5"
    write_catalog(result, path)
    return Catalog(path)


def test_both_splits_are_clean():
    result = check_dataset(reader(), "train", progress=False, jobs=2)
    assert len(result.ids) == 300
    assert result.problems == []


def test_masks_and_photos_against_pillow(catalog):
    assert len(catalog) == 120
    for image_id in catalog.ids[::12]:
        with Image.open(REAL / f"JPEGImages/{image_id}.jpg") as photo:
            np.testing.assert_array_equal(catalog.image(image_id), np.asarray(photo.convert("RGB")))
        official = np.asarray(Image.open(REAL / f"SegmentationClass/{image_id}.png"))
        expected = np.full_like(official, 255)
        expected[official == 0] = 0
        for index, name in enumerate(CLASSES, start=1):
            expected[official == VOC_IDS[name]] = index
        np.testing.assert_array_equal(catalog.mask(image_id), expected)


@pytest.mark.parametrize("labels", ["masks", "image_labels.json"])
def test_labels_against_the_table(labels):
    table = json.loads((REAL / "image_labels.json").read_text())
    source = reader(labels=labels)
    for image_id in source.ids("val")[::5]:
        expected = [int(name in table[image_id]) for name in CLASSES]
        assert source.record(image_id, "val").labels.tolist() == expected


def test_boxes_cover_their_class(catalog):
    """Official masks and boxes agree: a box holds pixels of its class."""
    table = json.loads((REAL / "animal_boxes_xyxy.json").read_text())
    for image_id in catalog.ids:
        boxes, mask = catalog.boxes(image_id), catalog.mask(image_id)
        assert [[CLASSES[b[0]], *b[1:].tolist()] for b in boxes] == table[image_id]
        for index, x1, y1, x2, y2 in boxes:
            assert (mask[y1:y2, x1:x2] == index + 1).any()
