"""The CAM head, frozen parts, initial weights and files."""

import copy
import os

import numpy as np
import pytest
import torch
import torchvision

from camflow.errors import ConfigError, StoreError
from camflow.models.classifier import build_classifier, load_classifier, save_classifier
from tests.golden.loader import ROOT, fill_by_rule, golden


def trained_names(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_names_and_head():
    model = build_classifier("resnet18", 20)
    names = set(torchvision.models.resnet18().state_dict()) - {"fc.weight", "fc.bias"}
    assert set(model.state_dict()) == names | {"classifier.weight"}
    assert model.head is model.classifier
    assert model.head.bias is None
    assert model.head.weight.shape == (20, 512, 1, 1)


def test_published_network_by_rule_gives_golden_logits_and_maps():
    arrays = golden("irn_cam")
    model = fill_by_rule(build_classifier("resnet50", 20, output_stride=16)).double().eval()
    for i in range(2):
        rgb = arrays[f"image_{i}"] / 255.0
        x = ((rgb - model.mean) / model.std).astype(np.float32).transpose(2, 0, 1).astype(np.float64)
        pair = torch.from_numpy(np.stack([x, x[..., ::-1]]))
        with torch.no_grad():
            maps, logits = model.score_maps(pair).relu(), model(pair)
        raw = maps[0] + maps[1].flip(-1)
        np.testing.assert_allclose(raw.numpy(), arrays[f"raw_{i}_s0"], atol=1e-10)
        np.testing.assert_allclose(logits.numpy(), arrays[f"logits_{i}_s0"], atol=1e-10)


def test_gmp_pools_features_by_their_maximum():
    model = build_classifier("tiny", 3, pooling="gmp", width=4).eval()
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(x), model.features(x).amax((2, 3)) @ model.head.weight[:, :, 0, 0].T)


def test_seed_decides_the_weights_and_leaves_the_global_generator():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, c = (build_classifier("tiny", 3, width=4, seed=s).head.weight for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_freeze_bn_keeps_statistics_but_trains_affine():
    model = build_classifier("tiny", 3, width=4, freeze_bn=True).train()
    before = copy.deepcopy(model.state_dict())
    model(torch.randn(4, 3, 32, 32)).sum().backward()
    assert model.stem[1].weight.grad is not None
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    free = build_classifier("tiny", 3, width=4).train()
    free(torch.randn(4, 3, 32, 32))
    assert free.stem[1].num_batches_tracked == 1


def test_freeze_stem_and_detach_match_irn():
    every = trained_names(build_classifier("resnet18", 3))
    stem = every - trained_names(build_classifier("resnet18", 3, freeze_stem=True))
    assert stem == {"conv1.weight", "bn1.weight", "bn1.bias"}
    left = trained_names(build_classifier("resnet18", 3, output_stride=16, detach="layer2"))
    assert {name.split(".")[0] for name in left} == {"layer3", "layer4", "classifier"}
    left = trained_names(build_classifier("mobilenet_v2", 3, freeze_stem=True, detach="layer2"))
    assert min(int(name.split(".")[1]) for name in left if name.startswith("trunk")) == 7
    assert "trunk.0.weight" not in trained_names(build_classifier("alexnet", 3, freeze_stem=True))


def test_detached_network_still_has_image_gradients():
    model = build_classifier("resnet18", 3, output_stride=16, detach="layer2", freeze_stem=True).eval()
    x = torch.randn(1, 3, 32, 32, requires_grad=True)
    model(x).sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"pooling": "max"}, "pooling 'max'"),
        ({"detach": "layer1"}, "did you mean 'layer2'"),
        ({"detach": "layer2"}, "nothing to train"),
        ({"weights": "IMAGENET1K_V1"}, "no released weights"),
        ({"weights": "no/such.pth"}, "does not exist"),
    ],
)
def test_impossible_arguments_are_named(arguments, words):
    with pytest.raises(ConfigError) as error:
        build_classifier("tiny", 3, **arguments)
    assert words in str(error.value)


def test_unknown_release_lists_the_choices():
    with pytest.raises(ConfigError, match="did you mean 'IMAGENET1K_V1'"):
        build_classifier("resnet18", 3, weights="IMAGENET1K_V9")


def test_weights_from_a_file(tmp_path):
    net = torchvision.models.mobilenet_v2()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    model = build_classifier("mobilenet_v2", 3, output_stride=16, weights=str(tmp_path / "net.pth"))
    for name, value in net.features.state_dict().items():
        assert torch.equal(model.state_dict()[f"trunk.{name}"], value), name
    assert torch.equal(model.head.weight, build_classifier("mobilenet_v2", 3).head.weight)


def test_weights_that_do_not_fit_are_listed(tmp_path):
    state = torchvision.models.resnet18().state_dict()
    state["layer1.0.conv9.weight"] = state.pop("layer1.0.conv1.weight")
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(ConfigError) as error:
        build_classifier("resnet18", 3, weights=str(tmp_path / "bad.pth"))
    for words in (
        "1 missing: layer1.0.conv1.weight",
        "1 unknown: layer1.0.conv9.weight",
        "conv1.weight (64, 1, 7, 7) instead of (64, 3, 7, 7)",
    ):
        assert words in str(error.value)


def test_weights_file_that_is_no_state_dict(tmp_path):
    (tmp_path / "text.pth").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pth")
    for name, words in (("text.pth", "cannot be read"), ("list.pth", "holds no state dict")):
        with pytest.raises(ConfigError, match=words):
            build_classifier("resnet18", 3, weights=str(tmp_path / name))


@pytest.mark.parametrize("name", ["mobilenet_v2", "squeezenet1_1"])
def test_real_imagenet_weights_fit(name):
    folder = os.environ.get("CAMFLOW_REAL", ROOT.parent / "shared" / "real")
    path = os.path.join(folder, "weights", f"{name}.pth")
    if not os.path.isfile(path):
        pytest.skip(f"no real weights at {path}; set CAMFLOW_REAL to the folder that has weights/")
    model = build_classifier(name, 6, output_stride=16, weights=path).eval()
    with torch.no_grad():
        assert model.score_maps(torch.zeros(1, 3, 96, 96)).isfinite().all()


def test_file_round_trip_is_exact_and_repeatable(tmp_path):
    model = build_classifier("tiny", 3, width=4, freeze_bn=True, pooling="gmp").to(memory_format=torch.channels_last)
    facts = {"class_names": ["ant", "bee", "cat"], "meta": {"params": {"lr": 0.1}}}
    save_classifier(tmp_path / "a.pt", model, **facts)
    save_classifier(tmp_path / "b.pt", model, **facts)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    loaded = load_classifier(tmp_path / "a.pt")
    assert not loaded.training
    assert (loaded.class_names, loaded.meta) == (facts["class_names"], facts["meta"])
    assert loaded.spec == model.spec
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded(x), model.eval()(x))
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in loaded.state_dict().items())


def test_bad_files_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    with pytest.raises(StoreError, match="missing"):
        load_classifier(path)
    model = build_classifier("tiny", 2, width=4)
    save_classifier(path, model, class_names=["a", "b"])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match="not a whole classifier file"):
        load_classifier(path)
    at = whole.find(model.head.weight.detach().numpy().tobytes())  # flip one bit of one weight
    assert at > 0
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(StoreError, match=r"corrupt|not a whole"):
        load_classifier(path)
    torch.save({"x": 1}, path)
    with pytest.raises(StoreError, match="no classifier of format"):
        load_classifier(path)
    with pytest.raises(ConfigError, match="1 class names for a network of 2"):
        save_classifier(path, model, class_names=["a"])
