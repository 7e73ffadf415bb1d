"""Figures of erasing are drawn from its stores, the same bytes every time."""

import numpy as np
import pytest

from camflow.data.erased import ErasedStore, pack_regions
from camflow.plots import style
from camflow.plots.erasing import erasing_figure, region_labels
from camflow.store import StoreWriter
from tests.localize.photos import CLASSES, Photos

MEAN = (0.5, 0.25, 0.75)


class Masked(Photos):
    has_masks = True


class Bare(Photos):
    has_masks = False


@pytest.fixture
def rounds(tmp_path):
    """Round 1 finds the left edge of every class, round 2 also the top."""
    catalog, stores = Photos(6), []
    for number in (1, 2):
        with StoreWriter(tmp_path / f"{number}.h5", stage="erased", class_names=CLASSES) as writer:
            for image_id in catalog.ids:
                classes = np.flatnonzero(catalog.label(image_id))
                regions = np.zeros((len(classes), *catalog.size(image_id)), bool)
                regions[:, :, :5] = True
                regions[:, :7] |= number == 2
                packed, attrs = pack_regions(classes, regions)
                writer.write(image_id, packed, **attrs)
        stores.append(ErasedStore(tmp_path / f"{number}.h5"))
    return stores


def test_region_labels():
    regions = np.array([[[1, 1, 0, 0]], [[0, 1, 1, 0]]], bool)
    assert region_labels(regions, np.array([2, 5])).tolist() == [[3, 3, 6, 0]]
    assert region_labels(np.zeros((0, 1, 4), bool), np.array([], int)).tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize(("kind", "columns"), [(Masked, 5), (Bare, 4)])
def test_columns(rounds, kind, columns):
    figure = erasing_figure(kind(6), rounds, MEAN, count=3, title="x")
    assert len(figure.axes) == 3 * columns
    titles = [axis.get_title() for axis in figure.axes[:columns]]
    assert titles == ["photo", *(["truth"] if kind is Masked else []), "round 1", "round 2", "all rounds"]


def test_pictures_of_the_rounds(rounds):
    catalog = Bare(1, ids=["i01"])
    figure = erasing_figure(catalog, rounds, MEAN, count=1, title="x")
    photo, first, second, union = (np.asarray(axis.get_images()[0].get_array()) for axis in figure.axes)
    plain = catalog.image("i01")
    label = np.flatnonzero(catalog.label("i01"))[0] + 1
    left, top = np.zeros(plain.shape[:2], np.uint8), np.zeros(plain.shape[:2], np.uint8)
    left[:, :5] = label
    top[:7, 5:] = label
    np.testing.assert_array_equal(photo, plain)
    np.testing.assert_array_equal(first, style.overlay(plain, left))
    np.testing.assert_array_equal(second[:, 5:], style.overlay(plain, top)[:, 5:])
    assert (second[:, :5] == [128, 64, 191]).all()  # what round 1 found is erased
    np.testing.assert_array_equal(union, style.overlay(plain, np.maximum(left, top)))


def test_the_score_stands_over_its_round(rounds):
    figure = erasing_figure(Bare(6), rounds, MEAN, count=1, title="x", scores=[0.3, 0.4567])
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["photo", "round 1 (30.0 mIoU)", "round 2 (45.7 mIoU)", "all rounds"]


def test_the_same_bytes_twice(tmp_path, rounds):
    for name in ("a.png", "b.png"):
        style.save(erasing_figure(Masked(6), rounds, MEAN, count=2, title="x"), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
