"""Training of MCTformer: it learns, what decays, resuming, augmentations from the sample's own generator."""

import logging

import numpy as np
import pytest
import torch

from camflow.errors import ConfigError
from camflow.models.mctformer import load_mctformer
from camflow.train.augment import AUGMENTATIONS, ResizedCrop
from camflow.train.mctformer import MctFormerParams, MctFormerTask, train_mctformer
from camflow.train.randaugment import rand_augment, random_erasing
from tests.train.runs import interrupt, run_in, same_bytes, table
from tests.train.test_seam_train import Patches

SMALL = {
    "backbone": "small", "width": 24, "depth": 2, "heads": 2, "crop": 32, "crop_area": None, "augment": {}, "epochs": 3,
    "batch_size": 8, "lr": 3e-3, "warmup_epochs": 0.5, "drop_path": 0.0,
}  # fmt: skip


def train(folder, val=None, **changes):
    folder.mkdir(exist_ok=True)
    return train_mctformer(
        Patches(32, 1),
        val,
        MctFormerParams(**{**SMALL, **changes}),
        **run_in(folder),
    )


def test_it_learns_and_writes(tmp_path):
    model = train(tmp_path / "run", val=Patches(12, 2), epochs=10)
    rows = table(tmp_path / "run")
    assert list(rows[0]) == [
        "epoch", "lr", "train_class", "train_loss", "train_patch", "train_map", "val_loss", "val_map",
    ]  # fmt: skip
    assert rows[-1]["val_map"] > 0.9
    for name in ("train_class", "train_patch"):
        assert rows[-1][name] < 0.8 * rows[0][name]
    for row in rows:
        assert row["train_loss"] == pytest.approx(row["train_class"] + row["train_patch"], rel=1e-5)
    loaded = load_mctformer(tmp_path / "run" / "classifier.pt")
    assert loaded.class_names == ["red", "blue"] and loaded.meta["method"] == "mctformer"
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
    assert not list((tmp_path / "run" / "scratch").glob("*.ckpt"))


def test_interrupted_training_gives_the_same_bytes(tmp_path, monkeypatch):
    """Everything random at once: augmentations, crops and branches that are left out."""
    random = {
        "augment": {"rand_augment": {}, "random_erasing": {"p": 0.5}},
        "crop_area": (0.3, 1.0),
        "drop_path": 0.3,
        "epochs": 2,
    }
    train(tmp_path / "a", **random)
    interrupt(monkeypatch, MctFormerTask, lambda: train(tmp_path / "b", **random))
    train(tmp_path / "b", **random)
    assert same_bytes(tmp_path / "a", tmp_path / "b", "classifier.pt", "metrics.csv")


def test_biases_norms_tokens_and_positions_do_not_decay():
    params = MctFormerParams(**SMALL)
    model = params.build(2)
    task = MctFormerTask(model, Patches(4, 1), None, params)
    settings = params.settings()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decays = {
        names[id(parameter)]: group["weight_decay"]
        for group in task.optimizers(settings)["all"].param_groups
        for parameter in group["params"]
    }
    assert set(names.values()) - set(decays) == {"norm.weight", "norm.bias"}  # never applied, not trained
    for name, decay in decays.items():
        free = name in ("cls_token", "pos_embed") or name.endswith("bias") or "norm" in name
        free = free or model.get_parameter(name).ndim == 1
        assert decay == (0.0 if free else 0.05), name
    assert decays["head.weight"] == decays["blocks.0.attn.qkv.weight"] == 0.05


def test_the_published_recipe(caplog):
    params = MctFormerParams()
    assert (params.lr, params.batch_size, params.epochs, params.weight_decay) == (6.25e-5, 64, 60, 0.05)
    model = type("Model", (), {"mean": (0.5,) * 3, "std": (0.5,) * 3})()
    transform = params.transform(model)
    assert isinstance(transform, ResizedCrop) and transform.area == (0.08, 1.0)
    with caplog.at_level(logging.WARNING):
        MctFormerParams(backbone="deit_tiny", depth=1).build(2)
    assert "weights: none" in caplog.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crop_area": (0.5, 0.2)}, "crop_area is two shares, the smaller first"),
        ({"crop_area": (0.5, 1.0), "scale": (32, 48)}, "two ways to crop"),
        ({"augment": {"rand_augmnt": {}}}, "did you mean 'rand_augment'"),
    ],
)
def test_parameters_that_cannot_be(changes, words):
    with pytest.raises(ConfigError, match=words):
        MctFormerParams(**{**SMALL, **changes})


def test_a_crop_that_patches_do_not_fill_is_refused():
    with pytest.raises(ConfigError, match="image size 30 is no multiple of the patch of 8 pixels"):
        MctFormerParams(**{**SMALL, "crop": 30}).build(2)
    assert MctFormerParams(**{**SMALL, "crop": 30, "size": 32}).build(2).shape.size == 32


# --- augmentations ---------------------------------------------------------------------------------------------------


def photo(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["rand_augment", "random_erasing"])
def test_augmentations_draw_from_the_generator_they_are_given(name):
    _, function = AUGMENTATIONS[name]
    image = photo() if name == "rand_augment" else photo().astype(np.float32)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    results = [function(image, np.random.default_rng(seed)) for seed in range(12)]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    for seed, result in enumerate(results):
        assert np.array_equal(function(image, np.random.default_rng(seed)), result)
        assert result.shape == image.shape and result.dtype == image.dtype
    assert len({result.tobytes() for result in results}) > 2
    assert np.array_equal(image, photo().astype(image.dtype))  # the input stays


def test_no_operations_and_no_erasing_leave_the_photo():
    rng = np.random.default_rng(0)
    assert np.array_equal(random_erasing(photo().astype(np.float32), rng, p=0.0), photo())
    plain = np.full((40, 48, 3), 90, np.uint8)
    strengths = [
        np.abs(rand_augment(plain, np.random.default_rng(s), magnitude=m).astype(int) - 90).mean()
        for m in (0, 25)
        for s in range(20)
    ]
    assert np.mean(strengths[:20]) < np.mean(strengths[20:])


def test_erased_share_and_noise():
    """Every input is erased once, by a rectangle of 2 to 33 % of it, filled with noise of mean 0 and deviation 1."""
    shares, values = [], []
    for seed in range(60):
        image = np.full((60, 60, 3), 7.0, np.float32)
        erased = random_erasing(image, np.random.default_rng(seed), p=1.0)
        hit = (erased != 7).all(axis=2)
        rows, columns = np.flatnonzero(hit.any(axis=1)), np.flatnonzero(hit.any(axis=0))
        assert hit.sum() == len(rows) * len(columns) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        shares.append(hit.mean())
        values.append(erased[hit].ravel())
    noise = np.concatenate(values)
    assert min(shares) > 0.015 and max(shares) < 0.35
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
