"""The map of features: who is on it, and where the climbs start and lead."""

import dataclasses

import numpy as np
import pytest
import torch

from camflow.data.sample import sample
from camflow.errors import ConfigError, DataError
from camflow.localize.advcam import AdvCamParams, Pairs, climb
from camflow.localize.extract import normalisation_table, to_views
from camflow.models.classifier import build_classifier
from camflow.studies import tsne
from camflow.studies.tsne import tsne_study
from tests.localize.conftest import one_thread  # noqa: F401  (a fixture for what is computed here)

NAMES = ["ant", "bee", "cow"]
COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]])
OWN = AdvCamParams(scales=(0.5, 1.5), step_size=0.3)
# n: (classes in the label, colour of the photo); i08 shows an ant and looks like a bee.
LABELS = [(0,), (0,), (0,), (1,), (1,), (1,), (1,), (2,), (0,), (0, 1), (), (2,), (0,)]
LOOKS = [0, 0, 0, 1, 1, 1, 1, 2, 1, 0, 2, 2, 0]


class Coloured:
    """Noisy photos of one colour, some of them with two classes, none, or the wrong one."""

    class_names, split, dataset = NAMES, "val", "toy"

    def __init__(self, keep=lambda n: True):
        self.ids = [f"i{n:02d}" for n in range(len(LABELS)) if keep(n)]
        self.sizes = np.array([(24, 32)] * len(self.ids))

    def label(self, image_id):
        label = np.zeros(3, np.uint8)
        label[list(LABELS[int(image_id[1:])])] = 1
        return label

    def image(self, image_id):
        n = int(image_id[1:])
        noise = np.random.default_rng(n).integers(-30, 30, (24, 32, 3))
        return (COLOURS[LOOKS[n]] + noise).astype(np.uint8)


def feature(model, image_id):
    lut = normalisation_table(model.mean, model.std)
    with torch.no_grad():
        x = to_views(torch.from_numpy(Coloured().image(image_id))[None], lut, False)[:, 0]
        return model.features(x).mean(dim=(2, 3))[0]


@pytest.fixture(scope="module")
def model():
    """A random trunk with a head that tells the colours apart."""
    net = build_classifier("tiny", 3, width=4, seed=2).eval()
    features = torch.stack([feature(net, i) for i in Coloured().ids])
    wanted = 4 * torch.eye(3)[LOOKS] - 2
    with torch.no_grad():
        net.head.weight[:] = torch.linalg.lstsq(features, wanted, driver="gelsd").solution.T[:, :, None, None]
        logits = features @ net.head.weight[:, :, 0, 0].T
    assert ((logits > 0) == (wanted > 0)).all()
    return net


class Flat:
    """In place of t-SNE: the first two channels; remembers what it was given."""

    given: np.ndarray

    def __init__(self, **options):
        Flat.options = options

    def fit_transform(self, values):
        Flat.given = values
        return values[:, :2]


@pytest.fixture
def flat(monkeypatch):
    monkeypatch.setattr(tsne, "TSNE", Flat)
    return Flat


def study(model, catalog=None, **changes):
    options = {"classes": None, "images": 150, "steps": 3, "perplexity": 30, "seed": 0, **changes}
    return tsne_study(model, catalog or Coloured(), OWN, **options)


def test_images_of_one_class_alone_that_are_taken_for_it(model, flat):
    table = study(model)
    photos = table[table["step"] == 0]
    assert dict(zip(photos["image"], photos["class"], strict=True)) == {
        **dict.fromkeys(["i00", "i01", "i02", "i12"], "ant"),
        **dict.fromkeys(["i03", "i04", "i05", "i06"], "bee"),
    }
    assert list(table.columns) == ["image", "class", "step", "x", "y"]
    named = study(model, classes=["cow", "ant"])
    assert set(named["class"]) == {"ant", "cow"}
    assert set(named["image"]) == {"i00", "i01", "i02", "i12", "i07", "i11"}


def test_points_are_the_pooled_features(model, flat):
    table = study(model)
    for position, row in table.iterrows():
        if row["step"] == 0:
            np.testing.assert_allclose(flat.given[position], feature(model, row["image"]), rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal([row["x"], row["y"]], flat.given[position, :2])
    assert flat.options["perplexity"] == pytest.approx((len(table) - 1) / 3)
    study(model, perplexity=2, seed=9)
    assert (flat.options["perplexity"], flat.options["random_state"]) == (2, 9)


def test_one_image_of_each_class_climbs_from_where_it_is(model, flat):
    table = study(model)
    climbed = table[table["step"] > 0]
    assert climbed.groupby("class")["image"].unique().map(list).to_dict() == {"ant": ["i00"], "bee": ["i03"]}
    lut = normalisation_table(model.mean, model.std)
    for image_id, c in (("i00", 0), ("i03", 1)):
        path = table[table["image"] == image_id].sort_values("step")
        assert path["step"].tolist() == [0, 1, 2, 3]
        views = to_views(torch.from_numpy(Coloured().image(image_id))[None], lut, True)
        params = dataclasses.replace(OWN, scales=(1.0,))
        states = climb(model, views, Pairs.of([[c]], [params], views), params, 4)
        found = flat.given[path.index]
        for position, state in enumerate(states):
            with torch.no_grad():
                expected = model.features(state.images[0, :1]).mean(dim=(2, 3))[0]
            np.testing.assert_allclose(found[position], expected, rtol=2e-3, atol=2e-3)
        assert abs(found[-1] - found[0]).max() > 0.05  # it did move


def test_at_most_so_many_images_of_a_class(model, flat):
    photos = study(model, images=3, classes=["ant", "bee"]).query("step == 0")
    ants = sample(["i00", "i01", "i02", "i08", "i12"], 3)  # drawn before the network is asked
    assert photos[photos["class"] == "ant"]["image"].tolist() == [i for i in ants if i != "i08"]
    assert photos[photos["class"] == "bee"]["image"].tolist() == sample(["i03", "i04", "i05", "i06"], 3)


def test_a_real_map_is_the_same_every_time(model):
    one, same = (study(model, workers=n, seed=1).to_csv() for n in (1, 3))
    assert one == same
    other = study(model, seed=1, steps=4)
    assert np.isfinite(other[["x", "y"]]).all(axis=None)
    assert len(other) == 8 + 2 * 4


def test_a_class_that_does_not_exist(model):
    with pytest.raises(ConfigError, match=r"studies\.tsne\.classes: there is no 'bees'; did you mean 'bee'\?"):
        study(model, classes=["ant", "bees"])


def test_too_few_images(model):
    with pytest.raises(DataError, match=r"'val' of 'toy' has too few .*1 of ant, 2 of bee"):
        study(model, Coloured(lambda n: n in (0, 3, 4, 8, 9)))
    with pytest.raises(DataError, match=r"5 of ant, 0 of bee|4 of ant, 0 of bee"):  # none is taken for a bee
        study(model, Coloured(lambda n: n not in (3, 4, 5, 6)), classes=["ant", "bee"])
    with pytest.raises(DataError, match="too few"):
        study(model, Coloured(lambda n: n == 10))
