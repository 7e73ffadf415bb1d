"""Training of AffinityNet: pairs and loss against brute force, samples, settings, resuming."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from camflow.errors import ConfigError, DataError, StoreError
from camflow.models.classifier import build_classifier, save_classifier
from camflow.models.psa import build_affinity_net, load_affinity_net
from camflow.refine.neighbours import search_offsets
from camflow.refine.psa_labels import STAGE
from camflow.store import Store, StoreWriter
from camflow.train.groups import freeze_as_published, published_groups
from camflow.train.optim import build_optimizer, effective_momentum
from camflow.train.psa import (
    AffinityParams,
    AffinitySamples,
    AffinityTask,
    PairLabels,
    affinity_loss,
    pair_labels,
    train_affinity_net,
)
from tests.train.runs import interrupt, run_in, same_bytes

SMALL = {"backbone": "tiny", "width": 4, "epochs": 3, "batch_size": 4, "crop": 72}


# --- pairs and loss --------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 4), st.integers(0, 3), st.integers(0, 3), st.integers(0, 1000))
def test_kinds_of_pairs_are_those_of_brute_force(radius, more_rows, more_columns, seed):
    height, width = radius + more_rows, 2 * radius - 1 + more_columns
    labels = np.random.default_rng(seed).choice([0, 0, 1, 2, 255], (2, height, width)).astype(np.uint8)
    found = pair_labels(torch.from_numpy(labels), radius)
    for image in range(2):
        for p, (dy, dx) in enumerate(search_offsets(radius).tolist()):
            n = 0
            for y in range(height - radius + 1):
                for x in range(radius - 1, width - radius + 1):
                    a, b = int(labels[image, y, x]), int(labels[image, y + dy, x + dx])
                    known = 255 not in (a, b)
                    kinds = (known and a == b == 0, known and a == b and a > 0, known and a != b)
                    assert tuple(bool(k[image, p, n]) for k in (found.bg, found.fg, found.neg)) == kinds
                    n += 1
            assert n == found.bg.shape[2]


def test_loss_by_hand_and_with_missing_kinds():
    affinity = torch.tensor([[[0.5, 0.25, 0.75, 1.0]]], requires_grad=True)
    bg, fg, neg = (torch.tensor([[row]], dtype=torch.bool) for row in ([1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]))
    terms = affinity_loss(affinity, PairLabels(bg, fg, neg))
    assert terms["bg"].item() == pytest.approx(-np.log(0.5), abs=1e-4)
    assert terms["fg"].item() == pytest.approx(-np.log(0.25 * 0.75) / 2, abs=1e-4)
    assert terms["neg"].item() == pytest.approx(-np.log(1e-5), rel=1e-2)
    total = terms["bg"] / 4 + terms["fg"] / 4 + terms["neg"] / 2
    torch.testing.assert_close(terms["loss"], total)
    none = torch.zeros_like(bg)
    empty = affinity_loss(affinity, PairLabels(none, none, none))
    assert all(value.item() == 0 for value in empty.values())
    empty["loss"].backward()
    assert affinity.grad.isfinite().all()


# --- samples ---------------------------------------------------------------------------------------------------------


class Halves:
    """Photos of two colours: the left side is of the image's class, the right is background; one has no class."""

    class_names = ("ant", "bee")
    ids = tuple(f"i{n}" for n in range(9))
    sizes = np.array([(72, 80)] * 9, np.int32)

    def edge(self, image_id):
        return 24 + 4 * int(image_id[1:])

    def image(self, image_id):
        image = np.full((72, 80, 3), 90, np.uint8)
        image[:, : self.edge(image_id)] = (220, 40, 40)
        return image + np.random.default_rng(int(image_id[1:])).integers(0, 20, image.shape, dtype=np.uint8)

    def label(self, image_id):
        return np.array([image_id != "i8", False], np.uint8)


@pytest.fixture
def scores(tmp_path):
    catalog = Halves()
    with StoreWriter(tmp_path / "labels.h5", stage=STAGE, class_names=catalog.class_names) as writer:
        for image_id in catalog.ids:
            inside = np.arange(80) < catalog.edge(image_id)
            one = np.stack([~inside, inside])[:, None].repeat(72, axis=1).astype(np.float16)
            writer.write(image_id, np.concatenate([one, one]), classes=np.array([0], np.int32))
    return Store(tmp_path / "labels.h5", stage=STAGE)


