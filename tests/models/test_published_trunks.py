"""WideResNet-38 and PSA's VGG-16 as backbones: grids, names, dropout, files of weights."""

import numpy as np
import pytest
import torch

from camflow.errors import ConfigError
from camflow.models.backbones import IMAGENET_MEAN, IMAGENET_STD, backbone_names
from camflow.models.classifier import build_classifier
from camflow.models.vgg16_psa import MEAN_BGR, CaffeInput, dilate_fc6


@pytest.fixture(scope="module")
def wide():
    return build_classifier("resnet38", 3).eval()


@pytest.fixture(scope="module")
def vgg():
    return build_classifier("vgg16_psa", 3).eval()


@pytest.mark.parametrize(
    ("name", "channels", "strides"),
    [
        ("resnet38", (128, 256, 512, 1024, 4096), (2, 4, 8, 8, 8)),
        ("vgg16_psa", (64, 128, 256, 512, 512, 1024), (1, 2, 4, 8, 8, 8)),
    ],
)
def test_levels_and_grids(request, name, channels, strides):
    model = request.getfixturevalue({"resnet38": "wide", "vgg16_psa": "vgg"}[name])
    assert name in backbone_names()
    assert (model.level_channels, model.level_strides, model.stride) == (channels, strides, 8)
    x = torch.randn(1, 3, 41, 30)
    with torch.no_grad():
        levels, maps = model.level_features(x), model.score_maps(x)
        torch.testing.assert_close(model.features(x), levels[-1])  # no dropout in eval mode
        torch.testing.assert_close(maps.mean((2, 3)), model(x))
    grids = {(-(-41 // s), -(-30 // s)) for s in strides}
    assert {tuple(level.shape[2:]) for level in levels} == grids
    assert maps.shape == (1, 3, 6, 4)


def test_names_are_those_of_the_published_weights(wide, vgg):
    names = set(wide.state_dict())
    for name in ("conv1a.weight", "b2_2.conv_branch2b1.weight", "b4_5.bn_branch2a.running_var", "bn7.bias"):
        assert name in names
    assert "b5.conv_branch1.weight" in names
    assert "b5_1.conv_branch1.weight" not in names
    assert "b7.conv_branch2b2.weight" in names
    assert {n.split(".")[0] for n in vgg.state_dict()} == {
        *(f"conv{s}_{i}" for s, n in zip(range(1, 6), (2, 2, 3, 3, 3), strict=True) for i in range(1, n + 1)),
        "fc6",
        "fc7",
        "classifier",
    }


def test_first_block_of_a_level_equals_a_plain_preactivation_block(wide):
    """The activation of the widening blocks runs as a step of its own; together they are one residual block."""
    x = torch.randn(1, 256, 6, 5)
    block = wide.b4
    with torch.no_grad():
        active = torch.relu(block.bn_branch2a(x))
        y = torch.relu(block.bn_branch2b1(block.conv_branch2a(active)))
        expected = block.conv_branch1(active) + block.conv_branch2b1(y)
        for step in ("b4.bn_branch2a", "relu4", "b4"):
            x = wide.get_submodule(step)(x)
    torch.testing.assert_close(x, expected)


def test_dropout_before_the_head_in_training_only(vgg, wide):
    x = torch.randn(1, 3, 16, 16)
    torch.manual_seed(0)
    vgg.train()
    dropped = vgg.features(x)
    vgg.eval()
    assert (dropped == 0).all(dim=3).all(dim=2).float().mean() > 0.4  # whole channels, half of them
    assert wide.steps[-1] == "dropout7"


def test_vgg_sees_bgr_less_its_own_mean():
    photo = np.random.default_rng(0).integers(0, 256, (1, 3, 4, 5))
    x = torch.from_numpy((photo.transpose(0, 2, 3, 1) / 255 - IMAGENET_MEAN) / IMAGENET_STD).permute(0, 3, 1, 2)
    found = CaffeInput(IMAGENET_MEAN, IMAGENET_STD)(x)
    expected = photo[:, ::-1] - np.array(MEAN_BGR)[:, None, None]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    assert CaffeInput(IMAGENET_MEAN, IMAGENET_STD)(x.float()).dtype == torch.float32


def test_dilated_fc6_keeps_the_grid():
    model = build_classifier("vgg16_psa", 2).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model.features(x)
        dilate_fc6(model)
        after = model.features(x)
    assert before.shape == after.shape == (1, 1024, 8, 8)
    assert not torch.equal(before, after)


def test_weights_from_a_converted_file(tmp_path, vgg):
    trunk = {name: value for name, value in vgg.state_dict().items() if not name.startswith("classifier")}
    torch.save({**trunk, "fc8.weight": torch.zeros(1000, 1024, 1, 1)}, tmp_path / "vgg.pth")
    model = build_classifier("vgg16_psa", 5, weights=str(tmp_path / "vgg.pth"), seed=9)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in trunk.items())
    del trunk["fc7.bias"]
    torch.save(trunk, tmp_path / "vgg.pth")
    with pytest.raises(ConfigError, match=r"1 missing: fc7\.bias"):
        build_classifier("vgg16_psa", 5, weights=str(tmp_path / "vgg.pth"))


def test_strides_that_cannot_be_had():
    with pytest.raises(ConfigError, match="cannot have output_stride 16"):
        build_classifier("vgg16_psa", 2, output_stride=16)
    assert build_classifier("vgg16_psa", 2, output_stride=8).stride == 8
