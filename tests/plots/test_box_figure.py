"""The figure of boxes: what is drawn is what the curves hold, at the pixels that half-open boxes cover."""

import numpy as np
import pytest
from scipy import ndimage

from camflow.errors import ConfigError
from camflow.evaluate.localization import CurveParams, box_curves_of
from camflow.localize.maps import full_size_maps, read_seed
from camflow.plots import style
from camflow.plots.boxes import HITS, MISSES, TRUE, box_figure, with_boxes
from camflow.store import Store, StoreWriter
from tests.localize.photos import CLASSES, Photos


class Boxed(Photos):
    """A box of each present class, but for image 2."""

    def boxes(self, image_id):
        if image_id == "i02":
            return np.zeros((0, 5), np.int32)
        (height, width), present = self.size(image_id), np.flatnonzero(self.label(image_id))
        rows = [(k, 1 + n, 2, width - 3, height - 1 - n) for n, k in enumerate(present)]
        return np.array(rows, np.int32).reshape(-1, 5)


@pytest.fixture
def catalog():
    return Boxed(6)


def curves_of(path, catalog, maps, **params):
    with StoreWriter(path, stage="box_curves", class_names=CLASSES) as writer:
        box_curves_of(catalog, maps, writer, CurveParams(size=32, **params))
    return Store(path, stage="box_curves")


def outline(shape, box):
    """Pixels of the one pixel wide outline of a half-open box, what erosion takes."""
    x1, y1, x2, y2 = box
    inside = np.zeros(shape, bool)
    inside[y1:y2, x1:x2] = True
    return inside & ~ndimage.binary_erosion(inside, np.ones((3, 3)))


def test_an_outline_covers_the_outermost_pixels_of_a_half_open_box():
    picture = np.full((20, 30, 3), 7, np.uint8)
    box = np.array([4, 3, 21, 17])
    found = with_boxes(picture, [(box, (200, 0, 0))])
    drawn = (found == (200, 0, 0)).all(axis=-1)
    np.testing.assert_array_equal(drawn, outline((20, 30), box))
    assert (found[~drawn] == 7).all() and (picture == 7).all()  # the picture itself is left as it was


@pytest.mark.parametrize("box", [(0, 0, 0, 0), (5, 5, 5, 9), (5, 5, 9, 5)], ids=["zeros", "no width", "no height"])
def test_an_empty_box_is_not_drawn(box):
    picture = np.full((20, 30, 3), 7, np.uint8)
    np.testing.assert_array_equal(with_boxes(picture, [(np.array(box), (200, 0, 0))]), picture)


def test_a_box_of_the_whole_picture_and_of_one_column():
    picture = np.zeros((20, 30, 3), np.uint8)
    for box in ((0, 0, 30, 20), (4, 5, 5, 9)):
        drawn = with_boxes(picture, [(np.array(box), (9, 9, 9))]).any(axis=-1)
        np.testing.assert_array_equal(drawn, outline((20, 30), box))


def test_rows_show_true_boxes_and_boxes_of_the_maps(tmp_path, catalog, maps):
    curves = curves_of(tmp_path / "curves.h5", catalog, maps, fractions=(0.3, 0.2))
    figure = box_figure(catalog, maps, curves, count=5, title="x")
    assert [axis.get_title() for axis in figure.axes[:2]] == ["true boxes", "boxes at 0.3 of the maximum"]
    shown = 0
    for line in range(5):
        left, right = figure.axes[2 * line : 2 * line + 2]
        image_id = left.get_ylabel()
        photo, attrs = catalog.image(image_id), curves.attrs(image_id)
        truth = photo.copy()
        for box in catalog.boxes(image_id)[:, 1:]:
            truth[outline(photo.shape[:2], box)] = TRUE
        np.testing.assert_array_equal(np.asarray(left.get_images()[0].get_array()), truth)
        wanted = style.heat(photo, full_size_maps(read_seed(maps, image_id)).max(axis=0))
        for box, iou in zip(attrs["cam_boxes"][0], attrs["cam_ious"][0], strict=True):
            wanted[outline(photo.shape[:2], box)] = HITS if iou > 0.5 else MISSES
            shown += 1
        np.testing.assert_array_equal(np.asarray(right.get_images()[0].get_array()), wanted)
    assert shown


def test_hits_and_misses_have_their_colours(tmp_path, catalog, maps):
    """The boxes of the maps as truth hit; the same moved into a corner miss."""
    first = curves_of(tmp_path / "a.h5", catalog, maps, fractions=(0.2,))
    image_id = next(i for i in ("i01", "i03", "i04", "i05") if len(first.read(i)))
    found = first.attrs(image_id)

    class Told(Boxed):
        offset = 0

        def boxes(self, asked):
            if asked != image_id:
                return np.zeros((0, 5), np.int32)
            boxes = found["cam_boxes"][0] if not self.offset else np.full((len(found["classes"]), 4), [0, 0, 1, 1])
            return np.concatenate([found["classes"][:, None], boxes], axis=1).astype(np.int32)

    for offset, colour, other in ((0, HITS, MISSES), (1, MISSES, HITS)):
        told = Told(0, [image_id])
        told.offset = offset
        curves = curves_of(tmp_path / f"{offset}.h5", told, maps, fractions=(0.2,))
        figure = box_figure(told, maps, curves, count=1, title="x")
        picture = np.asarray(figure.axes[1].get_images()[0].get_array())
        assert (picture == colour).all(axis=-1).any() and not (picture == other).all(axis=-1).any()


def test_without_a_fraction_there_is_nothing_to_draw(tmp_path, catalog, maps):
    with StoreWriter(tmp_path / "curves.h5", stage="box_curves", class_names=CLASSES) as writer:
        writer.meta["curves"] = {"fractions": []}
    curves = Store(tmp_path / "curves.h5", stage="box_curves")
    with pytest.raises(ConfigError, match=r"localization\.curves\.fractions: give at least one"):
        box_figure(catalog, maps, curves, count=2, title="x")


def test_the_same_bytes_twice(tmp_path, catalog, maps):
    curves = curves_of(tmp_path / "curves.h5", catalog, maps)
    for name in ("a.png", "b.png"):
        style.save(box_figure(catalog, maps, curves, count=2, title="x"), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
