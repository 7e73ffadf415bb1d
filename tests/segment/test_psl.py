"""Online prohibitive segmentation learning: stored arrays of the written formula, and its properties."""

import dataclasses

import numpy as np
import pytest
import torch

from camflow.errors import ConfigError, DataError
from camflow.models.segmenter import load_segmenter
from camflow.segment.labels import kept_channels, label_of
from camflow.segment.psl import (
    REDUCTIONS,
    VARIANTS,
    class_weights,
    online_labels,
    psl_losses,
)
from camflow.train.psl import PslParams, PslSamples, PslTask, train_psl
from camflow.train.segment import PRESETS, SegmentParams, SegmentSamples
from tests.golden.loader import golden
from tests.train.runs import run_in
from tests.train.test_irn_train import FakeCatalog

TOLERANCE = 1e-10  # README of the arrays
MARGIN = 1e-5  # labels count only where the best score is this much above the second


@pytest.fixture(scope="module")
def arrays():
    return golden("psl")


def inputs(arrays):
    logits = torch.from_numpy(arrays["logits"]).double()
    return logits, torch.from_numpy(arrays["confidence"]), torch.from_numpy(arrays["image_labels"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_online_labels(arrays, variant):
    logits, confidence, image_labels = inputs(arrays)
    online = online_labels(logits, class_weights(confidence, image_labels, variant, float(arrays["threshold"])))
    sure = arrays[f"{variant}_online_margin"] > MARGIN
    assert sure.mean() > 0.99
    assert np.array_equal(online.numpy()[sure], arrays[f"{variant}_online_labels"][sure])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_gradients(arrays, variant, reduction):
    logits = inputs(arrays)[0].requires_grad_()
    online = torch.from_numpy(arrays[f"{variant}_online_labels"]).long()
    terms = psl_losses(logits, torch.from_numpy(arrays["labels"]), online, reduction)
    for name, key in (("labels", "term_labels"), ("online", "term_online"), ("loss", "loss")):
        assert terms[name].item() == pytest.approx(float(arrays[f"{variant}_{reduction}_{key}"]), abs=TOLERANCE)
    terms["loss"].backward()
    expected = arrays[f"{variant}_{reduction}_grad"]
    every = 4 if reduction == "per_image" else 1
    np.testing.assert_allclose(logits.grad[:, ::every].numpy(), expected, rtol=0, atol=TOLERANCE)


def test_the_classes_removed_at_test_time(arrays):
    logits, confidence, _ = inputs(arrays)
    kept = [kept_channels(own, float(arrays["threshold"])) for own in confidence.numpy()]
    assert np.array_equal(kept, arrays["test_channel_kept"].astype(bool))
    sure = arrays["test_margin"] > MARGIN
    found = np.stack([label_of(scores, keep) for scores, keep in zip(logits.numpy(), kept, strict=True)])
    assert np.array_equal(found[sure], arrays["test_labels"][sure])
    assert (logits.argmax(dim=1).numpy() != arrays["test_labels"])[sure].any()  # the filter matters here


def test_the_loss_by_hand():
    """Two pixels, one labelled; its online label differs from its label."""
    probabilities = torch.tensor([[0.5, 0.2], [0.3, 0.1], [0.2, 0.7]], dtype=torch.float64)  # (class, pixel)
    weights = class_weights(torch.tensor([[1.0, 0.05]]), None, "plain")
    online = online_labels(probabilities.log()[None, :, None], weights)
    assert online.tolist() == [[[0, 0]]]  # .7 * .05 is less than .2
    labels = torch.tensor([[[1, 255]]], dtype=torch.uint8)
    terms = psl_losses(probabilities.log()[None, :, None], labels, online)
    assert terms["labels"].item() == pytest.approx(-np.log(0.3))
    assert terms["online"].item() == pytest.approx(-(np.log(0.5) + np.log(0.2)) / 2)


def test_padding_has_no_online_label():
    """Three pixels of one photo and one of another; what is outside has the largest errors."""
    shares = torch.tensor([[[0.5, 0.9, 0.1]], [[0.25, 0.9, 0.9]]], dtype=torch.float64)[:, None]
    logits = torch.cat([shares, 1 - shares], dim=1).log()  # (2, 2, 1, 3)
    labels = torch.full((2, 1, 3), 255, dtype=torch.uint8)
    online = torch.zeros(2, 1, 3, dtype=torch.int64)
    inside = torch.tensor([[[1, 1, 0]], [[1, 0, 0]]], dtype=torch.uint8)
    pooled = psl_losses(logits, labels, online, "pooled", inside)["online"].item()
    assert pooled == pytest.approx(-np.log(0.5 * 0.9 * 0.25) / 3)
    per_image = psl_losses(logits, labels, online, "per_image", inside)["online"].item()
    assert per_image == pytest.approx(-(np.log(0.5 * 0.9) / 2 + np.log(0.25)) / 2)
    assert psl_losses(logits, labels, online, "pooled", 0 * inside)["online"].item() == 0


def test_absent_classes_can_never_be_online_labels():
    rng = torch.Generator().manual_seed(0)
    logits = 30 * torch.randn(3, 6, 8, 9, generator=rng)  # many probabilities underflow
    image_labels = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 0, 0, 1], [0, 1, 1, 1, 0]])
    online = online_labels(logits, class_weights(torch.ones(3, 5), image_labels, "label_and"))
    for image in range(3):
        allowed = {0, *(image_labels[image].nonzero().flatten() + 1).tolist()}
        assert set(online[image].unique().tolist()) == allowed
    assert len(online_labels(logits, class_weights(torch.ones(3, 5), None, "plain"))[0].unique()) == 6


