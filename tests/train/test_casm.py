"""CASM: losses against the authors' implementation, the history, one run against a plain loop, resuming."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils.data import default_collate

from camflow.errors import ConfigError, DataError
from camflow.models.classifier import build_classifier, save_classifier
from camflow.models.masker import load_masker
from camflow.train import casm
from camflow.train.augment import crop_box
from camflow.train.casm import (
    NEVER,
    CasmParams,
    CasmTask,
    History,
    casm_from_config,
    casm_params,
    run_snapshot,
    train_casm,
    with_loss,
)
from camflow.train.casm_losses import (
    area_term,
    is_correct,
    mask_in_losses,
    mask_out_losses,
    mask_statistics,
    negative_entropy,
    total_variation,
)
from camflow.train.classify import LabelledSamples
from camflow.train.loop import fit
from camflow.train.order import derive_seed, epoch_batches, sample_generator
from tests.golden.loader import golden
from tests.train.processes import run_two
from tests.train.runs import run_in, same_bytes, table

PUBLISHED = ("F", "L", "FL", "L100", "L1000")
SMALL = {
    **{"backbone": "tiny", "width": 4, "epochs": 2, "batch_size": 8, "crop": 24, "crop_area": None, "scale": (24, 32)},
    **{"epoch_share": 1.0, "lr": 0.02, "masker_lr": 0.01, "save_every": 2, "f_size": 3},
}


# --- losses ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arrays():
    return golden("casme_losses")


def cross_entropy(logits, label):
    return functional.cross_entropy(logits, label.argmax(1))


def one_hot(arrays):
    return functional.one_hot(torch.from_numpy(arrays["target"]), 10).float()


def stand_in(arrays, which):
    """The linear classifiers of the arrays."""
    weight, bias = (torch.from_numpy(arrays[f"{name}_{which}"]).requires_grad_() for name in ("W", "b"))

    def classify(images):
        return functional.adaptive_avg_pool2d(images, 4).flatten(1) @ weight.T + bias

    return classify, weight, bias


def images_and_mask(arrays):
    small = torch.from_numpy(arrays["mask56"]).requires_grad_()
    x = functional.interpolate(torch.from_numpy(arrays["x28"]), scale_factor=8)
    return x, small, functional.interpolate(small, scale_factor=4)


def close(found, expected, atol=1e-6, rtol=1e-4):
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=rtol, atol=atol)


def test_classifier_loss_and_decisions(arrays):
    x, _, mask = images_and_mask(arrays)
    label = one_hot(arrays)
    for which, images in (("clean", x), ("masked", x * (1 - mask.detach()))):
        classify, weight, _ = stand_in(arrays, which)
        logits = classify(images)
        close(logits, arrays[f"logits_{which}"], atol=2e-5, rtol=0)
        loss = cross_entropy(logits, label)
        assert loss.item() == pytest.approx(float(arrays[f"ce_{which}"]), abs=1e-5)
        close(torch.autograd.grad(loss, weight)[0], arrays[f"ce_{which}_grad_W"])
    clean, masked = (torch.from_numpy(arrays[f"logits_{w}"]) for w in ("clean", "masked"))
    right = is_correct(clean, label)
    assert np.array_equal(right.numpy(), arrays["correct_on_clean"])
    assert np.array_equal(~is_correct(masked, label).numpy(), arrays["mistaken_on_masked"])
    assert np.array_equal((right & ~is_correct(masked, label)).numpy(), arrays["nontrivially_confused"])


@pytest.mark.parametrize("score", ["entropy", "adversarial"])
@pytest.mark.parametrize("preset", PUBLISHED)
def test_masker_loss(arrays, preset, score):
    key = f"{preset}_{score}"
    params = casm_params(preset, score=score)
    assert params.lambda_r == float(arrays[f"{key}_lambda_r"])
    x, small, mask = images_and_mask(arrays)
    logits = stand_in(arrays, "masked")[0](x * (1 - mask))
    clean, label = torch.from_numpy(arrays["logits_clean"]), one_hot(arrays)
    terms = mask_out_losses(clean, logits, mask, label, score=score, area_weight=params.lambda_r, loss=cross_entropy)
    for name, stored in (("loss", "loss"), ("main", "main_term"), ("area", "area_term")):
        assert terms[name].item() == pytest.approx(float(arrays[f"{key}_{stored}"]), abs=1e-5)
    by_mask, by_logits = torch.autograd.grad(terms["loss"], (small, logits), retain_graph=True)
    close(by_mask, arrays[f"{key}_grad_mask56"])
    close(by_logits, arrays[f"{key}_grad_logits_masked"])
    (by_area,) = torch.autograd.grad(terms["area"], small)
    close(by_area.amax(dim=(1, 2, 3)), arrays[f"{key}_grad_mask56_area_only"])
    assert torch.equal(by_area.amax(dim=(1, 2, 3)), by_area.amin(dim=(1, 2, 3)))


def test_the_area_penalty_is_there(arrays):
    """Adding two booleans and comparing with 2 is never true today, which would lose the term without a word."""
    _, _, mask = images_and_mask(arrays)
    clean, masked = (torch.from_numpy(arrays[f"logits_{w}"]) for w in ("clean", "masked"))
    terms = mask_out_losses(clean, masked, mask, one_hot(arrays), score="entropy", area_weight=2.5, loss=cross_entropy)
    confused = arrays["nontrivially_confused"]
    assert 0 < confused.sum() < len(confused)
    expected = -2.5 * np.where(confused, 1 - arrays["mask_mean"], 0).mean()
    assert terms["area"].item() == pytest.approx(expected, abs=1e-5)
    assert terms["area"].item() < float(arrays["F_entropy_area_term_if_bool_sum_bug"]) - 0.1


def test_a_larger_mask_costs_only_where_it_confuses():
    mask = torch.full((2, 1, 4, 4), 0.25, requires_grad=True)
    area_term(mask, torch.tensor([True, False]), 8.0).backward()
    assert (mask.grad[0] == 8 / 2 / 16).all() and not mask.grad[1].any()
    assert area_term(mask, torch.tensor([True, False]), 8.0).item() == -3.0


def test_statistics(arrays):
    _, _, mask = images_and_mask(arrays)
    found = mask_statistics(mask)
    names = {"mean": "stat_avg_mask", "std": "stat_std_mask", "entropy": "stat_entropy", "tv": "stat_tv"}
    for name, stored in names.items():
        assert found[name].item() == pytest.approx(float(arrays[stored]), abs=1e-6), name
    binary = mask_statistics((torch.arange(16.0).view(1, 1, 4, 4) > 7).float())
    assert {k: v.item() for k, v in binary.items()} == {"mean": 0.5, "std": 0, "entropy": 0, "tv": pytest.approx(1 / 3)}


@pytest.mark.parametrize("preset", ["FIX", "CA"])
def test_follow_up_losses(arrays, preset):
    params, key = casm_params(preset), f"fork_{preset.lower()}"
    assert params.lambda_r == float(arrays[f"{key}_mask_out_lambda"])
    x, small, mask = images_and_mask(arrays)
    label = one_hot(arrays)
    classify = stand_in(arrays, "masked")[0]
    kept = classify(x * mask)
    close(kept, arrays["logits_masked_in"], atol=2e-5, rtol=0)
    clean = torch.from_numpy(arrays["logits_clean"])
    out = mask_out_losses(
        clean,
        classify(x * (1 - mask)),
        mask,
        label,
        score="entropy",
        area_weight=params.lambda_r,
        loss=cross_entropy,
    )
    within = mask_in_losses(kept, mask, label, area_weight=params.lambda_in, loss=cross_entropy)
    variation = total_variation(mask, params.tv_weight)
    assert variation.item() == pytest.approx(float(arrays[f"{key}_tv"]), abs=1e-6)
    for side, terms in (("out", out), ("in", within)):
        assert terms["main"].item() == pytest.approx(float(arrays[f"{key}_mask_{side}_main"]), abs=1e-5)
        assert terms["area"].item() == pytest.approx(float(arrays[f"{key}_mask_{side}_reg"]), abs=1e-5)
        total = terms["loss"] + variation
        assert total.item() == pytest.approx(float(arrays[f"{key}_mask_{side}_loss"]), abs=1e-5)
    total = out["loss"] + within["loss"] + 2 * variation
    close(torch.autograd.grad(total, small)[0], arrays[f"{key}_grad_mask56_sum"])


def test_right_with_several_labels_by_brute_force():
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 6, (300, 5)).astype(np.float32)  # with ties
    label = (rng.random((300, 5)) < 0.4).astype(np.float32)
    expected = []
    for scores, present in zip(logits, label, strict=True):
        best = sorted(range(5), key=lambda c: (-scores[c], c))[: int(present.sum())]
        expected.append(bool(best) and set(best) == set(np.flatnonzero(present)))
    found = is_correct(torch.from_numpy(logits), torch.from_numpy(label))
    assert found.tolist() == expected and 30 < sum(expected) < 270
    single = torch.eye(5)[torch.from_numpy(rng.integers(0, 5, 300))]
    top1 = torch.from_numpy(logits).argmax(1) == single.argmax(1)
    assert torch.equal(is_correct(torch.from_numpy(logits), single), top1)


def test_entropy_by_hand():
    logits = torch.log(torch.tensor([[0.25, 0.25, 0.5], [1.0, 1.0, 1.0]]))
    expected = [0.5 * np.log(0.25) + 0.5 * np.log(0.5), np.log(1 / 3)]
    np.testing.assert_allclose(negative_entropy(logits).numpy(), expected, rtol=1e-6)


# --- parameters ------------------------------------------------------------------------------------------------------


def test_presets_are_the_published_ones():
    assert set(casm.PRESETS) == {*PUBLISHED, "FIX", "CA"}
    rows = {
        name: (p.fixed, p.hp, p.save_every, p.lambda_r, casm_params(name, score="adversarial").lambda_r)
        for name in PUBLISHED
        for p in [casm_params(name)]
    }
    assert rows == {
        "F": (True, 0, NEVER, 2.5, 9),
        "L": (False, 0, NEVER, 14, 18),
        "FL": (False, 0.5, NEVER, 7.5, 11),
        "L100": (False, 0.5, 100, 10, 17),
        "L1000": (False, 0.5, 1000, 10, 17),
    }
    fix, ca = casm_params("FIX"), casm_params("CA")
    assert (fix.fixed, fix.batch_size, fix.mask_in, fix.tv_weight, fix.lambda_in) == (True, 72, True, 1e-3, 1)
    assert (ca.fixed, ca.hp, ca.save_every) == (False, 0.5, 100)
    assert casm_params() == CasmParams()
    published = (CasmParams.epochs, CasmParams.batch_size, CasmParams.lr, CasmParams.masker_lr, CasmParams.clip)
    assert published == (60, 128, 1e-3, 1e-3, 10)
    settings = CasmParams().settings()
    assert (settings.schedule, settings.step_every, settings.gamma) == ("step", 20, 0.1)
    assert (settings.momentum, settings.momentum_slot, settings.weight_decay) == (0.9, "paper", 1e-4)


def test_an_entry_overrides_its_preset():
    params = casm_from_config({"preset": "FL", "score": "adversarial", "hp": 0.25, "taps": [1, 2], "monitor": "val"})
    assert (params.hp, params.lambda_r, params.taps, params.save_every) == (0.25, 11, (1, 2), NEVER)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"preset": "L10"}, "unknown preset 'L10'"),
        ({"preset": "CA", "score": "adversarial"}, "no lambda_r for score adversarial"),
        ({"preset": "L", "score": "entropie"}, "no lambda_r for score entropie"),
        ({"preset": "L", "score": "entropie", "lambda_r": 1.0}, "unknown score 'entropie'"),
        ({"preset": "L", "loss": "hinge"}, "unknown loss 'hinge'"),
        ({"preset": "F", "hp": 0.5}, "a fixed classifier has no past"),
        ({"preset": "L", "hp": 1.5}, "hp is a probability"),
        ({"preset": "L", "save_every": 0}, "save_every must be at least 1"),
        ({"preset": "L", "f_size": 0}, "f_size must be at least 1"),
        ({"preset": "L", "lambda_r": -1.0}, "lambda_r must not be negative"),
        ({"preset": "L", "clip": 0.0}, "clip must be above 0"),
        ({"preset": "L", "epoch_share": 0.0}, "epoch_share lies in"),
        ({"preset": "L", "accumulate": 2}, "cannot be taken in parts"),
        ({"preset": "L", "crop_area": [0.5, 0.1]}, "crop_area is two shares"),
        ({"preset": "L", "scale": [100, 200]}, "crop_area and scale are two ways"),
    ],
)
def test_impossible_entries_are_named(entry, words):
    with pytest.raises(ConfigError, match=words):
        casm_from_config(entry)


# --- photos ----------------------------------------------------------------------------------------------------------


def test_random_crops():
    rng = np.random.default_rng(0)
    boxes = np.array([crop_box((90, 120), (0.08, 1.0), rng) for _ in range(2000)])
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 90).all() and (left + width <= 120).all()
    share, ratio = height * width / (90 * 120), width / height
    assert 0.07 < share.min() < 0.1 and share.max() > 0.9
    assert 0.72 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.38
    assert crop_box((10, 400), (1.0, 1.0), rng) == (0, 193, 10, 13)  # none fits
    assert crop_box((400, 10), (1.0, 1.0), rng) == (193, 0, 13, 10)


def test_the_crop_fills_the_input():
    params = CasmParams(**{**SMALL, "crop_area": (0.3, 0.5), "scale": None, "hflip": 0.0})
    photo = np.zeros((60, 80, 3), np.uint8)
    photo[..., 0] = np.arange(80)
    image, _ = params.transform(SimpleNamespace(mean=(0, 0, 0), std=(1, 1, 1)))(photo, np.random.default_rng(1))
    assert image.shape == (3, 24, 24)
    seen = np.rint(image[0, 0] * 255)
    assert (np.diff(seen) >= 0).all() and 35 < seen[-1] - seen[0] < 66  # a part as wide as sqrt of a share has it


# --- history ---------------------------------------------------------------------------------------------------------


def network():
    return build_classifier("tiny", 3, width=2, seed=1)


def test_snapshots_do_not_move_with_the_network():
    net, history = network(), History(5)
    history.save(net, np.random.default_rng(0))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        for value in net.state_dict().values():
            value += 1
    (snapshot,) = history.snapshots
    assert snapshot.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in snapshot.items())
    assert not any(value.requires_grad for value in snapshot.values())


def test_a_full_history_gives_up_a_random_place():
    net, gone = torch.nn.Linear(1, 1), []
    for seed in range(60):
        history, rng = History(3), np.random.default_rng(seed)
        for number in range(4):
            torch.nn.init.constant_(net.weight, number)
            history.save(net, rng)
        kept = [int(snapshot["weight"].item()) for snapshot in history.snapshots]
        assert len(kept) == 3 and 3 in kept
        gone.append(({0, 1, 2} - set(kept)).pop())
        assert kept.index(3) == gone[-1]  # in its place
    assert min(gone.count(slot) for slot in range(3)) > 8


def test_every_snapshot_is_as_likely():
    history, rng = History(4), np.random.default_rng(0)
    history.snapshots = [{"n": torch.tensor(n)} for n in range(4)]
    drawn = [int(history.draw(rng)["n"]) for _ in range(2000)]
    assert all(430 < drawn.count(n) < 570 for n in range(4))


def test_a_snapshot_runs_in_eval_mode_and_leaves_the_network_alone():
    net, history = network().train(), History(2)
    for _ in range(3):
        net(torch.randn(4, 3, 24, 24))  # moves the batch statistics
    history.save(net, np.random.default_rng(0))
    past = copy.deepcopy(net).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter *= 1.5
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = torch.randn(2, 3, 24, 24, requires_grad=True)
    found = run_snapshot(net, history.snapshots[0], x)
    torch.testing.assert_close(found, past(x))
    assert not torch.allclose(found, net.eval()(x), atol=1e-3)
    net.train()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    run_snapshot(net, history.snapshots[0], x).sum().backward()
    assert net.training and x.grad.abs().sum() > 0
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    ("preset", "first_epoch", "second_epoch"),
    [
        ("F", [], []),
        ("L", [], []),
        ("FL", [0], []),
        ("L1000", [0, 999], [999]),
        ("L100", [0, *range(99, 1200, 100)], [*range(99, 1200, 100)]),
    ],
)
def test_which_steps_are_saved(monkeypatch, preset, first_epoch, second_epoch):
    params = casm_params(preset, **{k: v for k, v in SMALL.items() if k != "save_every"})
    start = network() if params.fixed else None
    task = CasmTask(dataclasses.replace(params, width=2).build(3, start), Patches(2, 1), None, params)
    saved, drawn = [], []

    def save(history, net, rng):
        assert net is task.model.net
        saved.append(task._index)
        history.snapshots.append({})

    monkeypatch.setattr(History, "save", save)
    for expected in (first_epoch, second_epoch):
        saved.clear()
        task.begin_epoch(len(drawn))
        drawn.append(0)
        for _ in range(1200):
            drawn[-1] += task._past_classifier() is not None
            task.after_step()
        assert saved == expected
    assert all(540 < count < 660 for count in drawn) if params.hp else drawn == [0, 0]


# --- the stage -------------------------------------------------------------------------------------------------------


class Patches:
    """Noise with a patch in one of two colours (class 0, 1); of several labels both."""

    class_names = ("red", "blue")

    def __init__(self, count, seed, several=False):
        rng = np.random.default_rng(seed)
        self.ids = [f"{seed}-{i:03d}" for i in range(count)]
        kinds = rng.integers(0, 3 if several else 2, count)
        self.labels = np.array([[k != 1, k != 0] for k in kinds], np.uint8)
        self.sizes = np.array([(24, 32)] * count, np.int32)
        self.images = rng.integers(90, 160, (count, 24, 32, 3), dtype=np.uint8)
        for image, label in zip(self.images, self.labels, strict=True):
            for channel in np.flatnonzero(label) * 2:
                y, x = rng.integers(0, (12, 20))
                image[y : y + 12, x : x + 12] = np.eye(3, dtype=np.uint8)[channel] * 255

    def image(self, image_id):
        return self.images[self.ids.index(image_id)]

    def label(self, image_id):
        return self.labels[self.ids.index(image_id)]


def train(folder, catalog=None, val=None, warm_start=None, preset="L100", **changes):
    folder.mkdir(exist_ok=True)
    return train_casm(
        catalog or Patches(40, 1),
        val,
        casm_params(preset, **{**SMALL, **changes}),
        **run_in(folder),
        warm_start=warm_start,
    )


def normalised(model, catalog):
    """All photos as they are, (N, 3, H, W)."""
    images = ((catalog.images / 255 - model.mean) / model.std).transpose(0, 3, 1, 2)
    return torch.from_numpy(images.astype(np.float32))


def plain_loop(model, params, catalog):
    """The published loop, with a second network for past classifiers, and nothing shared with the one tested."""
    net, decoder = model.net.train(), model.decoder.train()
    samples = LabelledSamples(catalog, params.transform(model))
    sgd = torch.optim.SGD(net.parameters(), lr=params.lr, momentum=0.9, weight_decay=1e-4)
    adam = torch.optim.Adam(decoder.parameters(), lr=params.masker_lr, weight_decay=1e-4)
    history, confuser, used = [], copy.deepcopy(net), []
    for epoch in range(params.epochs):
        for index, batch in enumerate(epoch_batches(catalog.ids, 0, epoch, params.batch_size, True)):
            rngs = [sample_generator(0, epoch, catalog.ids[i]) for i in batch]
            data = default_collate([samples.sample(i, rng) for i, rng in zip(batch, rngs, strict=True)])
            x, y = data["image"], data["label"].argmax(1)
            levels = net.level_features(x)
            o = net.head(levels[-1].mean((2, 3), keepdim=True)).flatten(1)
            sgd.zero_grad()
            functional.cross_entropy(o, y).backward()
            sgd.step()
            rng = np.random.default_rng(derive_seed("history", 0, epoch, index))
            if index % params.save_every == params.save_every - 1 or not history:
                state = copy.deepcopy(net.state_dict())
                if len(history) < params.f_size:
                    history.append(state)
                else:
                    history[int(rng.integers(params.f_size))] = state
            past = rng.random() < params.hp
            if past:
                confuser.load_state_dict(history[int(rng.integers(len(history)))])
            used.append(past)
            chosen = confuser.eval() if past else net
            m = functional.interpolate(decoder([level.detach() for level in levels[1:]]), scale_factor=4)
            om = chosen(x * (1 - m))
            p = functional.softmax(om, dim=1)
            c = (o.argmax(1) == y).float()
            nc = c * (om.argmax(1) != y).float()
            loss = (c * (p * p.log()).sum(1)).mean()
            loss = loss - params.lambda_r * functional.relu(nc - m.mean((1, 2, 3))).mean()
            gradients = torch.autograd.grad(loss, list(decoder.parameters()), retain_graph=True)
            if not past:
                sgd.zero_grad()
                functional.cross_entropy(om, y).backward()
                sgd.step()
            for parameter, gradient in zip(decoder.parameters(), gradients, strict=True):
                parameter.grad = gradient
            torch.nn.utils.clip_grad_norm_(decoder.parameters(), params.clip)
            adam.step()
    return model, history, used


def test_it_equals_a_plain_loop(tmp_path):
    """Order of the steps, batch statistics, overwriting and the norm's bound against the published loop by hand."""
    catalog = Patches(40, 1)
    params = casm_params("L100", **{**SMALL, "clip": 0.05, "loss": "cross_entropy"})
    task = CasmTask(params.build(2), catalog, None, params)
    fit(task, params.settings(), key="k", scratch=tmp_path, progress=False)
    model, history, used = plain_loop(params.build(2), params, catalog)
    assert 2 <= sum(used) <= 8 and len(history) == 3
    for name, value in task.model.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-3, atol=1e-5, msg=name)
    for own, expected in zip(task.history.snapshots, history, strict=True):
        for name, value in own.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5)


