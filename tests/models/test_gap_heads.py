"""AlexNet-GAP and GoogLeNet-GAP: what they share with torchvision's networks, and weights that fill only that."""

import pytest
import torch
import torchvision
from torch import nn

from camflow.errors import ConfigError
from camflow.models.classifier import build_classifier, load_classifier, save_classifier

NAMES = ("alexnet_gap", "alexnet_gap_bn", "googlenet_gap")
CHANNELS = {"alexnet_gap": 512, "alexnet_gap_bn": 512, "googlenet_gap": 1024}


@pytest.fixture(scope="module")
def nets():
    """Torchvision's networks; GoogLeNet with its auxiliary classifiers, as its release has them."""
    torch.manual_seed(0)
    extra = {"aux_logits": True, "init_weights": False, "transform_input": True}
    return {"alexnet": torchvision.models.alexnet(), "googlenet": torchvision.models.googlenet(**extra)}


def published(name):
    return name.partition("_")[0]


@pytest.fixture(scope="module")
def models(nets, tmp_path_factory):
    """Each network with torchvision's weights from a file."""
    folder = tmp_path_factory.mktemp("weights")
    for name, net in nets.items():
        state = {key: value for key, value in net.state_dict().items() if value.numel() < 10**7}  # AlexNet's fc: 240 MB
        torch.save(state, folder / f"{name}.pth")
    return {name: build_classifier(name, 7, weights=str(folder / f"{published(name)}.pth"), seed=5) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_logits(models, name):
    model = models[name].eval()
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        features, maps, logits = model.features(x), model.score_maps(x), model(x)
    side = 13 if name.startswith("alexnet") else 14
    assert features.shape == (2, CHANNELS[name], side, side)
    assert (features >= 0).all() and features.any()
    torch.testing.assert_close(maps.mean((2, 3)), logits, rtol=1e-4, atol=1e-5)
    assert model.stride == 16
    assert set(model.tap_channels()) == {4, 8, 16}


def test_shared_part_is_torchvisions(nets, models):
    x = torch.randn(1, 3, 96, 96)
    seen = {}

    def see(name):
        return lambda module, inputs, output: seen.__setitem__(name, output.clone())

    with torch.no_grad():
        model, y = models["alexnet_gap"].eval(), x
        for step in [step for step in model.steps if step.startswith("trunk.")]:
            y = model.get_submodule(step)(y)
        torch.testing.assert_close(y, nets["alexnet"].eval().features[:-1](x))
        nets["googlenet"].eval().inception4e.register_forward_hook(see("theirs"))
        models["googlenet_gap"].eval().inception4e.register_forward_hook(see("ours"))
        nets["googlenet"](x), models["googlenet_gap"].features(x)
    assert seen["ours"].shape == (1, 832, 6, 6)
    torch.testing.assert_close(seen["ours"], seen["theirs"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_weights_fill_what_is_shared_and_nothing_else(nets, models, name):
    fresh = build_classifier(name, 7, seed=5).state_dict()
    theirs = {key.replace("features.", "trunk."): value for key, value in nets[published(name)].state_dict().items()}
    shared = 0
    for key, value in models[name].state_dict().items():
        if key.startswith(("gap_conv.", "norms.", "classifier.")):
            assert torch.equal(value, fresh[key]), key
        else:
            assert torch.equal(value, theirs[key]), key
            shared += 1
    assert shared == (10 if name.startswith("alexnet") else 6 * len(norms_of(models[name])))


def norms_of(model):
    """The norms of GoogLeNet's own part: each has five arrays, and a convolution with one in front of it."""
    return [m for root, part in model.named_children() if root != "gap_conv" for m in part.modules() if is_norm(m)]


def is_norm(module):
    return isinstance(module, nn.BatchNorm2d)


def test_batch_norm_behind_every_convolution(models):
    kinds = [type(models["alexnet_gap_bn"].get_submodule(step)) for step in models["alexnet_gap_bn"].steps]
    convolutions = [i for i, kind in enumerate(kinds) if kind is nn.Conv2d]
    assert len(convolutions) == 7
    assert all(kinds[i + 1] is nn.BatchNorm2d and kinds[i + 2] is nn.ReLU for i in convolutions)
    assert not any(is_norm(module) for module in models["alexnet_gap"].modules())
    assert sum(isinstance(m, nn.Conv2d) for m in models["alexnet_gap"].modules()) == 7 + 1


def test_own_files_fill_everything(models, tmp_path):
    name = "alexnet_gap_bn"
    save_classifier(tmp_path / "own.pt", models[name], class_names=list("abcdefg"))
    again = build_classifier(name, 3, weights=str(tmp_path / "own.pt"), seed=9)
    for key, value in again.state_dict().items():
        if not key.startswith("classifier."):
            assert torch.equal(value, models[name].state_dict()[key]), key
    loaded = load_classifier(tmp_path / "own.pt")
    assert all(torch.equal(value, models[name].state_dict()[key]) for key, value in loaded.state_dict().items())


def test_weights_that_do_not_fit_are_refused(models, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'IMAGENET1K_V1'"):
        build_classifier("alexnet_gap", 3, weights="IMAGENET1K_V9")
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "other.pth")
    with pytest.raises(ConfigError, match="missing: trunk"):
        build_classifier("alexnet_gap", 3, weights=str(tmp_path / "other.pth"))
    state = {key: value for key, value in models["alexnet_gap"].state_dict().items() if key != "gap_conv.2.bias"}
    torch.save(state, tmp_path / "torn.pth")
    with pytest.raises(ConfigError, match=r"1 missing: gap_conv\.2\.bias"):
        build_classifier("alexnet_gap", 3, weights=str(tmp_path / "torn.pth"))


def test_they_train_with_either_pooling_and_a_finer_grid():
    model = build_classifier("alexnet_gap", 3, pooling="gmp", output_stride=8, freeze_stem=True)
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert model.gap_conv[0].weight.grad.abs().sum() > 0
    assert model.trunk[0].weight.grad is None
    with torch.no_grad():
        assert model.features(torch.randn(1, 3, 64, 64)).shape[2:] == (7, 7)