def test_scores_that_underflow_are_still_compared():
    logits = torch.tensor([0.0, 10.0, 500.0]).view(1, 3, 1, 1)  # the softmax of the first two is 0 in float32
    weights = class_weights(torch.tensor([[0.9, 0.0]]), None, "plain")
    assert online_labels(logits, weights).item() == 1


def test_images_without_labels_leave_a_finite_loss():
    logits = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
    labels = torch.full((2, 5, 6), 255, dtype=torch.uint8)
    online = online_labels(logits, torch.ones(2, 4))
    for reduction in REDUCTIONS:
        terms = psl_losses(logits, labels, online, reduction)
        assert terms["labels"].item() == 0
        assert terms["loss"].item() == terms["online"].item() > 0


def test_wrong_choices_are_named():
    with pytest.raises(ConfigError, match="did you mean 'threshold'"):
        class_weights(torch.ones(1, 2), None, "treshold")
    with pytest.raises(ConfigError, match="needs image labels"):
        class_weights(torch.ones(1, 2), None, "label_and")
    with pytest.raises(ConfigError, match="did you mean 'pooled'"):
        psl_losses(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1), torch.zeros(1, 1, 1).long(), "pool")


# --- training --------------------------------------------------------------------------------------------------------

SMALL = {
    "epochs": 2,
    "batch_size": 4,
    "crop": 48,
    "backbone": "tiny",
    "width": 4,
    "head_width": 16,
    "rates": (2,),
    "freeze_bn": False,
}
STRONG = {"epochs": 25, "lr": 0.01, "optimizer": "adamw", "schedule": "constant", "evaluate_every": 0, "width": 8}


class Squares(FakeCatalog):
    """Photos with a square each, seeds of their middles, and a classifier that doubts every second photo."""

    has_masks = True

    def label(self, image_id):
        return np.array(
            [self.mask(image_id).max(initial=0, where=self.mask(image_id) < 255) == c for c in (1, 2)], np.uint8
        )

    def mask(self, image_id):
        return self.masks[image_id]

    def read(self, image_id):
        rows, columns = np.nonzero(np.isin(self.masks[image_id], (1, 2)))
        seeds = np.full_like(self.masks[image_id], 255)
        seeds[:4], seeds[-4:] = self.masks[image_id][:4], self.masks[image_id][-4:]
        middle = np.s_[rows.min() + 4 : rows.max() - 3, columns.min() + 4 : columns.max() - 3]
        seeds[middle] = self.masks[image_id][middle]
        return seeds


class Confidences:
    def __init__(self, values):
        self.values = values

    def read(self, image_id):
        return self.values[image_id]


def confident(catalog):
    return Confidences({i: 0.1 + 0.8 * catalog.label(i) for i in catalog.ids})


def train(folder, catalog=None, **changes):
    folder.mkdir(exist_ok=True)
    catalog = catalog or Squares(8)
    return train_psl(
        catalog,
        catalog,
        confident(catalog),
        PslParams(**{**SMALL, **changes}),
        **run_in(folder, "psl.pt"),
        catalog_val=catalog,
    )