def test_files_and_columns(tmp_path):
    model = train(tmp_path / "run", val=Patches(9, 2), eval_size=32)
    rows = table(tmp_path / "run")
    trained = ("accuracy", "area", "classifier_loss", "loss", "mask_entropy", "mask_mean", "mask_std", "mask_tv")
    validated = ("accuracy", "masked_accuracy", "mask_mean", "mask_std", "mask_entropy", "mask_tv")
    assert list(rows[0]) == [
        *("epoch", "lr", *(f"train_{name}" for name in trained), "train_masked_accuracy", "val_loss", "val_map"),
        *(f"val_{name}" for name in validated),
    ]
    assert 0 < rows[0]["val_mask_mean"] < 1 and rows[0]["val_mask_std"] > 0 and rows[0]["val_mask_tv"] > 0
    loaded = load_masker(tmp_path / "run" / "classifier.pt")
    assert loaded.class_names == ["red", "blue"]
    assert (loaded.meta["method"], loaded.meta["params"]["loss"]) == ("casm", "cross_entropy")
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
    assert not list((tmp_path / "run" / "scratch").glob("*.ckpt"))
    x, y = normalised(loaded, Patches(9, 2)), torch.from_numpy(Patches(9, 2).labels).float().argmax(1)
    with torch.no_grad():
        mask = loaded.image_masks(x)
        right, right_masked = ((loaded(seen).argmax(1) == y).float().mean() for seen in (x, x * (1 - mask)))
    expected = {"accuracy": right, "masked_accuracy": right_masked}
    expected |= {f"mask_{name}": value for name, value in mask_statistics(mask).items()}
    expected["mask_entropy"] = torch.stack([mask_statistics(one[None])["entropy"] for one in mask]).mean()
    for name, value in expected.items():
        assert rows[-1][f"val_{name}"] == pytest.approx(value.item(), rel=1e-4), name


