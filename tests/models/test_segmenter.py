"""Segmentation networks: DeepLab-v2 against its authors' implementation, LargeFOV by hand, weights, files."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from torch.nn import functional

from camflow.errors import ConfigError, StoreError
from camflow.models import segmenter
from camflow.models.classifier import build_classifier, save_classifier
from camflow.models.large_fov import LargeFovHead, take_vgg16
from camflow.models.seam import build_seam, save_seam
from camflow.models.segmenter import (
    _normalisation,
    build_segmenter,
    fuse_max,
    load_segmenter,
    resize_logits,
    save_segmenter,
    scale_logits,
)
from camflow.models.vgg16_psa import MEAN_BGR
from camflow.train.augment import normalize, to_chw
from camflow.train.segment import match_grid, plain_loss
from tests.golden.loader import fill_by_rule, golden

FLOAT64, FLOAT32 = 1e-9, 1.2e-6  # relative to the largest logit: README of the arrays
STORED = 1e-6  # what is stored as float32
MARGIN = 1e-4  # labels are compared where the winner leads by more
SCALES = (1.0, 0.5, 0.75)
NAMES = ("logits", "logits_s05", "logits_s075", "logits_max")
TINY = {"width": 8, "rates": (1, 2), "freeze_bn": False}


def small(architecture="deeplab_v2", **changes):
    options = {**TINY, "rates": (1, 2) if architecture == "deeplab_v2" else (2,), "head_width": 16, **changes}
    return build_segmenter(architecture, "tiny", 3, **options)


# --- DeepLab-v2 as published -----------------------------------------------------------------------------------------


def canonical(name):
    part, _, rest = name.partition(".")
    return rest if part == "trunk" else f"aspp.{rest}"


@pytest.fixture(scope="module")
def arrays():
    return golden("deeplab_v2")


@pytest.fixture(scope="module")
def published():
    """Networks by their name in the arrays, filled by the rule; built once."""
    made = {}

    def get(name):
        if name not in made:
            model = build_segmenter("deeplab_v2", f"{name.replace('r', 'resnet')}_caffe", 20)
            made[name] = fill_by_rule(model, rename=canonical, scale={"conv1.weight": 1 / 64}).eval()
        return made[name]

    return get


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, FLOAT64), (torch.float32, FLOAT32)])
@pytest.mark.parametrize(
    ("name", "photo"),
    [("r50", 0), ("r101", 1), pytest.param("r50", 1, marks=pytest.mark.long), pytest.param("r101", 0, marks=pytest.mark.long)],
)  # fmt: skip
def test_deeplab_v2(arrays, published, name, photo, dtype, tolerance):
    expected = {key.removeprefix(f"{name}_{photo}_"): value for key, value in arrays.items()}
    model = published(name).to(dtype)
    x = torch.from_numpy(to_chw(normalize(arrays[f"image_{photo}"], model.mean, model.std)))[None].to(dtype)
    with torch.no_grad():
        outputs = scale_logits(model, x, SCALES)
        outputs.append(fuse_max(outputs))
    for key, found in zip(NAMES, outputs, strict=True):
        wanted = expected[key]
        np.testing.assert_allclose(found[0].numpy(), wanted, rtol=0, atol=tolerance * np.abs(wanted).max(), err_msg=key)
    truth = torch.from_numpy(arrays[f"gt_{photo}"])[None]
    losses = [plain_loss(*match_grid(found, truth, "network")).item() for found in outputs]
    np.testing.assert_allclose(losses, expected["losses"], rtol=tolerance)
    upsampled = resize_logits(outputs[-1], truth.shape[1:])[0].numpy()
    if "upsampled" in expected:
        bound = max(tolerance, STORED) * np.abs(expected["upsampled"]).max()
        np.testing.assert_allclose(upsampled, expected["upsampled"], rtol=0, atol=bound)
    sure = expected["margin"] > MARGIN
    assert sure.mean() > 0.99
    np.testing.assert_array_equal(upsampled.argmax(axis=0)[sure], expected["label"][sure])


def test_caffe_input_is_that_of_the_arrays(arrays, published):
    model = published("r50")
    assert arrays["mean_bgr"] == pytest.approx(MEAN_BGR)
    photo = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    x = torch.from_numpy(to_chw(normalize(photo, model.mean, model.std)))[None]
    found = model.trunk.bgr(x)[0].numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(found, photo[..., ::-1] - arrays["mean_bgr"], atol=1e-5)


def test_published_trunks_have_one_stride_only():
    for change in ({"output_stride": 16}, {"dilate": False}):
        with pytest.raises(ConfigError, match="output_stride 8 and dilate: true"):
            build_segmenter("deeplab_v2", "resnet50_caffe", 20, **change)
    with pytest.raises(ConfigError, match="no released weights for backbone 'resnet50_caffe'"):
        build_segmenter("deeplab_v2", "resnet50_caffe", 20, weights="IMAGENET1K_V1")


def test_aspp_by_hand():
    model = build_segmenter("deeplab_v2", "tiny", 20, width=32, rates=(1, 3, 4))
    x = torch.randn(2, 128, 9, 7)
    with torch.no_grad():
        expected = 0
        for index, rate in enumerate((1, 3, 4)):
            conv = model.head.get_submodule(f"c{index}")
            expected = expected + functional.conv2d(x, conv.weight, padding=rate, dilation=rate)
        torch.testing.assert_close(model.head(x), expected)  # the biases are 0
    weights = torch.cat([p.flatten() for name, p in model.head.named_parameters() if name.endswith("weight")])
    assert weights.std().item() == pytest.approx(0.01, rel=0.02)
    assert len(list(build_segmenter("deeplab_v2", "tiny", 3).head.children())) == 4


# --- scales ----------------------------------------------------------------------------------------------------------


def test_sampling_of_the_scaled_input():
    """A ramp shows where an input is read: pixel (i + 1/2) / s - 1/2, with steps of 1/s although 41 * .75 is no whole."""
    ramp = torch.arange(41.0).expand(1, 3, 41, 41)
    half, three_quarters = scale_logits(torch.nn.Identity(), ramp, (0.5, 0.75))
    assert (half.shape[2:], three_quarters.shape[2:]) == ((20, 20), (30, 30))
    for found, scale in ((half, 0.5), (three_quarters, 0.75)):
        expected = (torch.arange(found.shape[3]) + 0.5) / scale - 0.5
        torch.testing.assert_close(found[0, 0, 0], expected)


def test_maximum_is_on_the_first_grid_or_the_one_asked_for():
    low, high = torch.full((1, 2, 3, 3), -1.0), torch.full((1, 2, 6, 5), -2.0)
    high[0, 1] = 4
    for size in (None, (4, 4)):
        found = fuse_max([low, high], size)
        assert found.shape == (1, 2, *(size or (3, 3)))
        assert (found[:, 0] == -1).all() and (found[:, 1] == 4).all()


# --- LargeFOV --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large_fov():
    return build_segmenter("large_fov", "vgg16_large_fov", 20, seed=3).eval()


def test_large_fov_trunk_by_hand(large_fov):
    x = torch.randn(1, 3, 49, 41) * 60
    state = large_fov.trunk.state_dict()
    expected = x.flip(1)
    for stage, (count, dilation, stride) in enumerate([(2, 1, 2), (2, 1, 2), (3, 1, 2), (3, 1, 1), (3, 2, 1)], 1):
        for index in range(1, count + 1):
            weight, bias = state[f"conv{stage}_{index}.weight"], state[f"conv{stage}_{index}.bias"]
            expected = functional.relu(functional.conv2d(expected, weight, bias, padding=dilation, dilation=dilation))
        expected = functional.max_pool2d(expected, 3, stride=stride, padding=1)
    expected = functional.avg_pool2d(expected, 3, stride=1, padding=1)
    with torch.no_grad():
        found = large_fov.features(x)
    assert found.shape == (1, 512, 7, 6)
    torch.testing.assert_close(found, expected)


def test_large_fov_head_by_hand():
    torch.manual_seed(0)
    head = LargeFovHead(5, 4, rate=3, width=6)
    x = torch.randn(2, 5, 9, 8)
    with torch.no_grad():
        hidden = functional.relu(functional.conv2d(x, head.fc6.weight, padding=3, dilation=3))
        hidden = functional.relu(torch.einsum("od,bdhw->bohw", head.fc7.weight[:, :, 0, 0], hidden))
        expected = torch.einsum("od,bdhw->bohw", head.fc8.weight[:, :, 0, 0], hidden)
        torch.testing.assert_close(head.eval()(x), expected)
        head.train()
        assert not torch.equal(head(x), head(x))


def test_large_fov_as_published(large_fov):
    assert (large_fov.stride, large_fov.n_labels) == (8, 21)
    assert large_fov.head.fc6.dilation == (12, 12) and large_fov.head.fc8.in_channels == 1024
    assert large_fov.head.fc8.weight.std().item() == pytest.approx(0.01, rel=0.02)
    with torch.device("meta"):
        shapes = build_segmenter("large_fov", "vgg16_large_fov", 20)
        assert shapes(torch.empty(1, 3, 321, 321)).shape == (1, 21, 41, 41)


# --- any backbone ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "backbone", "options", "stride"),
    [
        ("deeplab_v2", "tiny", {}, 8),
        ("large_fov", "tiny", {}, 8),
        ("deeplab_v2", "mobilenet_v2", {"output_stride": 16}, 16),
        ("large_fov", "resnet18", {"output_stride": 16, "dilate": False}, 16),
        ("deeplab_v2", "resnet18", {"output_stride": None}, 32),
    ],
)
def test_grids(architecture, backbone, options, stride):
    model = build_segmenter(architecture, backbone, 5, **options).eval()
    assert (model.stride, model.n_labels, model.n_classes) == (stride, 6, 5)
    x = torch.randn(2, 3, 70, 64)
    with torch.no_grad():
        found = model(x)
        torch.testing.assert_close(found, model.head(model.features(x)))
    assert found.shape == (2, 6, -(-70 // stride), -(-64 // stride))
    assert len(model.trunk_parameters()) + len(model.head_parameters()) == sum(
        p.requires_grad for p in model.parameters()
    )


def test_frozen_norms_neither_move_nor_train():
    x = torch.randn(2, 3, 32, 32) * 3 + 1
    for frozen in (True, False):
        model = small(freeze_bn=frozen)
        norm = model.trunk.layer4.bn
        before = norm.running_mean.clone()
        model(x)
        assert torch.equal(norm.running_mean, before) == frozen
        assert norm.weight.requires_grad != frozen and norm.training != frozen
        assert model.training


def test_seed_and_the_global_generator():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    a, b, c = (small(seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["head.c0.weight"], c["head.c0.weight"])


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (("deeplab_v3", "tiny", 3), {}, "unknown architecture 'deeplab_v3'; did you mean 'deeplab_v2'"),
        (("deeplab_v2", "tiny", 0), {}, "1 to 254 classes"),
        (("deeplab_v2", "tiny", 255), {}, "1 to 254 classes"),
        (("deeplab_v2", "tiny", 3), {"rates": ()}, "rates needs whole numbers"),
        (("deeplab_v2", "tiny", 3), {"rates": (6, 0)}, "rates needs whole numbers"),
        (("large_fov", "tiny", 3), {"rates": (6, 12)}, "rates needs one whole number"),
        (("large_fov", "tiny", 3), {"head_width": 0}, "head_width must be positive"),
        (("deeplab_v2", "resnet", 3), {}, "unknown backbone"),
        (("deeplab_v2", "tiny", 3), {"weights": "/nowhere/file.pt"}, "does not exist"),
    ],
)
def test_impossible_arguments_are_named(arguments, options, words):
    with pytest.raises(ConfigError, match=words):
        build_segmenter(*arguments, **options)


# --- initial weights -------------------------------------------------------------------------------------------------


def test_starts_from_a_classifier_or_the_one_within_another_host(tmp_path):
    host = build_classifier("tiny", 2, width=8, seed=7)
    save_classifier(tmp_path / "c.pt", host, class_names=["a", "b"])
    seam = build_seam("tiny", 2, width=8, seed=8)
    save_seam(tmp_path / "s.pt", seam, class_names=["a", "b"])
    for path, source in ((tmp_path / "c.pt", host), (tmp_path / "s.pt", seam.net)):
        model = small(weights=str(path))
        state = source.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in model.trunk.state_dict().items())
    with pytest.raises(ConfigError, match=r"backbone 'tiny' and width 8 does not fit 'tiny' of width 4"):
        small(weights=str(tmp_path / "c.pt"), width=4)
    with pytest.raises(ConfigError, match="does not fit 'resnet18'"):
        build_segmenter("deeplab_v2", "resnet18", 3, weights=str(tmp_path / "c.pt"))


def test_a_torchvision_classifier_is_no_caffe_trunk(tmp_path, monkeypatch, published):
    """Names and shapes fit, what the layers compute does not."""
    state = published("r50").trunk.state_dict()
    host = SimpleNamespace(spec={"backbone": "resnet50", "width": 24}, state_dict=lambda: state)
    monkeypatch.setattr(segmenter, "load_classifier", lambda _: host)
    torch.save({"format": "camflow-classifier/1"}, tmp_path / "c.pt")
    with pytest.raises(ConfigError, match="does not fit 'resnet50_caffe'"):
        build_segmenter("deeplab_v2", "resnet50_caffe", 3, weights=str(tmp_path / "c.pt"))
    host.spec["backbone"] = "resnet50_caffe"
    model = build_segmenter("deeplab_v2", "resnet50_caffe", 3, weights=str(tmp_path / "c.pt"))
    assert torch.equal(model.trunk.conv1.weight, state["conv1.weight"].float())


@pytest.mark.parametrize("misfit", [False, pytest.param(True, marks=pytest.mark.long)])
def test_converted_weights_bring_the_heads_layers(tmp_path, large_fov, misfit):
    state = {**large_fov.trunk.state_dict(), "fc8.weight": torch.zeros(1000, 1024, 1, 1)}
    state |= {name: value for name, value in large_fov.head.state_dict().items() if name.startswith(("fc6", "fc7"))}
    if misfit:
        state["fc6.weight"] = torch.zeros(8, 512, 7, 7)
    torch.save(state, tmp_path / "vgg.pth")
    if misfit:
        with pytest.raises(ConfigError, match=r"of another shape: fc6\.weight"):
            build_segmenter("large_fov", "vgg16_large_fov", 4, weights=str(tmp_path / "vgg.pth"))
        return
    model = build_segmenter("large_fov", "vgg16_large_fov", 4, weights=str(tmp_path / "vgg.pth"))
    assert torch.equal(model.trunk.conv5_3.weight, large_fov.trunk.conv5_3.weight)
    assert torch.equal(model.head.fc6.weight, large_fov.head.fc6.weight)
    assert torch.equal(model.head.fc7.bias, large_fov.head.fc7.bias)
    assert not torch.equal(model.head.fc8.weight[:4], large_fov.head.fc8.weight[:4])


TORCHVISION = {
    "IMAGENET1K_V1": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "IMAGENET1K_FEATURES": ((0.48235, 0.45882, 0.40784), (1 / 255,) * 3),
}


def check_first_layer(model, weight, bias, mean, std):
    """The network's first convolution computes of a photo what the given one does behind its own normalisation."""
    photo = torch.randint(0, 256, (1, 3, 9, 8), generator=torch.Generator().manual_seed(0)).double()

    def normalised(mean, std):
        mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (mean, std))
        return (photo / 255 - mean) / std

    with torch.no_grad():
        expected = functional.conv2d(normalised(mean, std), weight.double(), bias.double())
        x = model.trunk.bgr(normalised(model.mean, model.std))
        own = model.trunk.conv1_1
        found = functional.conv2d(x, own.weight.double(), own.bias.double())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("release", TORCHVISION)
