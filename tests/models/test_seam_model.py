"""SEAM as a host: what each channel is for, where gradients go, the correlation module against brute force, files."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

from camflow.errors import ConfigError, StoreError
from camflow.models.classifier import build_classifier, save_classifier
from camflow.models.seam import (
    attention_input,
    build_seam,
    correlate,
    load_seam,
    max_norm,
    save_seam,
    strongest_only,
    with_background,
)


@pytest.fixture
def model():
    return build_seam("tiny", 3, width=4).eval()


def test_interface_of_a_host(model):
    x = torch.randn(2, 3, 40, 56)
    with torch.no_grad():
        features, maps, logits = model.features(x), model.score_maps(x), model(x)
        refined = model.refined_maps(x)
        before, after = model.both_maps(x)
    assert model.n_classes == 3
    assert (model.stride, model.mean, model.std) == (8, model.net.mean, model.net.std)
    assert model.head.weight.shape == (3, features.shape[1], 1, 1)
    assert maps.shape == refined.shape == (2, 3, 5, 7)
    assert before.shape == after.shape == (2, 4, 5, 7)
    torch.testing.assert_close(model.head(features), maps)
    torch.testing.assert_close(maps.mean((2, 3)), logits)
    torch.testing.assert_close(before[:, 1:], maps)
    assert torch.equal(after[:, 1:], refined)
    assert refined.min() >= 0 and after.max() <= 1
    assert model.tap_channels() == {s: f.shape[1] for s, f in model.taps(x).items()}
    assert [m.shape[2:] for m in model.image_size_maps(x)] == [x.shape[2:]] * 2


def test_background_row_does_not_touch_the_classes(model):
    x = torch.randn(1, 3, 40, 40)
    logits = model(x).detach()
    with torch.no_grad():
        model.net.head.weight[0] += 1
    assert torch.equal(model(x), logits)


def test_head_follows_copies_and_devices(model):
    twin = copy.deepcopy(model).double()
    with torch.no_grad():
        twin.net.head.weight.zero_()
    assert not twin.head.weight.any() and twin.head.weight.dtype == torch.float64
    assert model.head.weight.any()
    assert sum(p.numel() for p in model.parameters()) == sum(v.numel() for v in dict(model.named_parameters()).values())


@pytest.mark.parametrize(
    ("backbone", "changes"), [("resnet18", {"output_stride": 16}), ("resnet18", {}), ("mobilenet_v2", {})]
)
def test_levels_of_other_grids_are_brought_together(backbone, changes):
    model = build_seam(backbone, 2, **changes).eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert model.refined_maps(x).shape == model.score_maps(x).shape
    shallow, deep = model.net.level_channels[-3:-1]
    assert (model.f8_3.in_channels, model.f8_4.in_channels) == (shallow, deep)


def test_refined_maps_train_the_small_convolutions_only(model):
    x = torch.randn(1, 3, 40, 40, requires_grad=True)
    (model.refined_maps(x) * torch.randn(1, 3, 5, 5)).sum().backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {"f8_3.weight", "f8_4.weight", "f9.weight"}
    model.zero_grad()
    model(x).sum().backward()
    reached = {n for n, p in model.named_parameters() if p.grad is not None}
    assert "net.classifier.weight" in reached and "f9.weight" not in reached
    assert not model.net.head.weight.grad[0].any()


def test_dropout_of_the_trunk_acts_before_the_head():
    """In training the maps must be those of dropped features, as published, without dropping twice."""
    model = build_seam("vgg16_psa", 2).train()
    seen, dropped = [], []
    model.net.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model.net.drop7.register_forward_hook(lambda module, inputs, output: dropped.append((inputs[0], output)))
    with torch.no_grad():
        model.both_maps(torch.randn(1, 3, 24, 24))
    before, after = dropped[-1]
    assert torch.equal(seen[0], after) and not torch.equal(before, after)
    assert torch.equal(before, dropped[0][0])


# --- parts -----------------------------------------------------------------------------------------------------------


def test_correlation_is_an_average_by_affinity():
    rng = np.random.default_rng(1)
    maps, embedding = rng.random((1, 4, 3, 5)), rng.standard_normal((1, 6, 3, 5))
    found = correlate(torch.from_numpy(maps), torch.from_numpy(embedding))[0].numpy()
    flat = embedding.reshape(6, 15)
    unit = flat / (np.linalg.norm(flat, axis=0) + 1e-5)
    for j in range(15):
        affinity = np.maximum(unit.T @ unit[:, j], 0)
        expected = (maps.reshape(4, 15) * affinity).sum(axis=1) / (affinity.sum() + 1e-5)
        np.testing.assert_allclose(found.reshape(4, 15)[:, j], expected, atol=1e-12)


def test_correlation_stays_in_single_precision_under_autocast():
    maps, embedding = torch.rand(1, 3, 6, 7), torch.randn(1, 8, 6, 7)
    with torch.autocast("cpu", torch.bfloat16):
        found = correlate(maps, embedding)
    assert torch.equal(found, correlate(maps, embedding))
    assert correlate(maps, embedding.bfloat16()).dtype == torch.float32


def test_correlation_resizes_the_maps():
    maps, embedding = torch.rand(2, 3, 2, 4), torch.randn(2, 6, 5, 7)
    large = functional.interpolate(maps, size=(5, 7), mode="bilinear", align_corners=True)
    torch.testing.assert_close(correlate(maps, embedding), correlate(large, embedding))


def test_attention_input_by_hand():
    maps = torch.tensor([[-5.0, 0.0], [4.0, 2.0], [4.0, -1.0], [-3.0, -1.0]]).view(1, 4, 1, 2)
    found = attention_input(maps)[0, :, 0]
    # Class maps over their maxima: (1, .5), (1, 0), zero; the third class has no activation. Ties stay.
    expected = torch.tensor([[0.0, 0.5], [1.0, 0.5], [1.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=0)
    assert not attention_input(maps.clone().requires_grad_()).requires_grad
    assert attention_input(torch.full((1, 3, 2, 2), -1.0)).isfinite().all()


def test_max_norm_and_background():
    maps = torch.tensor([-2.0, 0.0, 1.0, 3.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    normal = max_norm(maps)
    torch.testing.assert_close(normal[0, 1].flatten(), torch.tensor([0.0, 0.0, 1 / 3, 1.0]), atol=1e-5, rtol=0)
    assert not max_norm(torch.full((1, 2, 3, 3), 7.0)).any()  # a constant has no contrast
    filled = with_background(normal)
    torch.testing.assert_close(filled[:, 0], 1 - normal[:, 1:].amax(1))
    assert torch.equal(filled[:, 1:], normal[:, 1:])
    kept = strongest_only(torch.tensor([9.0, 1.0, 3.0, 3.0]).view(1, 4, 1, 1)).flatten()
    assert kept.tolist() == [9.0, 0.0, 3.0, 3.0]


# --- building and files ----------------------------------------------------------------------------------------------


def test_starts_from_a_classifier(tmp_path):
    host = build_classifier("tiny", 3, width=4, seed=5)
    save_classifier(tmp_path / "c.pt", host, class_names=["a", "b", "c"])
    model = build_seam("tiny", 3, width=4, weights=str(tmp_path / "c.pt"))
    assert torch.equal(model.net.stem[0].weight, host.stem[0].weight)
    assert model.net.head.weight.shape[0] == 4


def test_impossible_arguments_are_named():
    with pytest.raises(ConfigError, match="at least one class"):
        build_seam("tiny", 0)
    with pytest.raises(ConfigError, match="unknown backbone"):
        build_seam("resnet39", 2)


def test_file_round_trip_and_bad_files(tmp_path, model):
    for name in ("a.pt", "b.pt"):
        save_seam(tmp_path / name, model, class_names=["a", "b", "c"], meta={"lr": 0.1})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    loaded = load_seam(tmp_path / "a.pt")
    assert not loaded.training and (loaded.class_names, loaded.meta) == (["a", "b", "c"], {"lr": 0.1})
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.refined_maps(x), model.refined_maps(x))
    with pytest.raises(ConfigError, match="2 class names for a network of 3"):
        save_seam(tmp_path / "a.pt", model, class_names=["a", "b"])
    save_classifier(tmp_path / "c.pt", build_classifier("tiny", 1, width=4), class_names=["x"])
    with pytest.raises(StoreError, match="is no seam network"):
        load_seam(tmp_path / "c.pt")
