"""Training of SEAM: parts of the loss by hand, settings, learning, resuming."""

import numpy as np
import pytest
import torch

from camflow.errors import ConfigError
from camflow.models.classifier import build_classifier, save_classifier
from camflow.models.seam import load_seam
from camflow.train.classify import PlainParams, train_classifier
from camflow.train.optim import effective_momentum
from camflow.train.seam import (
    SeamParams,
    SeamTask,
    comparable,
    hardest_mean,
    lowest_quarter,
    reduce_size,
    seam_losses,
    train_seam,
)
from tests.train.runs import interrupt, run_in, same_bytes, table

SMALL = {"backbone": "tiny", "width": 8, "epochs": 2, "batch_size": 8, "crop": 40, "scale": (40, 48), "augment": {}}


# --- losses ----------------------------------------------------------------------------------------------------------


def test_parts_by_hand():
    maps = torch.tensor([[4.0, -1.0, 2.0, 3.0], [0.5, -2.0, 9.0, 1.0]]).view(1, 2, 2, 2)
    assert lowest_quarter(maps).item() == 0.0  # max over classes: 4, -1, 9, 3
    assert lowest_quarter(maps + 2).item() == 1.0
    assert lowest_quarter(torch.ones(1, 2, 1, 1)).item() == 1.0  # fewer than four pixels
    errors = torch.tensor([[1.0, 5.0, 2.0, 4.0, 3.0], [0.0, 0.0, 0.0, 0.0, 10.0]])
    assert hardest_mean(errors, 0.4).item() == pytest.approx((5 + 4 + 10 + 0) / 4)
    assert hardest_mean(errors, 0.01).item() == pytest.approx((5 + 10) / 2)


@pytest.mark.parametrize(("size", "expected"), [((448, 448), (134, 134)), ((40, 56), (12, 16)), ((2, 2), (1, 1))])
def test_small_branch_sizes(size, expected):
    assert reduce_size(torch.zeros(1, 3, *size), 0.3).shape[2:] == expected


def test_absent_classes_do_not_enter_the_comparison():
    maps = torch.randn(2, 4, 20, 20)
    label = torch.tensor([[1.0, 0, 0], [0, 1, 1]])
    found = comparable(maps, label, (6, 6))
    assert found.shape == (2, 4, 6, 6)
    assert not found[0, 2:].any() and not found[1, 1].any()
    assert found[:, 0].any() and found.max() <= 1


def test_equal_branches_have_no_equivariance_loss():
    maps, refined = torch.randn(2, 4, 8, 8), torch.rand(2, 4, 8, 8)
    label = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    terms = seam_losses((maps, refined), (maps, refined), label)
    assert terms["er"].item() == 0
    assert terms["ecr1"].item() == pytest.approx(terms["ecr2"].item())
    assert terms["loss"].item() == pytest.approx(sum(terms[k].item() for k in ("cls", "er", "ecr")))


def test_loss_of_a_batch_is_the_mean_over_its_images():
    """What lets accumulation and several processes equal one big batch."""
    full = (torch.randn(4, 3, 20, 20), torch.rand(4, 3, 20, 20))
    small = (torch.randn(4, 3, 6, 6), torch.rand(4, 3, 6, 6))
    label = torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 0]])
    whole = seam_losses(full, small, label)["loss"]
    parts = [
        seam_losses(tuple(m[i : i + 1] for m in full), tuple(m[i : i + 1] for m in small), label[i : i + 1])["loss"]
        for i in range(4)
    ]
    torch.testing.assert_close(whole, torch.stack(parts).mean())


# --- settings --------------------------------------------------------------------------------------------------------


