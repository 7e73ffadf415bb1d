"""The classifier stage on a small artificial catalog."""

import dataclasses

import numpy as np
import pytest
import torch
import yaml

from camflow.errors import ConfigError, DataError
from camflow.models.classifier import load_classifier
from camflow.train.augment import normalize, resize, to_chw
from camflow.train.classify import ClassifyTask, PlainParams, mean_average_precision, predict, train_classifier
from tests.golden.loader import ROOT
from tests.train.processes import run_two
from tests.train.runs import run_in, same_bytes, table

SMALL = {
    "backbone": "tiny",
    "weights": "none",
    "output_stride": None,
    "width": 8,
    "freeze_bn": False,
    "freeze_stem": False,
    "detach": "none",
    "epochs": 4,
    "batch_size": 8,
    "crop": 32,
    "scale": (32, 48),
}


class FakeCatalog:
    """Noise with a red patch (class 0), a blue patch (class 1) or both."""

    class_names = ("red", "blue")

    def __init__(self, count, seed, single=False):
        rng = np.random.default_rng(seed)
        self.ids = [f"{seed}-{i:03d}" for i in range(count)]
        kinds = rng.integers(0, 2 if single else 3, count)
        self.labels = np.array([[k != 1, k != 0] for k in kinds], dtype=np.uint8)
        self.sizes = np.array([(32, 40) if i % 3 else (40, 32) for i in range(count)], dtype=np.int32)
        self.images = {}
        for name, label, size in zip(self.ids, self.labels, self.sizes, strict=True):
            image = rng.integers(60, 190, (*size, 3), dtype=np.uint8)
            for channel in np.flatnonzero(label) * 2:
                y, x = rng.integers(0, 20, 2)
                image[y : y + 12, x : x + 12] = np.eye(3, dtype=np.uint8)[channel] * 255
            self.images[name] = image

    def image(self, image_id):
        return self.images[image_id]

    def label(self, image_id):
        return self.labels[self.ids.index(image_id)]


def train(folder, train_catalog=None, val=None, **changes):
    params = PlainParams(**{**SMALL, **changes})
    return train_classifier(
        train_catalog or FakeCatalog(64, 1),
        val,
        params,
        **run_in(folder),
    )


def test_it_learns_and_writes(tmp_path):
    val = FakeCatalog(24, 2)
    model = train(tmp_path, val=val)
    rows = table(tmp_path)
    assert list(rows[0]) == ["epoch", "lr", "train_loss", "train_map", "val_loss", "val_map"]
    assert rows[-1]["val_map"] > 0.9
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    loaded = load_classifier(tmp_path / "classifier.pt")
    assert loaded.class_names == ["red", "blue"]
    assert loaded.meta["params"]["backbone"] == "tiny"
    assert loaded.meta["metrics"]["val_map"] == pytest.approx(rows[-1]["val_map"], rel=1e-8)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in loaded.state_dict().items())
    assert not list((tmp_path / "scratch").glob("*.ckpt"))


def test_interrupted_training_gives_the_same_bytes(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    train(tmp_path / "a", epochs=2)
    evaluate, calls = ClassifyTask.evaluate, []

    def failing(self):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(self)

    monkeypatch.setattr(ClassifyTask, "evaluate", failing)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", epochs=2)
    assert not (tmp_path / "b" / "classifier.pt").exists()
    train(tmp_path / "b", epochs=2)
    assert same_bytes(tmp_path / "a", tmp_path / "b", "classifier.pt", "metrics.csv")


def test_one_label_per_image(tmp_path):
    train(tmp_path, FakeCatalog(64, 1, single=True), FakeCatalog(24, 2, single=True), loss="cross_entropy")
    row = table(tmp_path)[-1]
    assert row["val_accuracy"] > 0.8
    assert row["train_accuracy"] > 0.5
    with pytest.raises(DataError, match="exactly one label per image"):
        train(tmp_path, FakeCatalog(20, 1), loss="cross_entropy")


@pytest.mark.parametrize("changes", [{"eval_size": 56}, {"scale": None}])
def test_validation_sees_whole_images_one_like_many(changes):
    catalog = FakeCatalog(10, 3)
    params = PlainParams(**{**SMALL, **changes})
    model = params.build(2).eval()
    with torch.no_grad():
        batches = list(predict(model, catalog, params))
        assert max(len(index) for index, _ in batches) > 1
        found = {i: row for index, logits in batches for i, row in zip(index.tolist(), logits, strict=True)}
        assert sorted(found) == list(range(10))
        for i, name in enumerate(catalog.ids):
            grid = {"eval_size": (45, 56) if i % 3 else (56, 45), "scale": (32, 32)}[next(iter(changes))]
            image = to_chw(normalize(resize(catalog.image(name), grid), model.mean, model.std))
            torch.testing.assert_close(found[i], model(torch.from_numpy(image)[None])[0])


def test_two_processes_write_one_file_like_one(tmp_path):
    """Running statistics frozen, so that the processes' batches do not differ from the whole one's."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    changes = {"val": FakeCatalog(11, 2), "freeze_bn": True, "epochs": 2}
    one = train(tmp_path / "one", **changes).state_dict()
    assert run_two(lambda: train(tmp_path / "two", **changes)) == [0, 0]
    two = load_classifier(tmp_path / "two" / "classifier.pt").state_dict()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)
    for a, b in zip(table(tmp_path / "one"), table(tmp_path / "two"), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_mean_average_precision_by_hand():
    logits = np.array([[3, 0, 0], [2, 1, 0], [1, 2, 0], [0, 3, 0]], dtype=np.float32)
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]], dtype=np.float32)
    # class 0: ranks 1 and 3 -> (1 + 2/3)/2; class 1 likewise; class 2 does not occur and does not count
    assert mean_average_precision(logits, labels) == pytest.approx(5 / 6)
    assert np.isnan(mean_average_precision(logits, labels * 0))


def test_head_learns_faster_and_frozen_parts_stay_out():
    params = PlainParams(**{**SMALL, "freeze_stem": True})
    task = ClassifyTask(params.build(2), FakeCatalog(8, 1), None, params)
    trunk, head = task.param_groups()
    assert head["lr_mult"] == 10.0
    assert [tuple(p.shape) for p in head["params"]] == [(2, 32, 1, 1)]
    assert len(trunk["params"]) == sum(p.requires_grad for p in task.model.parameters()) - 1


def test_untrained_frozen_layers_are_mentioned(caplog):
    PlainParams(**{**SMALL, "freeze_bn": True}).build(2)
    assert "leaves untrained layers" in caplog.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": "bce"}, "unknown loss"),
        ({"scale": (64, 32)}, "the smaller first"),
        ({"crop": 0}, "crop must be positive"),
        ({"augment": {"mixup": {}}}, "unknown augmentation"),
        ({"schedule": "linear"}, "unknown schedule"),
    ],
)
def test_impossible_parameters_are_named(changes, words):
    with pytest.raises(ConfigError, match=words):
        PlainParams(**{**SMALL, **changes})


def test_schema_lists_every_field_with_its_default():
    schema = yaml.safe_load((ROOT / "workflow" / "schemas" / "classifiers.schema.yaml").read_text())
    properties = schema["methods"]["plain"]["properties"]
    defaults = dataclasses.asdict(PlainParams())
    assert set(defaults) <= set(properties)
    for name, value in defaults.items():
        assert properties[name]["default"] == (list(value) if isinstance(value, tuple) else value), name
        assert properties[name]["description"]
