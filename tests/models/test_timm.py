"""Networks of timm as backbones: equal to timm's own features, or refused in one sentence."""

import importlib

import numpy as np
import pytest
import torch

from camflow.errors import ConfigError
from camflow.models.amn import build_amn
from camflow.models.backbones import build_trunk
from camflow.models.classifier import build_classifier, load_classifier, save_classifier
from camflow.models.host import given_labels
from camflow.models.masker import build_masker
from camflow.models.mctformer import architecture_of, build_mctformer, save_mctformer
from camflow.models.seam import build_seam
from camflow.models.timm_backbones import create
from camflow.plan.job import software

timm = pytest.importorskip("timm", reason="timm is not installed: pip install -e '.[timm]'")

SMALL = ("test_resnet", "test_efficientnet", "test_byobnet", "test_nfnet", "test_convnext")  # timm has them for tests
VIT = "timm:test_vit"


def photos(*size):
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))


def own_features(net, x):
    with torch.no_grad():
        return net.eval().forward_features(x)


# --- convolutional ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_features_are_those_of_timm(tmp_path, name):
    theirs = timm.create_model(name)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    ours = build_classifier(f"timm:{name}", 3, weights=str(tmp_path / "w.pth")).eval()
    for size in ((64, 64), (70, 101)):
        x = photos(*size)
        with torch.no_grad():
            features = ours.features(x)
            rescaled = ours.get_submodule("rescale")(x) if "rescale" in ours.steps else x
            assert torch.equal(features, own_features(theirs, rescaled))
        lost = name == "test_convnext"  # its kernels do not overlap
        assert features.shape[2:] == tuple((n + (0 if lost else 31)) // 32 for n in size)
    assert ours.map_stride == (1 if lost else 32)
    for build in (build_amn, build_seam, build_masker):
        wrapper = build(ours) if build is build_masker else build(f"timm:{name}", 3)
        told = given_labels(wrapper, [np.array([1])])
        assert wrapper.map_stride == told.map_stride == ours.map_stride
    assert ours.stride == 32 and ours.level_strides[-1] == 32
    assert ours.level_channels == tuple(f.shape[1] for f in ours.level_features(photos(64, 64)))


def test_a_finer_stride_keeps_the_rest():
    coarse, fine = (build_classifier("timm:test_resnet", 2, output_stride=s, seed=3).eval() for s in (None, 16))
    assert (coarse.stride, fine.stride) == (32, 16)
    with torch.no_grad():
        levels = [model.level_features(photos(64, 64)) for model in (coarse, fine)]
    for one, other in zip(levels[0][:-1], levels[1][:-1], strict=True):
        assert torch.equal(one, other)
    assert levels[1][-1].shape[2:] == (4, 4)


def test_another_input_is_turned_into():
    theirs = timm.create_model("test_resnet")
    mean, std = (torch.tensor(theirs.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    assert mean.flatten().tolist() == [0.5] * 3
    ours = build_classifier("timm:test_resnet", 2).eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    rgb = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    normal = (rgb - torch.tensor(ours.mean)[:, None, None]) / torch.tensor(ours.std)[:, None, None]
    with torch.no_grad():
        found, wanted = ours.features(normal), own_features(theirs, (rgb - mean) / std)
    assert wanted.abs().max() > 0.1
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_trained_one_comes_back(tmp_path):
    model = build_classifier("timm:test_resnet", 2, output_stride=16, freeze_bn=True, freeze_stem=True, detach="layer2")
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert any(name.startswith("conv1.") for name in frozen) and not any(name.startswith("layer4") for name in frozen)
    save_classifier(tmp_path / "c.pt", model, class_names=["ant", "bee"])
    again, x = load_classifier(tmp_path / "c.pt"), photos(48, 64)
    with torch.no_grad():
        assert torch.equal(again.score_maps(x), model.eval().score_maps(x))


def test_the_seed_decides():
    one, same = (build_classifier("timm:test_resnet", 2, seed=5).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], same[name]) for name in one)


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        ("timm:test_resnett", r"timm [\d.]+ has no network of this name; did you mean 'test_resnet'"),
        (VIT, "is a vision transformer, which has no convolutional trunk; train it with method mctformer"),
        ("timm:test_maxvit", "has no plain convolutional trunk"),  # one input size
        ("timm:test_mambaout", "has no plain convolutional trunk"),  # channels last
    ],
)
def test_what_is_no_trunk(backbone, words):
    with pytest.raises(ConfigError, match=words):
        build_trunk(backbone)


def test_cells_that_do_not_tile_the_photo(monkeypatch):
    """A stride of 7 pixels: no reader of maps could place them."""
    net = timm.create_model("test_resnet")
    net.conv1 = torch.nn.Conv2d(3, 64, 7, 7)
    monkeypatch.setattr("camflow.models.timm_backbones.create", lambda backbone: net)
    with pytest.raises(ConfigError, match="no plain convolutional trunk: its features are not a grid of cells"):
        build_trunk("timm:test_resnet")


