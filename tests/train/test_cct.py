"""Cross-consistency training: losses, ramps and the training forward against the authors' code, and whole runs."""

import dataclasses

import numpy as np
import pytest
import torch

from camflow.errors import ConfigError, DataError
from camflow.evaluate.confusion import confusion_matrix, miou
from camflow.models.cct import Decoder, load_cct
from camflow.train import perturb
from camflow.train.cct import (
    DECODERS,
    CctParams,
    CctSamples,
    CctTask,
    TrueMasks,
    annealed_loss,
    annealed_threshold,
    auxiliary_losses,
    choose_labelled,
    consistency_loss,
    ramp,
    train_cct,
)
from camflow.train.optim import build_optimizer
from camflow.train.segment import plain_loss, predict_labels
from tests.golden.loader import fill_by_rule, golden
from tests.train.runs import interrupt, run_in, same_bytes
from tests.train.test_irn_train import FakeCatalog

SMALL = {
    "epochs": 2,
    "batch_size": 4,
    "crop": 48,
    "scale": (44, 60),
    "backbone": "tiny",
    "width": 4,
    "labelled": 3,
    "evaluate_every": 1,
    "decoders": dict.fromkeys(DECODERS, 1),
    "cutout_points": 3,
    "vat_xi": 0.1,
}


@pytest.fixture(scope="module")
def arrays():
    return golden("cct")


def tensor(arrays, name):
    return torch.from_numpy(arrays[name]).double()


# --- consistency -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "mask"), [("mse", ""), ("mse", "_conf"), ("kl", ""), ("kl", "_conf"), ("js", "")])
def test_consistency_losses(arrays, kind, mask):
    logits = tensor(arrays, "cons_logits").requires_grad_()
    target = torch.softmax(tensor(arrays, "cons_target_logits"), dim=1)
    confidence = float(arrays["cons_threshold"]) if mask else None
    loss = consistency_loss(logits, target, kind, confidence)
    loss.backward()
    assert loss.item() == pytest.approx(float(arrays[f"cons_{kind}{mask}"]), abs=1e-12)
    np.testing.assert_allclose(logits.grad.numpy(), arrays[f"cons_{kind}{mask}_grad"], rtol=0, atol=1e-12)


def test_without_a_confident_pixel_there_is_no_loss(arrays):
    logits = tensor(arrays, "cons_logits").requires_grad_()
    target = torch.full_like(logits, 1 / 7).detach()
    for kind in ("mse", "kl"):
        loss = consistency_loss(logits, target, kind, 0.5)
        assert loss.item() == 0 == float(arrays["cons_mse_conf_empty"])
        assert not torch.autograd.grad(loss, logits)[0].any()


@pytest.mark.parametrize("kind", ["mse", "kl", "js"])
def test_probabilities_that_underflow_leave_a_finite_loss(kind):
    logits = torch.tensor([0.0, 300.0]).view(1, 2, 1, 1).requires_grad_()
    loss = consistency_loss(logits, torch.softmax(logits.detach(), dim=1), kind)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-4) and logits.grad.isfinite().all()


def test_confidence_does_not_go_with_js():
    with pytest.raises(ConfigError, match="js has no confidence mask"):
        consistency_loss(torch.zeros(1, 2, 1, 1), torch.ones(1, 2, 1, 1) / 2, "js", 0.5)
    with pytest.raises(ConfigError, match="unknown consistency 'mae'"):
        consistency_loss(torch.zeros(1, 2, 1, 1), torch.ones(1, 2, 1, 1) / 2, "mae")


# --- ramps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["sigmoid", "linear", "cosine", "log", "exp"])
def test_ramps(arrays, shape):
    end = int(arrays["ramp_end_epoch"]) * int(arrays["ramp_iters_per_epoch"])
    found = [float(arrays["ramp_final_weight"]) * ramp(shape, step, end) for step in arrays["ramp_steps"].tolist()]
    np.testing.assert_allclose(found, arrays[f"ramp_{shape}"], rtol=0, atol=1e-12)


