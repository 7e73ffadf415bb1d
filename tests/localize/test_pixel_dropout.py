"""A localizer whose photos have pixels dropped, from the parameter of its config to the photos that it sees."""

from types import SimpleNamespace

import numpy as np
import pytest

from camflow.localize import files
from camflow.localize.cam import CamParams
from camflow.store import Store
from tests.localize.photos import Photos

MEAN = (0.4, 0.5, 0.25)


@pytest.fixture
def seen(tmp_path, monkeypatch):
    """The photos that a localizer is given under some parameters, by image."""

    def run(name, **parameters):
        monkeypatch.setattr(files, "task_images", lambda task: Photos(3))
        monkeypatch.setattr(files, "load_classifier", lambda path, device: SimpleNamespace(mean=MEAN))
        path = tmp_path / name
        task = SimpleNamespace(
            input=SimpleNamespace(catalog="", classifier=""), output=SimpleNamespace(maps=path), target="maps",
            parameters=parameters, runtime={"compression": "gzip", "batch_size": 1, "workers": 0}, shard=None,
            device="cpu", threads=1, meta=lambda **more: more,
        )  # fmt: skip

        def extract(model, catalog, params, writer, **options):
            for image_id in catalog.ids:
                writer.write(image_id, catalog.image(image_id))

        files.localize_files(task, extract, CamParams())
        store = Store(path, stage="maps")
        return {image_id: store.read(image_id) for image_id in store.ids}

    return run


def test_a_share_of_the_pixels_has_the_mean_colour_of_the_network(seen):
    photos = seen("dropped.h5", pixel_dropout=0.3)
    changed = total = 0
    for image_id, photo in photos.items():
        plain = Photos(3).image(image_id)
        dropped = (photo != plain).any(axis=-1)
        assert (photo[dropped] == np.rint(255 * np.array(MEAN))).all()
        changed, total = changed + dropped.sum(), total + dropped.size
    # Pixels that have the mean colour anyway are too few to count: 5 standard deviations of a binomial count.
    assert abs(changed / total - 0.3) < 5 * np.sqrt(0.3 * 0.7 / total)
    again = seen("again.h5", pixel_dropout=0.3)
    assert all(np.array_equal(photo, again[image_id]) for image_id, photo in photos.items())


@pytest.mark.parametrize("parameters", [{}, {"pixel_dropout": None}, {"pixel_dropout": 0}], ids=str)
def test_without_it_photos_are_whole(seen, parameters):
    for image_id, photo in seen("whole.h5", **parameters).items():
        np.testing.assert_array_equal(photo, Photos(3).image(image_id))
