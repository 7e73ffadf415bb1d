"""Hiding of cells, of pixels and in layers."""

import pickle

import numpy as np
import pytest
import torch

from camflow.data.dropped import PixelDropout
from camflow.data.erased import mean_pixel
from camflow.errors import ConfigError
from camflow.models.classifier import build_classifier, load_classifier
from camflow.train.classify import ClassifyTask, PlainParams, train_classifier
from camflow.train.hiding import (
    MIXED,
    LayerHiding,
    LayerHidingParams,
    hidden_cells,
    hidden_cells_batch,
    hide_and_seek,
    hide_in_layer,
    hiding_facts,
    pixel_dropout,
    stop_hiding,
)
from tests.golden.loader import golden
from tests.localize.photos import Photos
from tests.train.test_classify import SMALL, FakeCatalog

GRIDS = [(64, 16), (224, 44), (224, 56), (100, 32)]


def rng(seed=0):
    return np.random.default_rng(seed)


def by_loop(draws, size, p, shape):
    hidden = np.zeros(shape, bool)
    for y in range(shape[0]):
        for x in range(shape[1]):
            hidden[y, x] = size > 0 and draws[y // size, x // size] < p
    return hidden


# --- cells -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "size"), GRIDS)
def test_cells_are_the_authors(side, size):
    arrays = golden("has_boxes")
    draws = arrays[f"draws_{side}_{size}"]
    keep = np.unpackbits(arrays[f"keep_{side}_{size}"], axis=2, count=side).astype(bool)
    for one, visible in zip(draws, keep, strict=True):
        np.testing.assert_array_equal(hidden_cells(one, size, 0.5, (side, side)), ~visible)
    batch = hidden_cells_batch(torch.from_numpy(draws), torch.full((3,), size), 0.5, (side, side))
    np.testing.assert_array_equal(batch.numpy(), ~keep)
    np.testing.assert_array_equal(batch.float().mean((1, 2)), arrays[f"hidden_fraction_{side}_{size}"])


def test_a_batch_of_mixed_sizes_is_its_images():
    sizes, shape = [0, 3, 5, 40, 0, 7, 13], (13, 22)
    draws = rng(1).random((len(sizes), 5, 8))
    batch = hidden_cells_batch(torch.from_numpy(draws), torch.tensor(sizes), 0.4, shape)
    for one, size, hidden in zip(draws, sizes, batch.numpy(), strict=True):
        np.testing.assert_array_equal(hidden, by_loop(one, size, 0.4, shape))
        np.testing.assert_array_equal(hidden, hidden_cells(one, size, 0.4, shape))
    assert not batch[[0, 4]].any()


def test_never_and_always():
    draws = np.zeros((4, 4))
    assert not hidden_cells(draws, 4, 0.0, (16, 16)).any()
    assert hidden_cells(draws + np.nextafter(1, 0), 4, 1.0, (16, 16)).all()


def test_facts_are_those_of_the_golden_table():
    arrays = golden("has_boxes")
    for side, size, p, cells, mean, std, nothing in arrays["hide_facts"]:
        facts = hiding_facts((int(side), int(side)), int(size), p)
        assert facts.cells == cells
        np.testing.assert_allclose([facts.mean, facts.std, facts.nothing], [mean, std, nothing], rtol=1e-12, atol=1e-16)
    for side, size, p, cells, mean in arrays["hide_facts_conv1"]:
        facts = hiding_facts((int(side), int(side)), int(size), p)
        assert (facts.cells, facts.mean) == (cells, mean)
    assert tuple(arrays["mixed_grid_sizes"]) == MIXED
    mixed = np.mean([hiding_facts((224, 224), size, 0.5).mean for size in MIXED])
    assert mixed == pytest.approx(arrays["mixed_expected_hidden_at_p05"], abs=1e-12)


def test_what_is_hidden_has_the_mean_and_spread_of_the_facts():
    shape, size, p, count = (30, 44), 16, 0.3, 4000
    draws = rng(2).random((count, 2, 3))
    share = np.array([hidden_cells(one, size, p, shape).mean() for one in draws])
    facts = hiding_facts(shape, size, p)
    assert abs(share.mean() - facts.mean) < 4 * facts.std / np.sqrt(count)
    assert share.std() == pytest.approx(facts.std, rel=0.05)
    assert (share == 0).mean() == pytest.approx(facts.nothing, abs=4 * np.sqrt(facts.nothing / count))


# --- in images -------------------------------------------------------------------------------------------------------


def test_image_values_are_kept_or_filled():
    image = rng().standard_normal((20, 31, 3)).astype(np.float32)
    generator = rng(3)
    assert generator.choice(np.asarray([8])) == 8
    hidden = hidden_cells(generator.random((3, 4)), 8, 0.5, (20, 31))
    for fill, value in (("mean", 0), (1.5, 1.5), ([1, 2, 3], [1, 2, 3])):
        out = hide_and_seek(image, rng(3), sizes=[8], fill=fill)
        assert out.dtype == np.float32
        np.testing.assert_array_equal(out[~hidden], image[~hidden])
        np.testing.assert_array_equal(out[hidden], np.broadcast_to(np.float32(value), (hidden.sum(), 3)))
    assert golden("has_boxes")["fill_value_normalised"] == 0


def test_sizes_are_drawn_evenly():
    image = np.ones((60, 60, 3), np.float32)
    whole = np.mean([hide_and_seek(image, rng(seed), sizes=(0, 60), p=1.0).all() for seed in range(400)])
    assert 0.4 < whole < 0.6


@pytest.mark.parametrize("fill", ["zero", [1, 2]])
def test_a_fill_that_is_none_is_named(fill):
    with pytest.raises(ConfigError, match="fill: must be mean, a number or three numbers"):
        pixel_dropout(np.ones((2, 2, 3), np.float32), rng(), fill=fill)


def test_pixels_are_dropped_one_by_one():
    image = rng().random((100, 120, 3), np.float32) + 1
    out = pixel_dropout(image, rng(4), p=0.3)
    gone = (out == 0).all(axis=2)
    np.testing.assert_array_equal(out[~gone], image[~gone])
    assert not (out[gone]).any()
    assert abs(gone.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / gone.size)
    beside = np.corrcoef(gone[:, 1:].ravel(), gone[:, :-1].ravel())[0, 1]
    assert abs(beside) < 4 / np.sqrt(gone.size)


def test_photos_for_testing_lose_the_same_pixels_every_time():
    catalog = Photos(6)
    dropped = pickle.loads(pickle.dumps(PixelDropout(catalog, (0.485, 0.456, 0.406), p=0.4, seed=2)))
    assert dropped.ids == catalog.ids and list(dropped.class_names) == list(catalog.class_names)
    shares = []
    for image_id in dropped.ids:
        photo, before = dropped.image(image_id), catalog.image(image_id)
        gone = (photo == mean_pixel((0.485, 0.456, 0.406))).all(axis=2)
        np.testing.assert_array_equal(photo[~gone], before[~gone])
        np.testing.assert_array_equal(photo, dropped.shard(0, 1).image(image_id))
        shares.append(gone.mean())
    assert np.mean(shares) == pytest.approx(0.4, abs=0.03)
    other = PixelDropout(catalog, (0.485, 0.456, 0.406), p=0.4, seed=3)
    assert not np.array_equal(other.image("i00"), dropped.image("i00"))


# --- in a layer ------------------------------------------------------------------------------------------------------


def test_cells_of_a_layer_are_hidden_in_all_channels():
    layer = LayerHiding(4, LayerHidingParams(sizes=(3, 0), p=0.5)).train()
    maps = torch.rand(200, 4, 8, 7) + 1
    torch.manual_seed(0)
    out = layer(maps)
    gone = out == 0
    assert (gone.all(1) == gone.any(1)).all()
    torch.testing.assert_close(out[~gone], maps[~gone], rtol=0, atol=0)
    for top in range(0, 8, 3):
        for left in range(0, 7, 3):
            cell = gone[:, 0, top : top + 3, left : left + 3].flatten(1)
            assert (cell.all(1) == cell.any(1)).all()
    assert gone[:, 0].float().mean() == pytest.approx(0.25, abs=0.05)  # half the images are left whole
    torch.manual_seed(0)
    torch.testing.assert_close(layer(maps), out, rtol=0, atol=0)
    assert layer.eval()(maps) is maps
    assert not layer.state_dict()


def test_running_mean_is_the_mean_of_what_was_there():
    layer = LayerHiding(3, LayerHidingParams(sizes=(2,), p=1.0, fill="running_mean", momentum=0.25)).train()
    batches = [torch.randn(5, 3, 4, 4) + n for n in range(3)]
    outs = [layer(batch) for batch in batches]
    expected = batches[0].mean((0, 2, 3))
    for out, batch in zip(outs[1:], batches[1:], strict=True):
        expected = 0.75 * expected + 0.25 * batch.mean((0, 2, 3))
        torch.testing.assert_close(out, expected[None, :, None, None].expand_as(out))
    torch.testing.assert_close(outs[0][0, :, 0, 0], batches[0].mean((0, 2, 3)))  # not changed by later batches
    layer.eval()(batches[0])
    torch.testing.assert_close(layer.mean, expected)


def test_a_network_hides_behind_the_convolution_named():
    model, plain = (build_classifier("tiny", 3, width=4).train() for _ in range(2))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    hide_in_layer(model, LayerHidingParams(sizes=(2,), p=1.0, layer="layer3.conv"))
    seen = []
    model.layer3.bn.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.randn(2, 3, 32, 32)
    model(x)
    assert not seen[-1].any()
    assert set(model.state_dict()) == set(before)
    model.eval(), plain.eval()
    model.load_state_dict(plain.state_dict())
    torch.testing.assert_close(model(x), plain(x), rtol=0, atol=0)
    stop_hiding(model)
    model.train()(x)
    assert seen[-1].any()
    stop_hiding(plain)  # nothing to undo


def test_the_first_convolution_is_the_default():
    model = build_classifier("resnet18", 3).train()
    hide_in_layer(model, LayerHidingParams(p=1.0))
    seen = []
    model.bn1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(torch.randn(2, 3, 64, 64))
    assert not seen[0].any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sizes": ()}, "needs sides"),
        ({"sizes": (-1,)}, "needs sides"),
        ({"p": 1.5}, "hide_layer.p"),
        ({"fill": "running mean"}, "did you mean 'running_mean'"),
        ({"layer": "stem.1"}, "no convolution 'stem.1'; did you mean 'stem.0'"),
    ],
)
def test_impossible_hiding_is_named(changes, words):
    with pytest.raises(ConfigError) as error:
        hide_in_layer(build_classifier("tiny", 3, width=4), LayerHidingParams(**changes))
    assert words in str(error.value)