def test_a_ramp_that_starts_later_and_one_of_no_length(arrays):
    per_epoch = int(arrays["ramp_iters_per_epoch"])
    found = [30 * ramp("sigmoid", step, 8 * per_epoch, 2 * per_epoch) for step in arrays["ramp_steps"].tolist()]
    np.testing.assert_allclose(found, arrays["ramp_sigmoid_start2"], rtol=0, atol=1e-12)
    assert ramp("sigmoid", 0, 0) == 1


@pytest.mark.parametrize("labels", [7, 21])
def test_annealed_thresholds(arrays, labels):
    end = int(0.4 * int(arrays["ramp_epochs"]) * int(arrays["ramp_iters_per_epoch"]))
    found = [annealed_threshold(labels, step, end) for step in arrays["abce_steps"].tolist()]
    np.testing.assert_allclose(found, arrays[f"abce_thresholds_C{labels}"], rtol=0, atol=1e-12)


def test_annealed_loss(arrays):
    labels, per_epoch = torch.from_numpy(arrays["labels"]), int(arrays["ramp_iters_per_epoch"])
    for number, epoch in enumerate(arrays["abce_epochs"].tolist()):
        logits = tensor(arrays, "cons_logits").requires_grad_()
        loss = annealed_loss(logits, labels, annealed_threshold(7, epoch * per_epoch, 800))
        loss.backward()
        assert loss.item() == pytest.approx(float(arrays["abce_loss"][number]), abs=1e-12)
        expected = arrays[f"abce_grad_epoch{epoch}"]
        found = logits.grad.numpy() if expected.ndim == 4 else np.abs(logits.grad.numpy()).sum(keepdims=True).ravel()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    sure = annealed_loss(tensor(arrays, "abce_confident_logits"), labels, 0.5)
    assert sure.item() == pytest.approx(float(arrays["abce_confident_loss"]), abs=1e-12)
    assert plain_loss(logits, labels).item() == pytest.approx(float(arrays["ce_loss"]), abs=1e-12)


def test_annealed_loss_of_few_pixels_is_finite():
    logits = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.full((2, 2, 2), 255, dtype=torch.uint8)
    loss = annealed_loss(logits, labels, 0.5)
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()
    labels[0, 0, 0] = 1
    assert annealed_loss(logits, labels, 0.99).item() == pytest.approx(plain_loss(logits, labels).item())


# --- the training forward --------------------------------------------------------------------------------------------


def stored_perturbations(arrays, code, prediction, decoders):
    """The seven perturbations with the numbers that the reference drew, in its order of decoders."""
    found = perturb.foreground(prediction)
    boxes = perturb.object_boxes(found)
    assert boxes.tolist() == arrays["model_cutout_boxes"].tolist()
    rectangles = perturb.cutout_rectangles(boxes, arrays["model_cutout_draws"][None, :, 2])
    left = perturb.cutout_mask(rectangles, found.shape)
    direction = perturb.vat_direction(code, decoders[0], tensor(arrays, "model_vat_uniform"))
    kept = torch.from_numpy(arrays["model_dropout_keep"]).bool()
    noise, share = tensor(arrays, "model_feature_noise"), float(arrays["model_feature_drop_u"])
    return [
        lambda z: z + direction,
        lambda z: perturb.spatial_dropout(z, kept, 0.5),
        lambda z: perturb.guided_cutout(z, left),
        lambda z: perturb.context_mask(z, found),
        lambda z: perturb.object_mask(z, found),
        lambda z: perturb.feature_drop(z, share),
        lambda z: perturb.feature_noise(z, noise),
    ]