def samples(scores, **changes):
    params = AffinityParams(**{**SMALL, "augment": {}, **changes})
    return AffinitySamples(Halves(), scores, params, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def test_photo_and_labels_are_cropped_and_mirrored_together(scores):
    data = samples(scores, crop=88)
    assert "i8" not in data.ids
    seen = set()
    for seed in range(12):
        sample = data.sample(2, np.random.default_rng(seed))
        image, label = sample["image"].numpy(), sample["label"].numpy()
        assert image.shape == (3, 88, 88) and image.dtype == np.float32
        assert label.shape == (11, 11) and label.dtype == np.uint8
        padded = (image == 0).all(axis=0).reshape(11, 8, 11, 8).all(axis=(1, 3))
        assert np.array_equal(label == 255, padded)
        red, shown = (
            m.reshape(11, 8, 11, 8).sum(axis=(1, 3)) for m in (image[0] > image[1] + 1, (image != 0).any(axis=0))
        )
        assert (2 * red >= shown)[label == 1].all() and (2 * red <= shown)[label == 0].all()
        row = label[(label != 255).any(axis=1)][0]
        seen.add(int(row[row != 255][0]))
    assert seen == {0, 1}  # both mirrored and not


def test_same_generator_same_sample(scores):
    data = samples(scores, augment={"colour_jitter": {}})
    a, b, c = (data.sample(0, np.random.default_rng(seed))["image"] for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_bad_sources_are_named(scores, tmp_path):
    class Other(Halves):
        def image(self, image_id):
            return super().image(image_id)[:40]

    data = AffinitySamples(Other(), scores, AffinityParams(**SMALL), (0,) * 3, (1,) * 3)
    with pytest.raises(DataError, match=r"image 'i0': its affinity labels are for 72x80 pixels, the photo has 40x80"):
        data.sample(0, np.random.default_rng(0))

    class Empty(Halves):
        ids = ("i8",)

    with pytest.raises(DataError, match="none of the training images has a class"):
        AffinitySamples(Empty(), scores, AffinityParams(**SMALL), (0,) * 3, (1,) * 3)

    class Unknown(Halves):
        ids = ("i99",)

    with pytest.raises(StoreError, match="i99"):
        AffinitySamples(Unknown(), scores, AffinityParams(**SMALL), (0,) * 3, (1,) * 3).sample(
            0, np.random.default_rng(0)
        )


# --- settings --------------------------------------------------------------------------------------------------------


def test_published_settings():
    params = AffinityParams()
    facts = (params.backbone, params.epochs, params.batch_size, params.lr, params.weight_decay, params.crop)
    assert facts == ("resnet38", 8, 8, 0.1, 5e-4, 448)
    assert effective_momentum(params.settings()) == 5e-4
    assert (params.schedule, params.power, list(params.augment)) == ("poly", 0.9, ["colour_jitter"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"crop": 100}, "multiple of 8"), ({"crop": 64}, "at least 72"), ({"augment": {"mix": {}}}, "unknown augm")],
)
def test_impossible_parameters_are_named(changes, words):
    with pytest.raises(ConfigError, match=words):
        AffinityParams(**{**SMALL, **changes})


@pytest.mark.parametrize(
    ("backbone", "frozen"),
    [
        ("vgg16_psa", {"conv1_1", "conv1_2", "conv2_1", "conv2_2"}),
        ("tiny", {"stem"}),
        ("resnet18", {"conv1"}),
    ],
)
def test_frozen_layers(backbone, frozen):
    net = build_classifier(backbone, 2)
    freeze_as_published(net)
    convs = {n for n, m in net.named_modules() if isinstance(m, torch.nn.Conv2d) and not m.weight.requires_grad}
    assert {name.split(".")[0] for name in convs} == frozen
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert not any(m.weight.requires_grad or m.bias.requires_grad for m in norms)


def test_four_groups_of_learning_rates():
    model = build_affinity_net("vgg16_psa")
    freeze_as_published(model.net)
    optimizer = build_optimizer(published_groups(model, model.new_layers()), AffinityParams().settings())
    found = [(g["lr"], g["weight_decay"], len(g["params"])) for g in optimizer.param_groups]
    # 9 convolutions of stages 3 to 5, fc6, fc7; new: 4 convolutions and 3 group norms. The unused head stays out.
    expected = [(0.1, 5e-4, 11), (0.2, 0.0, 11), (1.0, 5e-4, 7), (2.0, 0.0, 3)]
    assert found == [(pytest.approx(lr), decay, count) for lr, decay, count in expected]


# --- the stage -------------------------------------------------------------------------------------------------------


def train(folder, scores, **changes):
    folder.mkdir(exist_ok=True)
    params = AffinityParams(**{**SMALL, **changes})
    return train_affinity_net(
        Halves(),
        scores,
        params,
        **run_in(folder, "affinity.pt"),
    )


def test_it_learns_which_cells_belong_together(tmp_path, scores):
    model = train(tmp_path / "run", scores, epochs=25, width=8)
    names, *rows = [line.split(",") for line in (tmp_path / "run" / "metrics.csv").read_text().splitlines()]
    assert names == ["epoch", "lr", "train_bg", "train_fg", "train_loss", "train_neg"]
    column = names.index("train_loss")
    assert float(rows[-1][column]) < 0.7 * float(rows[0][column])
    loaded = load_affinity_net(tmp_path / "run" / "affinity.pt")
    assert loaded.meta["params"]["lr"] == 0.1 and loaded.class_names == ["ant", "bee"]
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
    assert not list((tmp_path / "run" / "scratch").glob("*.ckpt"))
    frozen = AffinityParams(**{**SMALL, "width": 8}).build().net.stem[0].weight
    assert torch.equal(loaded.net.stem[0].weight, frozen)


def test_interrupted_training_gives_the_same_bytes(tmp_path, scores, monkeypatch):
    train(tmp_path / "a", scores, epochs=2)
    interrupt(monkeypatch, AffinityTask, lambda: train(tmp_path / "b", scores, epochs=2), at=4)
    train(tmp_path / "b", scores, epochs=2)
    assert same_bytes(tmp_path / "a", tmp_path / "b", "affinity.pt", "metrics.csv")


def test_starts_from_a_classifier(tmp_path, scores):
    host = build_classifier("tiny", 2, width=4, seed=7)
    save_classifier(tmp_path / "c.pt", host, class_names=["ant", "bee"])
    model = train(tmp_path / "run", scores, epochs=1, weights=str(tmp_path / "c.pt"))
    assert torch.equal(model.net.stem[0].weight, host.stem[0].weight)
    assert dataclasses.asdict(AffinityParams(**SMALL))["weights"] == "none"
