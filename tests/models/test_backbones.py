"""Shapes, strides, taps and the removal of strides, per network."""

import pytest
import torch
import torchvision

from camflow.errors import ConfigError
from camflow.models.backbones import build_trunk, our_name
from camflow.models.classifier import build_classifier

# backbone, output stride asked for, stride got, feature channels, grid for a 64 x 96 image
CASES = [
    ("tiny", None, 8, 96, (8, 12)),
    ("tiny", 4, 4, 96, (16, 24)),
    ("resnet18", 16, 16, 512, (4, 6)),
    ("resnet34", 32, 32, 512, (2, 3)),
    ("resnet50", 16, 16, 2048, (4, 6)),
    ("resnet50", 8, 8, 2048, (8, 12)),
    ("resnet101", None, 32, 2048, (2, 3)),
    ("vgg16", None, 16, 512, (4, 6)),
    ("vgg16", 8, 8, 512, (8, 12)),
    ("mobilenet_v2", 16, 16, 1280, (4, 6)),
    ("mobilenet_v2", 8, 8, 1280, (8, 12)),
    ("squeezenet1_1", None, 16, 512, (3, 5)),  # its unpadded layers lose the border
    ("squeezenet1_1", 8, 8, 512, (7, 11)),
    ("densenet121", 16, 16, 1024, (4, 6)),
    ("efficientnet_b0", 16, 16, 1280, (4, 6)),
    ("shufflenet_v2_x1_0", 16, 16, 1024, (4, 6)),
    ("regnet_y_400mf", 16, 16, 440, (4, 6)),
    ("mnasnet1_0", 16, 16, 1280, (4, 6)),
    ("convnext_tiny", None, 32, 768, (2, 3)),
]


@pytest.mark.parametrize(("name", "asked", "stride", "channels", "grid"), CASES)
def test_shapes_strides_and_taps(name, asked, stride, channels, grid):
    model = build_classifier(name, 5, output_stride=asked).eval()
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        features, maps, logits, taps = model.features(x), model.score_maps(x), model(x), model.taps(x)
    assert model.stride == stride
    assert features.shape == (2, channels, *grid)
    assert maps.shape == (2, 5, *grid)
    torch.testing.assert_close(maps.mean((2, 3)), logits, rtol=1e-4, atol=1e-5)
    assert {s: f.shape[1] for s, f in taps.items()} == model.tap_channels()
    assert set(taps) == {s for s in (4, 8, 16) if s <= stride}
    if not name.startswith("squeezenet"):
        assert all(f.shape[2:] == (64 // s, 96 // s) for s, f in taps.items())
    if stride in taps:
        torch.testing.assert_close(taps[stride], features)


def test_resnet_levels_are_those_of_irn():
    model = build_classifier("resnet18", 3, output_stride=16).eval()
    assert model.levels == ("maxpool", "layer1", "layer2", "layer3", "layer4")
    assert model.level_strides == (4, 4, 8, 16, 16)
    shapes = [tuple(f.shape[1:]) for f in model.level_features(torch.zeros(1, 3, 64, 64))]
    assert shapes == [(64, 16, 16), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 4, 4)]


@pytest.mark.parametrize("name", ["tiny", "resnet18", "mobilenet_v2", "squeezenet1_1", "alexnet"])
def test_untouched_trunk_equals_torchvision(name):
    """Without an output stride the trunk computes what the published network computes before its pooling."""
    if name == "tiny":
        trunk = build_trunk("tiny", width=8)
        assert [m.out_channels for m in (trunk.modules["stem"][0], trunk.modules["layer4"].conv)] == [8, 32]
        return
    net = torchvision.models.get_model(name).eval()
    model = build_classifier(name, 4).eval()
    own = {our_name(key): value for key, value in net.state_dict().items()}
    model.load_state_dict({**model.state_dict(), **{k: v for k, v in own.items() if k in model.state_dict()}})
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        if name == "resnet18":
            y = net.maxpool(net.relu(net.bn1(net.conv1(x))))
            expected = net.layer4(net.layer3(net.layer2(net.layer1(y))))
        else:
            expected = net.features[:-1](x) if name == "alexnet" else net.features(x)
        torch.testing.assert_close(model.features(x), expected)


@pytest.mark.parametrize(("stride", "switches"), [(16, [False, False, True]), (8, [False, True, True])])
def test_dilation_equals_torchvision(stride, switches):
    net = torchvision.models.resnet50(replace_stride_with_dilation=switches).eval()
    model = build_classifier("resnet50", 2, output_stride=stride, dilate=True).eval()
    own = {k: v for k, v in net.state_dict().items() if not k.startswith("fc.")}
    model.load_state_dict({**model.state_dict(), **own})
    x = torch.randn(1, 3, 64, 64)
    y = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    torch.testing.assert_close(model.features(x), net.layer4(net.layer3(net.layer2(net.layer1(y)))))


def test_dilation_keeps_the_values_of_the_coarse_grid():
    """A dilated network at stride 8 contains the stride-16 network's features at every second cell."""
    coarse = build_classifier("mobilenet_v2", 2, output_stride=16, dilate=True).double().eval()
    fine = build_classifier("mobilenet_v2", 2, output_stride=8, dilate=True).double().eval()
    fine.load_state_dict(coarse.state_dict())
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(fine.features(x)[..., ::2, ::2], coarse.features(x))


@pytest.mark.parametrize(
    ("name", "stride", "words"),
    [
        ("resnet51", None, "did you mean 'resnet50'"),
        ("swin_t", None, "no plain convolutional trunk"),
        ("vit_b_16", None, "no plain convolutional trunk"),
        ("resnet18", 12, "possible: [4, 8, 16, 32]"),
        ("tiny", 16, "possible: [4, 8]"),
        ("convnext_tiny", 16, "cannot lose its stride"),
    ],
)
def test_impossible_requests_are_named(name, stride, words):
    with pytest.raises(ConfigError) as error:
        build_classifier(name, 3, output_stride=stride)
    assert words in str(error.value)