@pytest.mark.parametrize("recompute", [False, True])
def test_training_forward(arrays, recompute):
    main, *aux = (Decoder(512, 7, 3).double() for _ in range(8))
    fill_by_rule(main, rename=lambda own: f"main_decoder.{own}")
    for k, decoder in enumerate(aux):
        fill_by_rule(decoder, rename=lambda own, k=k: f"aux_decoders.{k}.{own}")
    labelled = main(tensor(arrays, "model_features_labelled"))
    code = tensor(arrays, "model_features_unlabelled")
    prediction = main(code).detach()
    np.testing.assert_allclose(
        prediction[:, :, ::4, ::4].numpy(), arrays["model_unsup_pred_sub"], rtol=0, atol=1e-9
    )  # every fourth row and column
    target, weak = torch.softmax(prediction, dim=1), torch.from_numpy(arrays["model_weak_target"])
    perturbations = stored_perturbations(arrays, code, prediction, aux)
    terms = auxiliary_losses(code, aux, perturbations, target, weak, recompute=recompute)
    np.testing.assert_allclose(terms[:, 0].detach(), arrays["model_unsup_per_decoder"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(terms[:, 1].detach(), arrays["model_weak_per_decoder"], rtol=0, atol=1e-9)
    supervised = plain_loss(labelled, torch.from_numpy(arrays["model_target"]))
    assert supervised.item() == pytest.approx(float(arrays["model_loss_sup"]), abs=1e-9)
    per_epoch = int(arrays["ramp_iters_per_epoch"])
    step = int(arrays["model_epoch"]) * per_epoch + int(arrays["model_iter"])
    risen = ramp("sigmoid", step, 8 * per_epoch)
    assert 30 * risen == pytest.approx(float(arrays["model_weight_u"]), rel=1e-12)
    consistency, weakly = terms.mean(dim=0)
    total = supervised + risen * (30 * consistency + 0.4 * weakly)
    assert total.item() == pytest.approx(float(arrays["model_total"]), abs=1e-9)
    total.backward()
    found = {f"main_decoder.{name}": p.grad for name, p in main.named_parameters()}
    for k, decoder in enumerate(aux):
        found.update({f"aux_decoders.{k}.{name}": p.grad for name, p in decoder.named_parameters()})
    for name, expected in zip(arrays["model_grad_names"], arrays["model_grad_abs_sum"], strict=True):
        assert found.pop(name).abs().sum().item() == pytest.approx(float(expected), rel=1e-8)
    assert not found


class Squares(FakeCatalog):
    """Photos with a square each, true masks and image labels."""

    has_masks = True

    def mask(self, image_id):
        return self.masks[image_id]

    def read(self, image_id):
        return self.masks[image_id]


def make_task(catalog=None, **changes):
    catalog, params = catalog or Squares(10), CctParams(**{**SMALL, **changes})
    model = params.build(2)
    labelled = choose_labelled(catalog.ids, params.labelled, 0)
    samples = CctSamples(catalog, labelled, catalog, catalog, params, model.mean, model.std)
    return CctTask(model, samples, params)


def make_batch(task, double=False):
    size = task.params.batch_size
    parts = [task.dataset.sample(i, np.random.default_rng(i)) for i in range(size)]
    batch = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
    return {k: v.double() if double and v.is_floating_point() else v for k, v in batch.items()}


def gradients(task, batch):
    task.begin_epoch(1)
    torch.manual_seed(5)
    loss, logs = task.step(batch)
    loss.backward()
    return loss, logs, {name: p.grad for name, p in task.model.named_parameters()}


@pytest.mark.parametrize("weak", [False, True])
def test_one_decoder_at_a_time_has_the_gradient_of_all_at_once(weak):
    found = []
    for recompute in (True, False):
        task = make_task(recompute=recompute, use_weak_labels=weak, seed=1)
        task.model.double()
        found.append(gradients(task, make_batch(task, double=True)))
    (lean, _, own), (joint, _, expected) = found
    assert lean.item() == joint.item()
    for name, gradient in expected.items():
        torch.testing.assert_close(own[name], gradient, rtol=0, atol=1e-12, msg=name)
    assert all(gradient.abs().max() > 0 for name, gradient in expected.items() if "upsample.0" in name)


def test_one_decoder_at_a_time_holds_less():
    """Values kept for the backward pass, counted; decoders beyond the first add next to nothing."""

    def held(recompute, count):
        task = make_task(recompute=recompute, decoders={"feature_noise": count})
        task.begin_epoch(0)
        batch, seen = make_batch(task), {}

        def keep(value):
            seen[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            loss, _ = task.step(batch)
        del loss
        return sum(seen.values())

    grown = {recompute: held(recompute, 6) - held(recompute, 1) for recompute in (True, False)}
    assert grown[True] < 0.1 * grown[False]


def test_the_parts_of_the_loss():
    task = make_task(use_weak_labels=True, epochs=20)
    batch = make_batch(task)
    task.begin_epoch(0)
    for steps in range(4):  # the ramp ends after two epochs of one step
        torch.manual_seed(steps)
        loss, logs = task.step(batch)
        risen = np.exp(-5 * (1 - min(1, steps / 2)) ** 2)
        expected = logs["supervised"] + risen * (30 * logs["consistency"] + 0.4 * logs["weak"])
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        task.after_step()
    assert set(logs) == {"supervised", "consistency", "weak"}


def test_pseudo_masks_count_only_when_asked_for():
    """The released switch was mis-spelt, so asking changed nothing."""
    batch = make_batch(make_task())
    values = []
    for weak in (False, True):
        task = make_task(use_weak_labels=weak)
        for labels in (batch["weak_label"], torch.zeros_like(batch["weak_label"])):
            values.append(gradients(task, {**batch, "weak_label": labels})[0].item())
    assert values[0] == values[1] != values[2] != values[3]


def test_some_decoders_per_step_are_unbiased():
    task = make_task(decoders_per_step=2, decoders={"feature_noise": 5}, noise=0.0, seed=1)  # no other randomness
    batch = make_batch(task)
    whole = make_task(decoders={"feature_noise": 5}, noise=0.0, seed=1)
    expected = gradients(whole, batch)[1]["consistency"].item()
    task.begin_epoch(1)
    seen, touched = [], torch.zeros(5)
    for draw in range(60):
        torch.manual_seed(draw)
        task.model.zero_grad(set_to_none=True)
        loss, logs = task.step(batch)
        loss.backward()
        seen.append(logs["consistency"].item())
        used = [next(decoder.parameters()).grad is not None for decoder in task.model.aux_decoders]
        assert sum(used) == 2
        touched += torch.tensor(used)
    assert touched.min() >= 10  # of 24 expected
    assert np.mean(seen) == pytest.approx(expected, abs=5 * np.std(seen) / 60**0.5)


def test_the_target_is_constant():
    """The main decoder learns from the labelled images alone."""
    task = make_task(seed=1)
    batch = make_batch(task)
    whole = gradients(task, batch)[2]
    alone = make_task(seed=1)
    alone.model.network(batch["image"])  # so that the batch norms have seen the same
    loss = plain_loss(alone.model.network(batch["image"]), batch["label"])
    loss.backward()
    for name, parameter in alone.model.network.main_decoder.named_parameters():
        torch.testing.assert_close(whole[f"network.head.decoder.{name}"], parameter.grad)


# --- samples ---------------------------------------------------------------------------------------------------------


def test_the_choice_of_labelled_images_is_stable():
    ids = [f"img{i}" for i in range(200)]
    few, many = (choose_labelled(ids, n, 0) for n in (20, 50))
    assert len(few) == 20 and few == sorted(few) and set(few) < set(many) < set(ids)
    assert choose_labelled(ids[::-1], 20, 0) == few
    assert choose_labelled(ids, 0.1, 0) == choose_labelled(ids, 20.0, 0) == few
    assert choose_labelled(ids, 20, 1) != few
    more = choose_labelled([*ids, *(f"new{i}" for i in range(5))], 20, 0)
    assert len(set(few) - set(more)) <= 5 and set(more) - set(few) <= {f"new{i}" for i in range(5)}


def test_labelled_images_can_be_listed(tmp_path):
    listed = tmp_path / "ids.txt"
    listed.write_text("img7\n\n img12 \nimg7\n")
    assert choose_labelled([f"img{i}" for i in range(20)], str(listed), 0) == ["img12", "img7"]
    with pytest.raises(ConfigError, match=r"labelled: .*lost.txt cannot be read"):
        choose_labelled(["a", "b"], str(tmp_path / "lost.txt"), 0)


@pytest.mark.parametrize("labelled", [0, 1, -3, 200, 201, 1.0, 0.0, 1.5, 0.9999])
def test_there_must_be_images_of_both_kinds(labelled):
    with pytest.raises(ConfigError, match="labelled"):
        choose_labelled([f"img{i}" for i in range(200)], labelled, 0)


def test_pairs_of_images():
    catalog, params = Squares(12), CctParams(**SMALL)
    labelled = catalog.ids[:3]
    samples = CctSamples(catalog, labelled, catalog, catalog, params, (0.5,) * 3, (0.25,) * 3)
    assert samples.ids == catalog.ids[3:]
    seen = set()
    for index in range(9):
        for draw in range(4):
            sample = samples.sample(index, np.random.default_rng(draw))
            again = samples.sample(index, np.random.default_rng(draw))
            assert all(torch.equal(sample[name], again[name]) for name in sample)
            assert sample["image"].shape == sample["unlabelled"].shape == (3, 48, 48)
            assert sample["weak_label"].dtype == sample["label"].dtype == torch.uint8
            own = 1 + (index + 3) % 2  # the class of the unlabelled image
            assert set(sample["weak_label"].unique().tolist()) <= {0, own, 255}
            colour = sample["unlabelled"][0 if own == 1 else 2][sample["weak_label"] == own]
            assert colour.mean() > 1  # (220/255 - .5)/.25 = 1.45, the ground has 0
            seen |= set(sample["label"].unique().tolist())
    assert seen == {0, 1, 2, 255}  # labelled images of both classes were drawn
    blind = CctSamples(catalog, labelled, catalog, None, params, (0.5,) * 3, (0.25,) * 3)
    assert blind.sample(0, np.random.default_rng(0))["weak_label"].unique().tolist() == [255]


def test_wrong_images_are_named():
    catalog, params = Squares(6), CctParams(**SMALL)
    with pytest.raises(ConfigError, match="1 labelled images are not in the training split"):
        CctSamples(catalog, ["lost", catalog.ids[0]], catalog, None, params, (0.5,) * 3, (0.25,) * 3)
    for labelled in ([], catalog.ids):
        with pytest.raises(ConfigError, match="leave some of each kind"):
            CctSamples(catalog, labelled, catalog, None, params, (0.5,) * 3, (0.25,) * 3)
    catalog.masks[catalog.ids[0]] = None
    with pytest.raises(DataError, match=f"image '{catalog.ids[0]}' is among the labelled ones, but has no true mask"):
        TrueMasks(catalog).read(catalog.ids[0])
    assert TrueMasks(catalog).read(catalog.ids[1]) is catalog.masks[catalog.ids[1]]


# --- parameters ------------------------------------------------------------------------------------------------------


def test_released_defaults():
    params = CctParams()
    assert len(params.kinds) == 30
    assert CctParams(decoders={"vat": 1}).kinds == ["vat"]  # what is not named is not there
    assert (params.epochs, params.batch_size, params.crop, params.scale) == (80, 10, 320, (200, 800))
    assert (params.consistency, params.consistency_weight, params.weak_weight, params.vat_xi) == ("mse", 30, 0.4, 1e-6)
    task = make_task()
    groups = build_optimizer(task.param_groups(), params.settings()).param_groups
    assert [group["lr"] for group in groups] == [pytest.approx(1e-3), 1e-2]
    assert all(g["weight_decay"] == 1e-4 and g["momentum"] == 0.9 for g in groups)
    assert sum(len(g["params"]) for g in groups) == len(list(task.model.parameters()))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"consistency": "mes"}, "did you mean 'mse'"),
        ({"supervised": "bootstrapped"}, "unknown supervised"),
        ({"ramp": "sigmod"}, "did you mean 'sigmoid'"),
        ({"decoders": {"cutouts": 2}}, "did you mean 'cutout'"),
        ({"decoders": {"vat": 0}}, "at least one auxiliary decoder"),
        ({"decoders": {"vat": -1}}, "cannot have -1"),
        ({"decoders_per_step": 8}, "between 1 and the 7 decoders"),
        ({"consistency": "js", "confidence": 0.5}, "no confidence mask"),
        ({"vat_xi": 0}, "vat_xi"),
        ({"dropout_rate": 1}, "dropout_rate"),
        ({"drop_share": (0.9, 0.7)}, "smaller first"),
        ({"erase": 2}, "erase"),
        ({"noise": -1}, "noise"),
    ],
)
def test_impossible_parameters_are_named(changes, words):
    with pytest.raises(ConfigError, match=words):
        CctParams(**{**SMALL, **changes})