def test_interrupted_training_gives_the_same_bytes(tmp_path, monkeypatch):
    train(tmp_path / "a", epochs=3)
    updates, calls = CasmTask.updates, []

    def failing(self, batch):
        calls.append(len(self.history.snapshots))
        if len(calls) == 13:  # in the third epoch, in which 10 ended with a full history
            raise KeyboardInterrupt
        return (yield from updates(self, batch))

    monkeypatch.setattr(CasmTask, "updates", failing)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", epochs=3)
    assert calls[-1] == 3 and list((tmp_path / "b" / "scratch").glob("*.ckpt"))
    train(tmp_path / "b", epochs=3)
    assert len(calls) == 13 + 5
    assert same_bytes(tmp_path / "a", tmp_path / "b", "classifier.pt", "metrics.csv")


@pytest.fixture
def trained(tmp_path):
    """File of a classifier whose batch statistics have moved."""
    net = build_classifier("tiny", 2, width=4, seed=7)
    net(torch.randn(4, 3, 24, 24))
    save_classifier(tmp_path / "c.pt", net, class_names=["red", "blue"])
    return tmp_path / "c.pt", {name: value.clone() for name, value in net.state_dict().items()}


def test_preset_f_leaves_the_classifier_as_it_is(tmp_path, trained):
    path, state = trained
    model = train(tmp_path / "run", preset="F", warm_start=path)
    assert all(torch.equal(value, state[name]) for name, value in model.net.state_dict().items())
    fresh = casm_params("F", **SMALL).build(2, model.net).decoder.state_dict()
    assert not torch.equal(model.decoder.state_dict()["final.0.weight"], fresh["final.0.weight"])
    assert table(tmp_path / "run")[0]["lr"] == SMALL["masker_lr"]