def test_published_settings():
    params = SeamParams()
    facts = (params.backbone, params.epochs, params.batch_size, params.lr, params.weight_decay, params.crop)
    assert facts == ("resnet38", 8, 8, 0.01, 5e-4, 448)
    assert (params.scale, params.small_scale, params.hard_share) == ((448, 768), 0.3, 0.2)
    assert effective_momentum(params.settings()) == 5e-4
    assert list(params.augment) == ["colour_jitter"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scale": (64, 32)}, "the smaller first"),
        ({"crop": 0}, "crop must be positive"),
        ({"small_scale": 0}, "small_scale lies in"),
        ({"hard_share": 2}, "hard_share lies in"),
        ({"schedule": "linear"}, "unknown schedule"),
    ],
)
def test_impossible_parameters_are_named(changes, words):
    with pytest.raises(ConfigError, match=words):
        SeamParams(**{**SMALL, **changes})


# --- the stage -------------------------------------------------------------------------------------------------------


class Patches:
    """Noise with a red patch (class 0), a blue patch (class 1) or both."""

    class_names = ("red", "blue")

    def __init__(self, count, seed):
        rng = np.random.default_rng(seed)
        self.ids = [f"{seed}-{i:03d}" for i in range(count)]
        self.labels = np.array([[k != 1, k != 0] for k in rng.integers(0, 3, count)], np.uint8)
        self.sizes = np.array([(40, 48)] * count, np.int32)
        self.images = rng.integers(60, 190, (count, 40, 48, 3), dtype=np.uint8)
        for image, label in zip(self.images, self.labels, strict=True):
            for channel in np.flatnonzero(label) * 2:
                y, x = rng.integers(0, 24, 2)
                image[y : y + 16, x : x + 16] = np.eye(3, dtype=np.uint8)[channel] * 255

    def image(self, image_id):
        return self.images[self.ids.index(image_id)]

    def label(self, image_id):
        return self.labels[self.ids.index(image_id)]


def train(folder, val=None, **changes):
    folder.mkdir(exist_ok=True)
    return train_seam(
        Patches(32, 1),
        val,
        SeamParams(**{**SMALL, **changes}),
        **run_in(folder, "seam.pt"),
    )


def test_it_learns_and_writes(tmp_path):
    """From a classifier, as norms and first layers are frozen."""
    plain = PlainParams(
        **{k: SMALL[k] for k in ("backbone", "width", "batch_size", "crop", "scale")},
        **{"weights": "none", "output_stride": None, "freeze_bn": False, "freeze_stem": False, "detach": "none"},
        epochs=8,
    )
    files = {"out": tmp_path / "c.pt", "metrics_csv": tmp_path / "c.csv", "scratch": tmp_path / "c"}
    train_classifier(Patches(32, 1), None, plain, key="k", progress=False, **files)
    model = train(tmp_path / "run", val=Patches(12, 2), epochs=8, lr=0.05, weights=str(tmp_path / "c.pt"))
    rows = table(tmp_path / "run")
    assert list(rows[0]) == [
        *("epoch", "lr", "train_cls", "train_ecr", "train_er", "train_loss", "train_map", "val_loss", "val_map")
    ]
    assert rows[-1]["val_map"] > 0.9
    assert rows[-1]["train_cls"] < rows[0]["train_cls"]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    loaded = load_seam(tmp_path / "run" / "seam.pt")
    assert loaded.class_names == ["red", "blue"] and loaded.meta["method"] == "seam"
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
    assert not list((tmp_path / "run" / "scratch").glob("*.ckpt"))


def test_interrupted_training_gives_the_same_bytes(tmp_path, monkeypatch):
    train(tmp_path / "a")
    interrupt(monkeypatch, SeamTask, lambda: train(tmp_path / "b"))
    train(tmp_path / "b")
    assert same_bytes(tmp_path / "a", tmp_path / "b", "seam.pt", "metrics.csv")


def test_starts_from_a_classifier_and_freezes(tmp_path):
    host = build_classifier("tiny", 2, width=8, seed=7)
    save_classifier(tmp_path / "c.pt", host, class_names=["red", "blue"])
    model = train(tmp_path / "run", epochs=1, weights=str(tmp_path / "c.pt"))
    for name in ("stem.0.weight", "layer4.bn.weight", "layer4.bn.running_mean"):
        assert torch.equal(model.net.state_dict()[name], host.state_dict()[name]), name
    assert not torch.equal(model.net.layer4.conv.weight, host.layer4.conv.weight)