def test_a_crop_between_the_strides_is_refused():
    with pytest.raises(ConfigError, match="crop must be a multiple of the network's stride 8, not 50"):
        CctParams(**{**SMALL, "crop": 50}).build(2)


# --- whole runs ------------------------------------------------------------------------------------------------------


def train(folder, catalog=None, **changes):
    folder.mkdir(exist_ok=True)
    catalog = catalog or Squares(11)
    options = {name: changes.pop(name) for name in ("catalog_val",) if name in changes}
    return train_cct(
        catalog,
        TrueMasks(catalog),
        catalog,
        CctParams(**{**SMALL, **changes}),
        **run_in(folder, "cct.pt"),
        meta={"seed_maps": "cam"},
        **options,
    )


def rows_of(folder):
    names, *rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    return [dict(zip(names, (float(value or "nan") for value in row), strict=True)) for row in rows]


@pytest.mark.long
def test_it_learns_and_writes(tmp_path):
    catalog = Squares(11)
    (tmp_path / "ids.txt").write_text("\n".join([*catalog.ids[:3], ""]))
    network = train(
        tmp_path / "run", catalog, epochs=30, width=8, evaluate_every=10, seed=3, use_weak_labels=True, lr=0.1,
        schedule="constant", last_relu=False, catalog_val=catalog, select="best", labelled=str(tmp_path / "ids.txt"),
    )  # fmt: skip
    rows = rows_of(tmp_path / "run")
    terms = {f"train_{name}" for name in ("loss", "supervised", "consistency", "weak")}
    assert set(rows[-1]) == {"epoch", "lr", "val_miou", *terms}
    assert rows[-1]["train_supervised"] < 0.6 * rows[0]["train_supervised"]
    loaded = load_cct(tmp_path / "run" / "cct.pt")
    assert loaded.class_names == ["red", "blue"]
    facts = ("method", "seed_maps", "labelled_images", "selected_on")
    assert [loaded.meta[name] for name in facts] == ["cct", "cam", 3, "val"]
    assert loaded.meta["params"] == {**dataclasses.asdict(CctParams(**SMALL)), **loaded.meta["params"]}
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert not list((tmp_path / "run" / "scratch").glob("*.ckpt"))
    found = np.zeros((3, 3), np.int64)
    with torch.no_grad():
        for image_id, labels, mask in predict_labels(loaded, catalog, CctParams(**SMALL)):
            found += confusion_matrix(mask, labels, 3, image_id=image_id)
    assert float(miou(found)) == pytest.approx(loaded.meta["selected_miou"])
    assert loaded.meta["selected_miou"] > 0.5  # all background would have 0.26


def test_interrupted_training_gives_the_same_bytes(tmp_path, monkeypatch):
    train(tmp_path / "a", decoders_per_step=3)
    interrupt(
        monkeypatch, CctTask, lambda: train(tmp_path / "b", decoders_per_step=3), at=4
    )  # in the second epoch of two steps
    assert not (tmp_path / "b" / "cct.pt").exists()
    train(tmp_path / "b", decoders_per_step=3)
    assert same_bytes(tmp_path / "a", tmp_path / "b", "cct.pt", "metrics.csv")


def test_pseudo_masks_must_exist_when_asked_for(tmp_path):
    with pytest.raises(ConfigError, match="use_weak_labels needs pseudo-masks"):
        train_cct(
            Squares(6), Squares(6), None, CctParams(**SMALL, use_weak_labels=True),
            out=tmp_path / "c.pt", metrics_csv=tmp_path / "m.csv", scratch=tmp_path, key="k",
        )  # fmt: skip