def test_a_warm_start_has_the_head_too(trained):
    path, state = trained
    params = with_loss(casm_params("L100", **SMALL), Patches(4, 1))
    model = params.build(2, casm._trained(path, ["red", "blue"], params))
    assert all(torch.equal(value, state[name]) for name, value in model.net.state_dict().items())
    assert model.training and model.net.training


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 6}, "width 4, pooling gap\\) does not fit \\(backbone tiny, width 6"),
        ({"pooling": "gmp"}, "does not fit"),
        ({"weights": "x.pt"}, "two initial states"),
    ],
)
def test_a_warm_start_that_does_not_fit(tmp_path, trained, changes, words):
    with pytest.raises(ConfigError, match=words):
        train(tmp_path / "run", warm_start=trained[0], **changes)


def test_warm_starts_of_other_kinds(tmp_path, trained):
    with pytest.raises(ConfigError, match="set warm_start"):
        train(tmp_path / "run", preset="F")
    other = Patches(8, 1)
    other.class_names = ("red", "green")
    with pytest.raises(ConfigError, match="knows the classes red, blue, the dataset has red, green"):
        train(tmp_path / "run", catalog=other, warm_start=trained[0])


def test_several_labels(tmp_path):
    catalog = Patches(40, 3, several=True)
    params = casm_params("L100", **SMALL)
    assert with_loss(params, catalog).loss == "soft_margin"
    assert with_loss(params, Patches(40, 1)).loss == "cross_entropy"
    with pytest.raises(DataError, match="exactly one label"):
        train(tmp_path / "no", catalog=catalog, loss="cross_entropy")
    train(tmp_path / "run", catalog=catalog, val=Patches(9, 4, several=True), score="adversarial")
    row = table(tmp_path / "run")[-1]
    assert {"train_map", "train_accuracy", "val_accuracy"} <= set(row)
    assert load_masker(tmp_path / "run" / "classifier.pt").meta["params"]["loss"] == "soft_margin"


