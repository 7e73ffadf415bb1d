"""Training of segmentation networks: labels and losses by hand, samples, learning rates, whole runs on toy photos."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from camflow.errors import ConfigError, DataError
from camflow.evaluate.confusion import confusion_matrix, miou
from camflow.models.segmenter import build_segmenter, load_segmenter
from camflow.train import distributed
from camflow.train.optim import build_optimizer
from camflow.train.segment import (
    PRESETS,
    SegmentParams,
    SegmentSamples,
    SegmentTask,
    balanced_loss,
    match_grid,
    nearest_labels,
    plain_loss,
    predict_labels,
    segment_params,
    train_segmenter,
)
from camflow.train.settings import TrainSettings
from tests.train.processes import run_two
from tests.train.runs import run_in, table

SMALL = {
    "backbone": "tiny",
    "width": 8,
    "rates": (1, 2),
    "freeze_bn": False,
    "epochs": 2,
    "batch_size": 8,
    "accumulate": 1,
    "lr": 0.02,
    "crop": 40,
    "scale": (0.75, 1, 1.25),
    "train_scales": (1,),
}


def params(**changes):
    return SegmentParams(**{**SMALL, **changes})


# --- labels on a grid ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "to"), [((321, 321), (41, 41)), ((65, 81), (7, 8)), ((418, 20), (421, 33)), ((7, 5), (14, 1)), ((9, 9), (9, 9))]
)  # fmt: skip
def test_labels_are_resized_as_pillow_does(size, to):
    labels = np.random.default_rng(0).integers(0, 256, (2, *size), dtype=np.uint8)
    expected = [Image.fromarray(one).resize(to[::-1], Image.Resampling.NEAREST) for one in labels]
    found = nearest_labels(torch.from_numpy(labels), to)
    assert found.dtype == torch.uint8
    np.testing.assert_array_equal(found.numpy(), np.stack([np.asarray(one) for one in expected]))


def test_sides_are_resized_as_pillow_does():
    """Every side of a range to common shares of it, where cells can fall between two pixels."""
    for n in range(1, 300, 7):
        row = np.arange(n, dtype=np.int32)[None]
        for to in {max(1, n // 2), max(1, 3 * n // 4), (n - 1) // 8 + 1, n + 3, 2 * n, 41}:
            expected = np.asarray(Image.fromarray(row).resize((to, 1), Image.Resampling.NEAREST))
            np.testing.assert_array_equal(nearest_labels(torch.from_numpy(row)[None], (1, to))[0].numpy(), expected)


def test_either_grid():
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 16, 20), dtype=torch.uint8)
    small = match_grid(logits, labels, "network")
    assert small[0] is logits and small[1].shape == (2, 4, 5)
    large = match_grid(logits, labels, "image")
    assert large[1] is labels and large[0].shape == (2, 3, 16, 20)
    torch.testing.assert_close(large[0], functional.interpolate(logits, size=(16, 20), mode="bilinear"))


# --- losses ----------------------------------------------------------------------------------------------------------


def brute(logits, labels):
    """Lists of cross-entropies per image: (foreground, background)."""
    found = []
    for scores, image in zip(logits.tolist(), labels.tolist(), strict=True):
        parts = ([], [])
        for y, row in enumerate(image):
            for x, label in enumerate(row):
                if label != 255:
                    z = [channel[y][x] for channel in scores]
                    parts[label == 0].append(math.log(sum(map(math.exp, z))) - z[label])
        found.append(parts)
    return found


def mean(values):
    return sum(values) / len(values) if values else 0.0


@pytest.fixture
def batch():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 4, 5, 6, dtype=torch.float64, generator=rng)
    labels = torch.tensor([0, 0, 1, 2, 3, 255], dtype=torch.uint8)[torch.randint(0, 6, (4, 5, 6), generator=rng)]
    labels[1][labels[1] == 0] = 255  # no background
    labels[2][labels[2] != 255] = 0  # no foreground
    return logits, labels


def test_losses_by_brute_force(batch):
    images = brute(*batch)
    assert plain_loss(*batch).item() == pytest.approx(mean([v for parts in images for part in parts for v in part]))
    assert not images[1][1] and not images[2][0]
    assert balanced_loss(*batch).item() == pytest.approx(mean([mean(a) + mean(b) for a, b in images]))


def test_plain_loss_is_torchs(batch):
    expected = functional.cross_entropy(batch[0], batch[1].long(), ignore_index=255)
    torch.testing.assert_close(plain_loss(*batch), expected)


@pytest.mark.parametrize("loss", [plain_loss, balanced_loss])
@pytest.mark.parametrize("label", [0, 2, 255])
def test_losses_are_finite_whatever_is_missing(loss, label):
    logits = torch.randn(2, 4, 3, 3).requires_grad_()
    value = loss(logits, torch.full((2, 3, 3), label, dtype=torch.uint8))
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()
    assert (value.item() == 0) == (label == 255)


def test_balanced_loss_of_a_batch_is_the_mean_over_its_images(batch):
    """What lets accumulation and several processes equal one big batch."""
    logits, labels = batch
    parts = [balanced_loss(logits[i : i + 1], labels[i : i + 1]) for i in range(len(logits))]
    torch.testing.assert_close(balanced_loss(logits, labels), torch.stack(parts).mean())


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "iterations", "batch", "images"),
    [
        ("deeplab_v2", 20_000, 10, 10_582),
        ("deeplab_v2_balanced", 30_000, 10, 10_582),
        ("deeplab_v2_coco", 100_000, 20, 82_081),
        ("large_fov_step", 6_000, 30, 10_582),
        ("large_fov_poly", 20_000, 10, 10_582),
    ],
)
def test_epochs_of_published_iterations(preset, iterations, batch, images):
    found = segment_params(preset)
    assert (found.batch_size, found.epochs) == (batch, round(iterations * batch / images))


def test_published_settings():
    v2 = segment_params("deeplab_v2")
    assert v2 == SegmentParams()
    assert (v2.lr, v2.crop, v2.weight_decay, v2.momentum, v2.power) == (2.5e-4, 321, 5e-4, 0.9, 0.9)
    assert (v2.scale, v2.train_scales) == ((0.5, 0.75, 1, 1.25, 1.5), (1, 0.75, 0.5))
    assert (v2.batch_size // v2.accumulate, v2.freeze_bn) == (5, True)
    balanced = segment_params("deeplab_v2_balanced")
    assert (balanced.loss, balanced.scale[-1]) == ("balanced", 2.0)
    step = segment_params("large_fov_step")
    assert step.step_every * 10_582 // step.batch_size == pytest.approx(4000, rel=0.05)
    psl = segment_params("psl", lr=1.0)
    assert (psl.architecture, psl.backbone, psl.lr, psl.step_every, psl.epochs) == (
        *("large_fov", "vgg16_large_fov", 1.0, 6, 15),
    )
    assert type(v2.settings()) is TrainSettings
    for preset in PRESETS:
        segment_params(preset)
    with pytest.raises(ConfigError, match="unknown preset 'deeplab'"):
        segment_params("deeplab")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": "dice"}, "unknown loss 'dice'"),
        ({"loss_grid": "images"}, "unknown loss_grid 'images'; did you mean 'image'"),
        ({"select": "first"}, "unknown select"),
        ({"scale": ()}, "scale needs at least one factor above 0"),
        ({"scale": (0, 1)}, "scale needs at least one factor above 0"),
        ({"scale_pick": "uniform"}, "uniform needs two factors"),
        ({"scale_pick": "uniform", "scale": (2, 1)}, "the smaller first"),
        ({"train_scales": (0.5, 1)}, "train_scales starts with 1"),
        ({"crop": 0}, "crop must be positive"),
        ({"long_side": 0}, "long_side must be positive"),
        ({"hflip": 2}, "hflip is a probability"),
        ({"augment": {"blur": {}}}, "unknown augmentation"),
        ({"lr": -1}, "lr must not be negative"),
    ],
)
def test_impossible_parameters_are_named(changes, words):
    with pytest.raises(ConfigError, match=words):
        params(**changes)


# --- samples ---------------------------------------------------------------------------------------------------------


class Squares:
    """Grey noise with a red (class 0) or blue (class 1) square; the true mask has a rim of 255. Labels are the mask."""

    class_names = ("red", "blue")

    def __init__(self, count, seed=0, size=(44, 48), masks=True):
        rng = np.random.default_rng(seed)
        self.ids = [f"{seed}-{i:02d}" for i in range(count)]
        self.photos, self.masks, self.has_masks = {}, {}, masks
        for number, name in enumerate(self.ids):
            image = rng.integers(90, 160, (*size, 3), dtype=np.uint8)
            y, x = (int(rng.integers(1, n - 25)) for n in size)
            label = np.zeros(size, np.uint8)
            label[y - 1 : y + 25, x - 1 : x + 25] = 255
            label[y : y + 24, x : x + 24] = 1 + number % 2
            image[y : y + 24, x : x + 24] = (220, 30, 30) if number % 2 == 0 else (30, 30, 220)
            self.photos[name], self.masks[name] = image, label

    def image(self, image_id):
        return self.photos[image_id]

    def read(self, image_id):
        return self.masks[image_id]

    def mask(self, image_id):
        return self.masks[image_id] if self.has_masks else None


def samples(catalog, **changes):
    return SegmentSamples(catalog, catalog, params(**changes), (0.5,) * 3, (0.25,) * 3)


def test_photo_and_labels_stay_together():
    made = samples(Squares(6), crop=64)
    for index in range(6):
        sample = made.sample(index, np.random.default_rng(index))
        image, label = sample["image"], sample["label"]
        assert (image.shape, image.dtype) == ((3, 64, 64), torch.float32)
        assert (label.shape, label.dtype) == ((64, 64), torch.uint8)
        inside = image[0 if index % 2 == 0 else 2][label == 1 + index % 2]
        assert len(inside) > 200 and inside.mean() > 1  # (220/255 - .5)/.25 = 1.45, the ground has 0
        assert (image[0 if index % 2 == 0 else 2][label == 0]).abs().max() < 1
        again = made.sample(index, np.random.default_rng(index))
        assert torch.equal(again["image"], image) and torch.equal(again["label"], label)


def test_padding_is_the_mean_and_no_label():
    catalog = Squares(1)
    catalog.photos[catalog.ids[0]] = np.full((20, 30, 3), 255, np.uint8)
    catalog.masks[catalog.ids[0]] = np.ones((20, 30), np.uint8)
    sample = samples(catalog, scale=(1,)).sample(0, np.random.default_rng(0))
    known = sample["label"] == 1
    assert int(known.sum()) == 600
    assert (sample["label"][~known] == 255).all()
    assert (sample["image"][:, ~known] == 0).all() and (sample["image"][:, known] == 2).all()


def visible(made, count=60):
    """(height, width) of the photo in each of ``count`` samples of the first image."""
    for number in range(count):
        known = made.sample(0, np.random.default_rng(number))["label"] != 255
        yield int(known.any(dim=1).sum()), int(known.any(dim=0).sum())


def plain_photo(size):
    catalog = Squares(1, size=(44, 48))
    catalog.photos[catalog.ids[0]] = np.zeros((*size, 3), np.uint8)
    catalog.masks[catalog.ids[0]] = np.zeros(size, np.uint8)
    return catalog


def test_scales():
    catalog = plain_photo((40, 30))
    assert set(visible(samples(catalog, crop=64, scale=(0.5, 1, 1.5)))) == {(20, 15), (40, 30), (60, 45)}
    found = set(visible(samples(catalog, crop=64, scale=(0.5, 1.5), scale_pick="uniform")))
    assert len(found) > 20
    assert {h for h, _ in found} <= set(range(20, 61)) and min(found)[0] < 25 and max(found)[0] > 55
    assert all(abs(w - 0.75 * h) <= 1 for h, w in found)
    assert set(visible(samples(catalog, crop=64, long_side=20, scale=(1, 2)))) == {(20, 15), (40, 30)}


def test_augmentations_reach_the_photo_and_the_input():
    catalog = plain_photo((40, 40))
    options = {"hide_and_seek": {"sizes": (8,), "p": 0.5}}
    image = samples(catalog, scale=(1,), augment=options).sample(0, np.random.default_rng(0))["image"]
    assert set(image.unique().tolist()) == {-2.0, 0.0}
    catalog.photos[catalog.ids[0]][:] = (200, 100, 50)
    image = samples(catalog, scale=(1,), augment={"colour_jitter": {}}).sample(0, np.random.default_rng(0))["image"]
    assert abs(image[0, 0, 0].item() - (200 / 255 - 0.5) / 0.25) > 0.01


def test_wrong_labels_are_named():
    catalog = Squares(2)
    catalog.masks[catalog.ids[0]] = np.zeros((4, 4), np.uint8)
    catalog.masks[catalog.ids[1]] = np.full((44, 48), 3, np.uint8)
    with pytest.raises(DataError, match=r"image '0-00' is \(44, 48\) pixels, its labels are for \(4, 4\)"):
        samples(catalog).sample(0, np.random.default_rng(0))
    with pytest.raises(DataError, match="image '0-01': its labels have 3, but there are 2 classes"):
        samples(catalog).sample(1, np.random.default_rng(0))


# --- the task --------------------------------------------------------------------------------------------------------


def task(val=None, **changes):
    asked = params(**changes)
    return SegmentTask(asked.build(2), samples(Squares(4), **changes), asked, val)


def some_batch(task, count=3):
    parts = [task.dataset.sample(i, np.random.default_rng(i)) for i in range(count)]
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}


def test_one_loss_per_scale_and_one_for_the_maximum():
    made = task(train_scales=(1, 0.75, 0.5), freeze_bn=True)
    batch = some_batch(made)
    total, logs = made.step(batch)
    images, labels, expected = batch["image"], batch["label"], {}
    logits = [made.model(images)]
    for scale in (0.75, 0.5):
        logits.append(made.model(functional.interpolate(images, scale_factor=scale, mode="bilinear")))
    small = [functional.interpolate(one, size=(5, 5), mode="bilinear") for one in logits]
    logits.append(torch.maximum(torch.maximum(small[0], small[1]), small[2]))
    for name, one in zip(("1", "0.75", "0.5", "max"), logits, strict=True):
        size = tuple(one.shape[2:])[::-1]
        reduced = [
            np.asarray(Image.fromarray(label.numpy()).resize(size, Image.Resampling.NEAREST)) for label in labels
        ]
        target = torch.from_numpy(np.stack(reduced)).long()
        expected[f"loss_{name}"] = functional.cross_entropy(one, target, ignore_index=255).item()
    assert {name: value.item() for name, value in logs.items()} == pytest.approx(expected, rel=1e-5)
    assert total.item() == pytest.approx(sum(expected.values()), rel=1e-5)


def test_one_scale_has_one_loss_on_either_grid():
    for grid in ("network", "image"):
        made = task(loss_grid=grid, loss="balanced", freeze_bn=True)
        batch = some_batch(made)
        total, logs = made.step(batch)
        logits, labels = made.model(batch["image"]), batch["label"]
        if grid == "image":
            logits = functional.interpolate(logits, size=(40, 40), mode="bilinear")
        else:
            labels = labels[:, 4::8, 4::8]
        assert logs == {}
        torch.testing.assert_close(total, balanced_loss(logits, labels))


def test_a_subclass_brings_its_own_loss():
    class Mine(SegmentTask):
        def loss(self, logits, labels, batch):
            return logits.mean() * 0 + batch["bonus"].sum() + labels.shape[1]

    made = task()
    mine = Mine(made.model, made.dataset, made.params)
    total, _ = mine.step({**some_batch(made), "bonus": torch.ones(3)})
    assert total.item() == 3 + 5


@pytest.mark.parametrize("architecture", ["deeplab_v2", "large_fov"])
def test_learning_rates(architecture):
    options = {"architecture": architecture, "rates": (1,), "head_width": 8}
    made = task(**options, freeze_bn=True)
    optimizer = build_optimizer(made.param_groups(), made.params.settings())
    found = {
        id(p): (group["initial_lr"] / made.params.lr, group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    decay, last = made.params.weight_decay, {"deeplab_v2": "head.c0", "large_fov": "head.fc8"}[architecture]
    for name, parameter in made.model.named_parameters():
        if "bn" in name or ".1." in name:  # frozen norms
            assert id(parameter) not in found, name
            continue
        factor = (10 if name.startswith(last) else 1) * (2 if name.endswith("bias") else 1)
        assert found[id(parameter)] == (pytest.approx(factor), 0 if name.endswith("bias") else decay), name


# --- validation ------------------------------------------------------------------------------------------------------


def test_val_miou_is_of_whole_photos_at_scale_one():
    val = Squares(4, seed=3, size=(41, 53))
    val.masks["3-02"] = None
    made = task(val)
    made.model.eval()
    confusion = np.zeros((3, 3), np.int64)
    with torch.no_grad():
        for image_id in ("3-00", "3-01", "3-03"):
            x = (torch.from_numpy(val.image(image_id) / 255.0) - torch.tensor(made.model.mean)) / torch.tensor(
                made.model.std
            )
            logits = made.model(x.permute(2, 0, 1)[None].float())
            large = functional.interpolate(logits, size=(41, 53), mode="bilinear", align_corners=False)
            confusion += confusion_matrix(val.mask(image_id), large[0].argmax(0).numpy(), 3)
        assert np.array_equal(made.val_confusion(), confusion)
        assert made.evaluate() == {"val_miou": float(miou(confusion))}
        resized = list(predict_labels(made.model, val, params(long_side=80)))
    assert [name for name, *_ in resized] == ["3-00", "3-01", "3-03"]
    assert {labels.shape for _, labels, _ in resized} == {(41, 53)}


def test_processes_share_the_validation():
    made = task(Squares(3, seed=3))
    made.model.eval()
    with torch.no_grad():
        whole = made.val_confusion()

    def check():
        with distributed.process_group(torch.device("cpu")), torch.no_grad():
            assert distributed.world_size() == 2
            assert np.array_equal(made.val_confusion(), whole)

    assert run_two(check) == [0, 0]


def test_what_cannot_be_validated_or_selected():
    with pytest.raises(ConfigError, match="has no true masks"):
        task(Squares(2, masks=False))
    with pytest.raises(ConfigError, match="select: best needs a validation split"):
        task(select="best")
    assert task().evaluate() == {}


# --- the stage -------------------------------------------------------------------------------------------------------


def train(folder, val=None, **changes):
    folder.mkdir(exist_ok=True)
    catalog = Squares(24, 1)
    return train_segmenter(
        catalog,
        catalog,
        params(**changes),
        **run_in(folder, "segmenter.pt"),
        catalog_val=val,
    )


@pytest.mark.parametrize(
    ("architecture", "options"),
    [("deeplab_v2", {"epochs": 8}), ("large_fov", {"epochs": 16, "rates": (1,), "head_width": 64})],
)
def test_it_learns_and_writes(tmp_path, architecture, options):
    model = train(tmp_path, Squares(8, 2), architecture=architecture, batch_size=4, **options)
    rows = table(tmp_path)
    assert list(rows[0]) == ["epoch", "lr", "train_loss", "val_miou"]
    assert rows[-1]["val_miou"] > 0.7  # nothing but background has 0.2
    loaded = load_segmenter(tmp_path / "segmenter.pt")
    assert loaded.class_names == ["red", "blue"] and loaded.meta["method"] == architecture
    assert "selected_on" not in loaded.meta
    assert loaded.meta["metrics"]["val_miou"] == pytest.approx(rows[-1]["val_miou"])
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
    assert not list((tmp_path / "scratch").glob("*.ckpt"))


def test_columns_of_several_scales(tmp_path):
    train(tmp_path, epochs=1, train_scales=(1, 0.5))
    (row,) = table(tmp_path)
    assert list(row) == ["epoch", "lr", "train_loss", "train_loss_0.5", "train_loss_1", "train_loss_max"]
    parts = [row[f"train_loss_{name}"] for name in ("0.5", "1", "max")]
    assert row["train_loss"] == pytest.approx(sum(parts), rel=1e-5)


def fixed_scores(monkeypatch, scores, seen):
    """Let the validation of epoch e find a confusion whose mIoU is ``scores[e]``; record the weights it saw."""

    def confusion(self):
        right = round(scores[self.epoch] * 100)
        seen[self.epoch] = {name: value.clone() for name, value in self.model.state_dict().items()}
        return np.diag([right, right, right]) + np.roll(np.diag([100 - right] * 3), 1, axis=1)

    monkeypatch.setattr(SegmentTask, "val_confusion", confusion)


def test_best_weights_are_kept_through_an_interruption(tmp_path, monkeypatch):
    val, seen = Squares(2, 2), {}
    scores = [0.3, 0.8, 0.8, 0.5]  # the first of equals
    fixed_scores(monkeypatch, scores, seen)
    changes = {"epochs": 4, "select": "best"}
    model = train(tmp_path / "a", val, **changes)
    assert all(torch.equal(value, seen[1][name]) for name, value in model.state_dict().items())
    assert not torch.equal(seen[3]["head.c0.weight"], seen[1]["head.c0.weight"])
    facts = load_segmenter(tmp_path / "a" / "segmenter.pt").meta
    assert (facts["selected_on"], facts["selected_epoch"]) == ("val", 2)
    assert facts["selected_miou"] == pytest.approx(max(row["val_miou"] for row in table(tmp_path / "a")))
    for stop in (2, 3):  # within the epochs behind the best; its weights come back from the checkpoint
        step, calls = SegmentTask.step, []

        def failing(self, batch, step=step, calls=calls, stop=stop):
            calls.append(1)
            if len(calls) == 3 * stop + 2:
                raise KeyboardInterrupt
            return step(self, batch)

        folder = tmp_path / f"stop{stop}"
        with monkeypatch.context() as patch:
            patch.setattr(SegmentTask, "step", failing)
            with pytest.raises(KeyboardInterrupt):
                train(folder, val, **changes)
        train(folder, val, **changes)
        for name in ("segmenter.pt", "metrics.csv"):
            assert (tmp_path / "a" / name).read_bytes() == (folder / name).read_bytes()


def test_a_run_killed_before_writing_still_writes_the_best(tmp_path, monkeypatch):
    val, seen = Squares(2, 2), {}
    fixed_scores(monkeypatch, [0.9, 0.2], seen)
    with monkeypatch.context() as patch:
        patch.setattr("camflow.train.tofile.write_metrics", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, val, select="best")
    model = train(tmp_path, val, select="best")
    assert all(torch.equal(value, seen[0][name]) for name, value in model.state_dict().items())
    assert model.meta["selected_epoch"] == 1


def test_accumulation_of_the_balanced_loss_changes_rounding_only(tmp_path):
    changes = {"loss": "balanced", "freeze_bn": True, "epochs": 1}
    whole, parts = (train(tmp_path / str(n), accumulate=n, **changes).state_dict() for n in (1, 4))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-5)
    fresh = build_segmenter("deeplab_v2", "tiny", 2, width=8, rates=(1, 2)).state_dict()
    assert (whole["head.c0.weight"] - fresh["head.c0.weight"]).abs().max() > 1e-3


def test_two_processes_write_one_file_like_one(tmp_path):
    """The balanced loss is a mean over images, and running statistics are frozen, so the parts of a batch add up."""
    changes = {"loss": "balanced", "freeze_bn": True, "epochs": 1}
    one = train(tmp_path / "one", Squares(5, 3), **changes).state_dict()
    assert run_two(lambda: train(tmp_path / "two", Squares(5, 3), **changes)) == [0, 0]
    two = load_segmenter(tmp_path / "two" / "segmenter.pt").state_dict()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5)
    for a, b in zip(table(tmp_path / "one"), table(tmp_path / "two"), strict=True):
        assert a == pytest.approx(b, rel=1e-3)