def test_torchvision_vgg16_is_folded_into_the_caffe_input(large_fov, release):
    model, shapes = copy.deepcopy(large_fov), [v.shape for v in large_fov.trunk.state_dict().values()]
    layers = [torch.nn.Conv2d(shape[1], shape[0], 3) for shape in shapes[::2]]
    mean, std = _normalisation(release)
    assert tuple(mean) == TORCHVISION[release][0] and tuple(std) == pytest.approx(TORCHVISION[release][1])
    take_vgg16(model.trunk, torch.nn.Sequential(*layers, torch.nn.ReLU()), mean, std)
    check_first_layer(model, layers[0].weight, layers[0].bias, *TORCHVISION[release])
    assert torch.equal(model.trunk.conv5_3.weight, layers[-1].weight)
    assert torch.equal(model.trunk.conv1_2.bias, layers[1].bias)


@pytest.mark.long
@pytest.mark.parametrize("source", ["release", "file"])
def test_vgg16_of_torchvision(tmp_path, monkeypatch, source):
    rng = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = torchvision.models.vgg16().features.state_dict()
    state = {f"features.{name}": torch.randn(v.shape, generator=rng) * 0.05 for name, v in shapes.items()}
    monkeypatch.setattr(torchvision.models.VGG16_Weights, "get_state_dict", lambda *_, **__: state)
    torch.save(state, tmp_path / "vgg.pth")
    weights = "IMAGENET1K_FEATURES" if source == "release" else str(tmp_path / "vgg.pth")
    model = build_segmenter("large_fov", "vgg16_large_fov", 4, weights=weights)
    constants = TORCHVISION["IMAGENET1K_FEATURES" if source == "release" else "IMAGENET1K_V1"]
    check_first_layer(model, state["features.0.weight"], state["features.0.bias"], *constants)
    assert torch.equal(model.trunk.conv5_3.weight, state["features.28.weight"])


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["deeplab_v2", "large_fov"])
def test_file_round_trip(tmp_path, architecture):
    model = small(architecture, seed=4)
    for name in ("a.pt", "b.pt"):
        save_segmenter(tmp_path / name, model, class_names=["x", "y", "z"], meta={"n": 1})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    loaded = load_segmenter(tmp_path / "a.pt")
    assert loaded.spec == model.spec and loaded.class_names == ["x", "y", "z"] and loaded.meta == {"n": 1}
    assert not loaded.training
    x = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        assert torch.equal(loaded(x), model.eval()(x))


def test_files_of_others_are_refused(tmp_path):
    save_classifier(tmp_path / "c.pt", build_classifier("tiny", 2, width=8), class_names=["a", "b"])
    with pytest.raises(StoreError, match="no segmenter network"):
        load_segmenter(tmp_path / "c.pt")
    with pytest.raises(ConfigError, match="2 class names for a network of 3 classes"):
        save_segmenter(tmp_path / "s.pt", small(), class_names=["a", "b"])