@pytest.mark.parametrize("changes", [{"preset": "CA"}, {"gumbel_tau": 0.1, "taps": (1, 2)}, {"upsample": "bilinear"}])
def test_switches(tmp_path, changes):
    model = train(tmp_path / "run", **{"epochs": 1, "batch_size": 8, **changes})
    row = table(tmp_path / "run")[0]
    assert np.isfinite(list(row.values())).all()
    binary = set(model.masks(torch.randn(4, 3, 24, 24)).unique().tolist()) <= {0.0, 1.0}
    assert binary == ("gumbel_tau" in changes)


def test_an_epoch_is_a_share_of_the_images(tmp_path, monkeypatch):
    updates, seen = CasmTask.updates, []

    def counting(self, batch):
        seen.append(batch["image"].mean((1, 2, 3)).tolist())
        return (yield from updates(self, batch))

    monkeypatch.setattr(CasmTask, "updates", counting)
    train(tmp_path / "run", epoch_share=0.35, schedule="step", step_every=1, gamma=0.1)  # of 5 steps
    assert len(seen) == 4 and len({value for batch in seen for value in batch}) == 32
    assert [row["lr"] for row in table(tmp_path / "run")] == pytest.approx([0.02, 0.002])


@pytest.mark.long
def test_it_finds_the_patches(tmp_path):
    """lambda_r is smaller than published: the entropy of two classes is a tenth of that of a thousand."""
    model = train(tmp_path / "run", epochs=24, lambda_r=1.5, lr=0.05, masker_lr=1e-3, width=8)
    catalog = Patches(40, 1)
    patch = torch.from_numpy((catalog.images.max(axis=3) == 255) & (catalog.images.min(axis=3) == 0))
    x = normalised(model, catalog)
    with torch.no_grad():
        masks = model.image_masks(x)[:, 0]
    assert table(tmp_path / "run")[-1]["train_accuracy"] > 0.9
    assert masks[patch].mean() > masks[~patch].mean() + 0.2


def _without_batch_statistics(folder):
    torch.set_num_threads(1)
    train(folder, freeze_bn=True, taps=(0,), epochs=1)  # the branches have batch norms, l0 has none


def test_two_processes_equal_one(tmp_path):
    assert run_two(_without_batch_statistics, tmp_path / "two") == [0, 0]
    _without_batch_statistics(tmp_path / "one")
    one, two = (load_masker(tmp_path / n / "classifier.pt").state_dict() for n in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=name)
