"""AMN's maps: a photo by hand, both grids, repeatable dropout, and what stops it."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from camflow.errors import ConfigError, DataError, StoreError
from camflow.localize.amn import AmnMapParams, extract_amn_maps
from camflow.localize.ensemble import EnsembleParams, ensemble_seed
from camflow.localize.maps import full_size_maps, read_seed, stride4_maps
from camflow.models.amn import build_amn
from camflow.models.classifier import build_classifier
from camflow.store import Store, StoreWriter
from tests.localize.photos import CLASSES, Photos


@pytest.fixture
def model():
    made = build_amn("tiny", len(CLASSES), width=4, rates=(1, 2), freeze_bn=False, seed=2).eval()
    with torch.no_grad():  # fresh weights are so small that every softmax is flat
        for parameter in made.aspp.parameters():
            parameter.mul_(200)
    return made


@pytest.fixture
def labels(tmp_path):
    """Confident labels of the photos: a third background, a third ignored, a third a class, in stripes of rows."""
    catalog = Photos(5)
    with StoreWriter(tmp_path / "labels.h5", stage="masks") as writer:
        for image_id in catalog.ids:
            height, width = catalog.size(image_id)
            rows = np.repeat(np.array([0, 255, 3], np.uint8), [9, 9, height - 18])
            writer.write(image_id, np.repeat(rows[:, None], width, axis=1))
    return Store(tmp_path / "labels.h5", stage="masks")


def made(tmp_path, model, labels, name="maps", catalog=None, **params):
    catalog = catalog or Photos(5)
    with StoreWriter(tmp_path / f"{name}.h5", stage="maps", class_names=CLASSES) as writer:
        extract_amn_maps(model, catalog, AmnMapParams(**params), writer, labels)
    return Store(tmp_path / f"{name}.h5", stage="maps")


def by_hand(model, photo, present, label, scales, size):
    """Planes of the classes at a size, (K, *size)."""
    total = 0
    y = torch.from_numpy(np.isin(np.arange(len(CLASSES)), present).astype(np.float32))[None]
    for scale in scales:
        shape = tuple(round(n * scale) for n in photo.shape[1::-1])
        small = np.asarray(Image.fromarray(photo).resize(shape, Image.Resampling.BICUBIC)) if scale != 1 else photo
        x = torch.from_numpy(((small / 255 - model.mean) / model.std).transpose(2, 0, 1)[None].astype(np.float32))
        with torch.no_grad():
            logits = (model(x, y) + model(x.flip(-1), y).flip(-1)) / 2
        total = total + functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)[0]
    shares = np.exp((total / len(scales)).double().numpy())
    shares = (shares / shares.sum(0))[1:][present]
    rows = [int((i + 0.5) * label.shape[0] / size[0]) for i in range(size[0])]
    columns = [int((i + 0.5) * label.shape[1] / size[1]) for i in range(size[1])]
    sure = label[np.ix_(rows, columns)]
    for plane in shares:
        spread = (plane - plane.min()) / (plane.max() - plane.min() + 1e-5)
        plane[sure != 0] = spread[sure != 0]
    return shares


@pytest.mark.parametrize("image_id", ["i01", "i02", "i03"])
def test_a_photo_by_hand_on_both_grids(tmp_path, model, labels, image_id):
    catalog, scales = Photos(5), (1.0, 0.5, 1.5)
    present, size = np.flatnonzero(catalog.label(image_id)), catalog.size(image_id)
    args = (model, catalog.image(image_id), present, labels.read(image_id), scales)
    full = read_seed(made(tmp_path, model, labels, "full", scales=scales), image_id)
    quarter = read_seed(made(tmp_path, model, labels, "quarter", scales=scales, grid="stride4"), image_id)
    assert np.array_equal(full.classes, present) and full.absolute and quarter.absolute
    near = {"rtol": 0, "atol": 1e-3}  # float16, and sums in another order
    np.testing.assert_allclose(full_size_maps(full), by_hand(*args, size), **near)
    small = tuple((n - 1) // 4 + 1 for n in size)
    np.testing.assert_allclose(stride4_maps(quarter), by_hand(*args, small), **near)
    assert full_size_maps(quarter).shape == full_size_maps(full).shape
    assert full_size_maps(full)[:, :9].max() < 0.999  # background stays below: read as it is, not up to its maximum


def test_an_ensemble_reads_the_unit_of_the_maps(tmp_path, model, labels):
    seed = read_seed(made(tmp_path, model, labels, scales=(1.0,)), "i03")
    both = ensemble_seed([seed, seed], EnsembleParams())
    np.testing.assert_allclose(both.maps[0], seed.maps[0], rtol=0, atol=1e-6)


def test_dropout_at_test_depends_on_seed_and_image_alone(tmp_path, model, labels):
    plain = made(tmp_path, model, labels, "plain", scales=(1.0,))
    stores = {
        name: made(tmp_path, model, labels, name, scales=(1.0,), dropout_at_test=True, seed=seed)
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    }
    alone = made(tmp_path, model, labels, "alone", Photos(0, ["i03"]), scales=(1.0,), dropout_at_test=True)
    first = stores["first"].read("i03")
    assert np.array_equal(first, stores["again"].read("i03")) and np.array_equal(first, alone.read("i03"))
    assert not np.array_equal(first, stores["other"].read("i03"))
    assert not np.array_equal(first, plain.read("i03"))
    # Each map is another draw around the one without dropout.
    dropped = {"catalog": Photos(0, ["i03"]), "scales": (1.0,), "dropout_at_test": True}
    seeds = [read_seed(made(tmp_path, model, labels, "draw", **dropped, seed=s), "i03") for s in range(12)]
    draws, wanted = [full_size_maps(seed) for seed in seeds], full_size_maps(read_seed(plain, "i03"))
    one, mean = np.abs(draws[0] - wanted).mean(), np.abs(np.mean(draws, axis=0) - wanted).mean()
    assert 0 < mean < one


def test_an_image_without_classes_has_no_map(tmp_path, model, labels):
    seed = read_seed(made(tmp_path, model, labels, scales=(1.0,)), "i00")
    assert not len(seed.classes) and full_size_maps(seed).shape == (0, *Photos(1).size("i00"))


def test_what_stops_it(tmp_path, model, labels):
    with StoreWriter(tmp_path / "wrong.h5", stage="masks") as writer:
        for image_id in Photos(5).ids:
            writer.write(image_id, np.zeros((7, 9), np.uint8))
    with pytest.raises(
        DataError, match=r"image 'i0\d' is .* pixels, its confident label is for \(7, 9\); make the labels"
    ):
        made(tmp_path, model, Store(tmp_path / "wrong.h5", stage="masks"))
    with pytest.raises(StoreError, match="i05"):
        made(tmp_path, model, labels, catalog=Photos(6))
    with pytest.raises(ConfigError, match="amn: this classifier is none of AMN"):
        made(tmp_path, build_classifier("tiny", len(CLASSES), width=4), labels)
    with pytest.raises(ConfigError, match="amn: unknown grid 'stride8'; did you mean 'stride4'"):
        AmnMapParams(grid="stride8")
