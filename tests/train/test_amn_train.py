"""Training of AMN: the loss by brute force, what it is told, learning, resuming."""

import math

import numpy as np
import pytest
import torch

from camflow.errors import ConfigError, DataError
from camflow.models.amn import build_amn, load_amn
from camflow.train.amn import AmnParams, AmnSamples, AmnTask, train_amn
from camflow.train.amn_loss import amn_losses
from tests.train.runs import interrupt, run_in, same_bytes, table

SMALL = {
    "backbone": "tiny", "weights": "none", "output_stride": None, "width": 8, "rates": (1, 2), "freeze_bn": False,
    "freeze_stem": False, "epochs": 2, "batch_size": 8, "crop": 40, "scale": (0.8, 1.2), "lr": 3e-3, "head_lr_mult": 1.0,
}  # fmt: skip


def test_loss_by_brute_force():
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((2, 4, 3, 5)), rng.choice([0, 1, 2, 3, 255], (2, 3, 5))
    sums = {"background": [], "foreground": []}
    for b, i, j in np.ndindex(labels.shape):
        own = labels[b, i, j]
        if own != 255:
            total = sum(math.exp(v) for v in logits[b, :, i, j])
            target = [0.7 if c == own else 0.1 for c in range(4)]
            cell = -sum(t * math.log(math.exp(v) / total) for t, v in zip(target, logits[b, :, i, j], strict=True))
            sums["background" if own == 0 else "foreground"].append(cell)
    found = amn_losses(torch.from_numpy(logits), torch.from_numpy(labels.astype(np.uint8)), 0.3)
    for name, values in sums.items():
        assert found[name].item() == pytest.approx(np.mean(values))
    assert found["loss"].item() == pytest.approx(np.mean([np.mean(values) for values in sums.values()]))


class Patches:
    """Grey noise with a red square, a blue square or both; every photo has its own labels."""

    class_names = ("red", "blue")

    def __init__(self, count=32, seed=1):
        rng = np.random.default_rng(seed)
        self.ids = [f"{n:03d}" for n in range(count)]
        self.labels = np.array([[k != 1, k != 0] for k in rng.integers(0, 3, count)], np.uint8)
        self.images = rng.integers(60, 190, (count, 40, 48, 3), dtype=np.uint8)
        self.maps = np.zeros((count, 40, 48), np.uint8)
        for image, label, truth in zip(self.images, self.labels, self.maps, strict=True):
            for channel in np.flatnonzero(label):
                y, x = rng.integers(0, 24), rng.integers(0, 8) + 24 * channel
                image[y : y + 16, x : x + 16] = np.eye(3, dtype=np.uint8)[channel * 2] * 255
                truth[y : y + 16, x : x + 16] = channel + 1

    def image(self, image_id):
        return self.images[int(image_id)]

    def label(self, image_id):
        return self.labels[int(image_id)]

    def read(self, image_id):
        return self.maps[int(image_id)]


def train(folder, **changes):
    folder.mkdir(exist_ok=True)
    photos = Patches()
    return train_amn(
        photos,
        photos,
        AmnParams(**{**SMALL, **changes}),
        **run_in(folder, "amn.pt"),
    )


def test_samples_keep_photo_labels_and_map_in_step():
    photos, params = Patches(), AmnParams(**SMALL)
    model = build_amn("tiny", 2, width=4)
    samples = AmnSamples(photos, photos, params, model.mean, model.std)
    for index in range(6):
        found = samples.sample(index, np.random.default_rng(index))
        assert found["image"].shape == (3, 40, 40) and found["label"].shape == (40, 40)
        assert np.array_equal(found["present"], photos.labels[index]) and found["present"].dtype == torch.float32
        image = found["image"] * torch.tensor(model.std)[:, None, None] + torch.tensor(model.mean)[:, None, None]
        red = found["label"] == 1
        if red.any():  # the map lies where the square is
            assert image[0][red].mean() > 0.9 and image[2][red].mean() < 0.2


def test_it_learns_and_writes(tmp_path):
    model = train(tmp_path / "run", epochs=12)
    rows = table(tmp_path / "run")
    assert list(rows[0]) == ["epoch", "lr", "train_background", "train_foreground", "train_loss"]
    lowest = -(0.6 * math.log(0.6) + 0.4 * math.log(0.4 / 2))  # entropy of the smoothed target, for a perfect network
    left = [row["train_loss"] - lowest for row in rows]
    assert 0 < left[-1] < 0.4 * left[0] and rows[0]["lr"] == rows[-1]["lr"] == 3e-3
    loaded = load_amn(tmp_path / "run" / "amn.pt")
    assert loaded.class_names == ["red", "blue"] and loaded.meta["method"] == "amn"
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
    assert not list((tmp_path / "run" / "scratch").glob("*.ckpt"))
    # What is told decides: with red alone no cell of a photo that has both is called blue more often than red.
    photos = Patches()
    both = next(i for i in photos.ids if photos.label(i).all())
    x = torch.from_numpy(
        ((photos.image(both) / 255 - model.mean) / model.std).transpose(2, 0, 1)[None].astype(np.float32)
    )
    with torch.no_grad():
        shares = {c: loaded.given(np.array([c])).logits(x).softmax(1)[0].mean((1, 2)) for c in (0, 1)}
    assert shares[0][1] > shares[1][1] and shares[1][2] > shares[0][2]


def test_interrupted_training_gives_the_same_bytes(tmp_path, monkeypatch):
    train(tmp_path / "a")
    interrupt(monkeypatch, AmnTask, lambda: train(tmp_path / "b"))
    train(tmp_path / "b")
    assert same_bytes(tmp_path / "a", tmp_path / "b", "amn.pt", "metrics.csv")


def test_learning_rates_of_trunk_and_new_layers():
    params = AmnParams(**{**SMALL, "lr": 5e-6, "head_lr_mult": 20.0})
    task = AmnTask(params.build(2), Patches(), Patches(), params)
    trunk, new = task.param_groups()
    assert "lr_mult" not in trunk and new["lr_mult"] == 20
    assert {id(p) for p in new["params"]} == {
        id(p) for name, p in task.model.named_parameters() if name.startswith(("label_enc.", "aspp."))
    }


def test_labels_that_do_not_fit_are_named():
    photos = Patches()
    samples = AmnSamples(photos, photos, AmnParams(**SMALL), (0, 0, 0), (1, 1, 1))
    photos.maps[3, 0, 0] = 9
    with pytest.raises(DataError, match="image '003': its labels have 9, but there are 2 classes"):
        samples.sample(3, np.random.default_rng(0))
    photos.maps = photos.maps[:, :-1]
    with pytest.raises(DataError, match="image '000' is"):
        samples.sample(0, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"smoothing": 1.0}, "smoothing lies in"),
        ({"scale": (1.5, 0.5)}, "scale must be two factors"),
        ({"crop": 0}, "crop is positive"),
        ({"augment": {"blurr": {}}}, "unknown augmentation 'blurr'"),
    ],
)
def test_settings_that_cannot_be(wrong, words):
    with pytest.raises(ConfigError, match=words):
        AmnParams(**wrong)