def test_the_defaults_are_the_published_ones():
    common = {field.name for field in dataclasses.fields(SegmentParams)}
    expected = SegmentParams(**PRESETS["psl"])
    assert all(getattr(PslParams(), name) == getattr(expected, name) for name in common)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"variant": "labels"}, "unknown variant"),
        ({"reduction": "mean"}, "unknown reduction"),
        ({"threshold": 1.1}, "threshold"),
        ({"loss": "balanced"}, "has its own loss"),
    ],
)
def test_impossible_parameters_are_named(changes, words):
    with pytest.raises(ConfigError, match=f"psl: {words}"):
        PslParams(**changes)


@pytest.mark.parametrize("values", [[0.5], [0.5, 1.1], [0.5, np.nan], [[0.5, 0.5]], []])
def test_what_are_no_confidences_is_named(values):
    catalog, params = Squares(2), PslParams(**SMALL)
    stored = Confidences(dict.fromkeys(catalog.ids, np.array(values)))
    samples = PslSamples(catalog, catalog, stored, params, (0.5,) * 3, (0.25,) * 3)
    with pytest.raises(DataError, match=f"image '{catalog.ids[1]}': its confidences must be 2 numbers"):
        samples.sample(1, np.random.default_rng(0))


def test_samples_say_what_is_photo():
    catalog = Squares(2)
    height, width = catalog.image(catalog.ids[0]).shape[:2]
    for crop in (height + 9, height - 9):
        params = PslParams(**{**SMALL, "crop": crop})
        samples = PslSamples(catalog, catalog, confident(catalog), params, (0.9,) * 3, (0.25,) * 3)
        plain = SegmentSamples(catalog, catalog, params, (0.9,) * 3, (0.25,) * 3)
        sample, other = (one.sample(0, np.random.default_rng(1)) for one in (samples, plain))
        assert torch.equal(sample["image"], other["image"]) and torch.equal(sample["label"], other["label"])
        assert sample["inside"].sum() == min(height, crop) * min(width, crop)
        # No photo here has the mean colour, so what is 0 in all channels is padding.
        assert torch.equal(sample["inside"].bool(), (sample["image"] != 0).any(dim=0))
        assert (sample["label"][sample["inside"] == 0] == 255).all()


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.5)])
def test_the_step_is_the_sum_over_scales(scales):
    catalog, params = Squares(4), PslParams(**SMALL, train_scales=scales)
    model = params.build(2)
    task = PslTask(model, PslSamples(catalog, catalog, confident(catalog), params, model.mean, model.std), params)
    parts = [task.dataset.sample(i, np.random.default_rng(i)) for i in range(4)]
    batch = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
    assert batch["confidence"].tolist() == [pytest.approx([0.9, 0.1]), pytest.approx([0.1, 0.9])] * 2
    assert batch["present"].tolist() == [[1, 0], [0, 1]] * 2
    torch.manual_seed(0)
    loss, logs = task.step(batch)
    assert loss.item() == pytest.approx((logs["labels_term"] + logs["online_term"]).item())
    torch.manual_seed(0)  # of the dropout
    weights = class_weights(batch["confidence"], batch["present"], "label_and", 0.1)
    expected = {"labels": 0.0, "online": 0.0}
    for logits in task.outputs(batch["image"]).values():
        rows = (np.arange(logits.shape[2]) * 2 + 1) * 48 // (2 * logits.shape[2])  # centres of cells
        labels = batch["label"][:, rows][:, :, rows]
        inside = batch["inside"][:, rows][:, :, rows]
        terms = psl_losses(logits, labels, online_labels(logits, weights), inside=inside)
        expected = {name: value + terms[name].item() for name, value in expected.items()}
    for name, value in expected.items():
        assert logs[f"{name}_term"].item() == pytest.approx(value, rel=1e-5)


def test_it_learns_and_writes(tmp_path):
    catalog = Squares(8)
    train(tmp_path / "run", catalog, **STRONG)
    names, *rows = [line.split(",") for line in (tmp_path / "run" / "metrics.csv").read_text().splitlines()]
    assert {"train_loss", "train_labels_term", "train_online_term", "val_miou"} < set(names)
    first, last = (float(row[names.index("train_loss")]) for row in (rows[0], rows[-1]))
    assert last < 0.6 * first
    assert float(rows[-1][names.index("val_miou")]) > 0.4  # all background would have 0.26
    loaded = load_segmenter(tmp_path / "run" / "psl.pt")
    assert loaded.meta["method"] == "psl" and loaded.meta["params"]["variant"] == "label_and"
    assert loaded.class_names == ["red", "blue"]
