"""The figure of masked photos shows what the networks are shown, in grey, the same bytes every time."""

import numpy as np
import pytest

from camflow.errors import DataError
from camflow.evaluate.masked_accuracy import MaskedParams
from camflow.evaluate.saliency import binarise, class_agnostic_mask, crop_photo
from camflow.localize.maps import read_seed
from camflow.plots import style
from camflow.plots.masked_images import masked_figure
from tests.localize.photos import Photos

PARAMS = MaskedParams(frame=24, resize=28, normalise="max")


@pytest.fixture
def catalog():
    return Photos(6)


def test_pictures(catalog, maps):
    figure = masked_figure(catalog, maps, PARAMS, count=2, title="x")
    assert len(figure.axes) == 2 * 5
    titles = [axis.get_title() for axis in figure.axes[:5]]
    assert titles == ["photo", "mask", "masked-in", "masked-out", "inpainted"]
    for line in range(2):
        axes = figure.axes[5 * line : 5 * line + 5]
        image_id = axes[0].get_ylabel()
        photo, mask, inside, outside, inpainted = (np.asarray(axis.get_images()[0].get_array()) for axis in axes)
        wanted = class_agnostic_mask(read_seed(maps, image_id), PARAMS)
        binary = binarise(wanted[None], frame=24)[0]
        np.testing.assert_array_equal(photo, crop_photo(catalog.image(image_id), PARAMS))
        assert abs(mask / 255 - wanted[..., None]).max() <= 0.5 / 255 + 1e-6
        assert (inside[~binary] == 89).all() and (outside[binary] == 89).all()
        np.testing.assert_array_equal(inside[binary], photo[binary])
        for picture in (outside, inpainted):
            np.testing.assert_array_equal(picture[~binary], photo[~binary])
        assert (inpainted[binary] != 89).any()


def test_images_without_a_class_are_not_shown(catalog, maps):
    figure = masked_figure(catalog, maps, PARAMS, count=6, title="x")
    assert [axis.get_ylabel() for axis in figure.axes[::5]] == ["i01", "i02", "i03", "i04", "i05"]
    with pytest.raises(DataError, match="has a class"):
        masked_figure(Photos(0, ["i07"]), maps, PARAMS, count=1, title="x")


def test_the_same_bytes_twice(tmp_path, catalog, maps):
    for name in ("a.png", "b.png"):
        style.save(masked_figure(catalog, maps, PARAMS, count=2, title="x"), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