def test_training_with_a_hidden_layer_resumes_exactly_and_saves_a_plain_network(tmp_path, monkeypatch):
    params = PlainParams(**{**SMALL, "epochs": 2, "hide_layer": {"sizes": [4, 0], "fill": "running_mean"}})

    def train(name, hide=True):
        kind = params if hide else PlainParams(**{**SMALL, "epochs": 2})
        folder = tmp_path / name
        files = {"out": folder / "classifier.pt", "metrics_csv": folder / "metrics.csv", "scratch": folder / "scratch"}
        train_classifier(FakeCatalog(24, 1), None, kind, **files, key="k", progress=False)
        return files["out"]

    whole = train("whole")
    evaluate, calls = ClassifyTask.evaluate, []

    def failing(self):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(self)

    monkeypatch.setattr(ClassifyTask, "evaluate", failing)
    with pytest.raises(KeyboardInterrupt):
        train("killed")
    assert train("killed").read_bytes() == whole.read_bytes()
    loaded, plain = load_classifier(whole), load_classifier(train("plain", hide=False))
    assert set(loaded.state_dict()) == set(plain.state_dict())
    assert not torch.equal(loaded.head.weight, plain.head.weight)
    assert loaded.meta["params"]["hide_layer"] == {"sizes": [4, 0], "fill": "running_mean"}