# --- weights ---------------------------------------------------------------------------------------------------------


def test_weights_that_are_no_release():
    with pytest.raises(
        ConfigError, match=r"unknown weights 'IMAGENET1K_V1' for backbone 'timm:test_resnet'.* use pretrained"
    ):
        build_classifier("timm:test_resnet", 2, weights="IMAGENET1K_V1")


def test_a_release_that_cannot_be_fetched(monkeypatch):
    def fail(*_, pretrained=False, **__):
        if pretrained:
            raise OSError("no route to host")
        return make("test_resnet")

    make = timm.create_model
    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(ConfigError, match=r"could not fetch the weights of 'timm:test_resnet' \(no route to host\)"):
        build_classifier("timm:test_resnet", 2, weights="pretrained")


def test_a_release_is_what_timm_gives(monkeypatch):
    """In place of a download: the network that ``pretrained=True`` would return."""
    make, asked = timm.create_model, []

    def release(name, *, pretrained=False):
        asked.append(pretrained)
        net = make(name)
        for parameter in net.parameters():
            torch.nn.init.constant_(parameter, 0.25 if pretrained else 0.0)
        return net

    monkeypatch.setattr(timm, "create_model", release)
    model = build_classifier("timm:test_resnet", 2, weights="pretrained")
    assert asked == [False, True] and (model.conv1[0].weight == 0.25).all()


def test_safetensors_are_read(tmp_path):
    save_file = pytest.importorskip("safetensors.torch", reason="safetensors comes with timm").save_file
    theirs = timm.create_model("test_resnet")
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    model = build_classifier("timm:test_resnet", 2, weights=str(tmp_path / "w.safetensors"))
    assert torch.equal(model.layer4[0].conv1.weight, theirs.layer4[0].conv1.weight)
    with pytest.raises(ConfigError, match=r"weights file 'none\.safetensors' does not exist"):
        build_classifier("timm:test_resnet", 2, weights="none.safetensors")


# --- vision transformers ---------------------------------------------------------------------------------------------


def test_a_transformer_goes_the_way_of_mctformer(tmp_path):
    theirs = timm.create_model("test_vit", num_classes=5)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    shape = architecture_of(VIT)
    assert (shape.patch, shape.width, shape.depth, shape.heads, shape.size) == (16, 64, 6, 2, 160)
    assert shape.mlp_ratio == 3.0 and (shape.mean, shape.std) == ((0.5,) * 3, (0.5,) * 3)
    ours = build_mctformer(1, shape, backbone=VIT, weights=str(tmp_path / "w.pth")).eval()
    x, last = photos(160, 160), []
    theirs.blocks[-1].register_forward_hook(lambda module, given, out: last.append(out))
    own_features(theirs, x)
    with torch.no_grad():
        own, patches = ours.tokens(x)
    found = torch.cat([own, patches.flatten(2).transpose(1, 2)], dim=1)
    torch.testing.assert_close(found, last[0], rtol=1e-4, atol=1e-5)


def test_a_trained_transformer_needs_no_timm(tmp_path, monkeypatch):
    model = build_mctformer(2, architecture_of(VIT, size=96), backbone=VIT).eval()
    save_mctformer(tmp_path / "c.pt", model, class_names=["ant", "bee"])
    monkeypatch.setattr(timm, "create_model", None)
    x = photos(96, 80)
    with torch.no_grad():
        assert torch.equal(load_classifier(tmp_path / "c.pt").refined_maps(x), model.refined_maps(x))


def test_another_size_of_a_transformer():
    assert architecture_of(VIT, size=96).cells == 6
    with pytest.raises(ConfigError, match="depth, width: a transformer of timm has its own; leave it out"):
        architecture_of(VIT, width=64, depth=2, size=96)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("test_resnet", "is a ResNet; MCTformer needs a plain vision transformer"),
        ("test_vit2", "has reg_token, which MCTformer does not know"),
        ("test_vit_relpos", "is a VisionTransformerRelPos; MCTformer needs a plain"),
        ("test_vitt", "has no network of this name"),
    ],
)
def test_transformers_that_it_cannot_work_on(name, words):
    with pytest.raises(ConfigError, match=words):
        architecture_of(f"timm:{name}")


# --- without timm ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [lambda name: build_classifier(name, 2), create, architecture_of])
def test_without_timm_the_message_says_how_to_install_it(monkeypatch, build):
    load = importlib.import_module

    def absent(name, *rest):
        if name == "timm":
            raise ModuleNotFoundError("No module named 'timm'")
        return load(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(
        ConfigError, match=r"'timm:test_resnet' needs timm, which is not installed;.*pip install -e '\.\[timm\]'"
    ):
        build("timm:test_resnet")


def test_the_version_is_in_the_envelope():
    assert software()["timm"] == timm.__version__
