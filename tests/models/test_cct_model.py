"""The network of cross-consistency training: decoder and initialisation against the authors' code, files, sizes."""

import numpy as np
import pytest
import torch

from camflow.errors import ConfigError, StoreError
from camflow.models.cct import (
    Decoder,
    PyramidPooling,
    build_cct,
    icnr_,
    load_cct,
    save_cct,
    spread,
    with_auxiliary,
)
from camflow.models.classifier import build_classifier, save_classifier
from camflow.models.seam import build_seam, save_seam
from camflow.models.segmenter import Segmenter
from tests.golden.loader import fill_by_rule, golden


@pytest.fixture(scope="module")
def arrays():
    return golden("cct")


def tiny(**changes):
    return build_cct("tiny", 2, **{"width": 4, **changes})


# --- the decoder -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_decoder(arrays, dtype, tolerance):
    decoder = Decoder(int(arrays["in_channels"]), int(arrays["num_classes"]), 3).to(dtype)
    fill_by_rule(decoder, rename=lambda own: f"main_decoder.{own}")
    names = [n.removeprefix("main_decoder.") for n in arrays["reduced_weight_names"] if n.startswith("main_decoder.")]
    assert sorted(decoder.state_dict()) == names
    x = torch.from_numpy(arrays["decoder_input"]).to(dtype)
    stage = x
    for number in range(3):
        stage = decoder.upsample[number](stage)
        expected = arrays[f"decoder_stage_{number}"]
        np.testing.assert_allclose(stage.detach().numpy(), expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(decoder(x).detach().numpy(), arrays["decoder_output"], rtol=0, atol=tolerance)
    assert decoder(x).min() == 0  # a ReLU comes last


def test_icnr(arrays):
    weight = spread(torch.from_numpy(arrays["icnr_base"]))
    assert np.array_equal(weight.numpy(), arrays["icnr_weight"])
    x = torch.from_numpy(arrays["icnr_input"]).double()
    for bias, key in ((None, "zero_bias"), (torch.from_numpy(arrays["icnr_bias"]).double(), "with_bias")):
        grown = torch.pixel_shuffle(torch.relu(torch.conv2d(x, weight.double(), bias)), 2)
        np.testing.assert_allclose(grown.numpy(), arrays[f"icnr_output_{key}"], rtol=0, atol=1e-12)


def test_fresh_weights_make_no_checkerboard():
    torch.manual_seed(0)
    weight = icnr_(torch.empty(400, 100, 1, 1))
    assert torch.equal(weight[0::4], weight[3::4]) and not torch.equal(weight[0], weight[4])
    assert weight.std().item() == pytest.approx((2 / 100) ** 0.5, rel=0.05)  # He et al. 2015
    decoder = Decoder(6, 3, 3)
    for doubling in decoder.upsample[1:]:
        torch.nn.init.zeros_(doubling.conv.bias)
    logits = decoder(torch.randn(2, 6, 4, 5))
    blocks = logits.unflatten(3, (5, 8)).unflatten(2, (4, 8))
    torch.testing.assert_close(blocks, blocks[:, :, :, :1, :, :1].expand_as(blocks))


# --- the encoder -----------------------------------------------------------------------------------------------------


def test_pyramid_pooling_looks_at_parts_of_the_image():
    torch.manual_seed(1)
    pooling, x = PyramidPooling(8, (1, 3)).eval(), torch.randn(2, 8, 6, 9)
    parts = [x]
    for n, stage in zip((1, 3), pooling.stages, strict=True):
        height, width = 6 // n, 9 // n
        means = torch.stack(
            [
                torch.stack(
                    [x[:, :, r * height :, c * width :][:, :, :height, :width].mean((2, 3)) for c in range(n)], -1
                )
                for r in range(n)
            ],
            -2,
        )
        grown = torch.nn.functional.interpolate(stage(means), size=(6, 9), mode="bilinear", align_corners=False)
        parts.append(grown)
    torch.testing.assert_close(pooling(x), pooling.bottleneck(torch.cat(parts, dim=1)))
    assert pooling.out_channels == 4


def test_published_sizes():
    network = build_cct("resnet50", 20).eval()
    assert (network.code_channels, network.stride, network.doublings) == (512, 8, 3)
    pooling = network.head.pooling
    assert [tuple(stage[0].weight.shape) for stage in pooling.stages] == [(512, 2048, 1, 1)] * 4
    assert tuple(pooling.bottleneck[0].weight.shape) == (512, 4096, 3, 3)
    assert tuple(network.main_decoder.upsample[0].weight.shape) == (21, 512, 1, 1)


def test_one_image_cannot_be_normalised():
    network = tiny()
    with pytest.raises(ConfigError, match=r"at least two images.*batch_size"):
        network(torch.zeros(1, 3, 48, 48))
    assert network.eval()(torch.zeros(1, 3, 48, 48)).shape == (1, 3, 48, 48)
    frozen = tiny(freeze_bn=True)
    assert frozen(torch.zeros(1, 3, 48, 48)).shape == (1, 3, 48, 48)
    assert not any(
        p.requires_grad for m in frozen.modules() if isinstance(m, torch.nn.BatchNorm2d) for p in m.parameters()
    )


@pytest.mark.parametrize(("backbone", "stride", "doublings"), [("tiny", 4, 2), ("tiny", 8, 3), ("resnet18", 16, 4)])
def test_the_decoder_undoes_the_stride(backbone, stride, doublings):
    network = build_cct(backbone, 2, width=4, output_stride=stride, dilate=backbone == "tiny").eval()
    assert (network.stride, network.doublings) == (stride, doublings)
    assert len(network.main_decoder.upsample) == 1 + doublings
    x = torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    assert network(x).shape == (1, 3, 48, 64)
    assert network.encode(x).shape == (1, network.code_channels, 48 // stride, 64 // stride)
    torch.testing.assert_close(network(x), network.main_decoder(network.encode(x)))


def test_sides_between_the_strides_are_mirrored():
    network = tiny().eval()
    x = torch.randn(1, 3, 45, 50, generator=torch.Generator().manual_seed(0))
    mirrored = np.pad(x.numpy(), ((0, 0), (0, 0), (0, 3), (0, 6)), mode="reflect")
    torch.testing.assert_close(network(x), network(torch.from_numpy(mirrored))[:, :, :45, :50])
    assert network(x[:, :, :3, :2]).shape == (1, 3, 3, 2)


def test_it_is_a_segmentation_network():
    network = tiny()
    assert isinstance(network, Segmenter)
    assert (network.n_labels, network.n_classes, network.stride) == (3, 2, 8)
    trunk, head = (sum(p.numel() for p in group) for group in (network.trunk_parameters(), network.head_parameters()))
    assert trunk + head == sum(p.numel() for p in network.parameters())
    again, other = tiny(), tiny(seed=1)
    assert torch.equal(again.main_decoder.upsample[0].weight, network.main_decoder.upsample[0].weight)
    assert not torch.equal(other.main_decoder.upsample[0].weight, network.main_decoder.upsample[0].weight)


def test_without_the_last_relu_logits_keep_their_sign():
    x = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    cut, signed = (tiny(last_relu=last).eval() for last in (True, False))
    assert signed(x).min() < 0
    torch.testing.assert_close(signed(x).relu(), cut(x))
    aux = with_auxiliary(signed, 1).aux_decoders[0]
    assert [doubling.relu for doubling in aux.upsample[1:]] == [True, True, False]


def test_impossible_networks_are_named():
    with pytest.raises(ConfigError, match="1 to 254 classes"):
        build_cct("tiny", 255)
    with pytest.raises(ConfigError, match="unknown backbone"):
        build_cct("tinny", 2)


def test_a_classifier_starts_the_trunk(tmp_path):
    classifier = build_classifier("tiny", 5, width=4, seed=9)
    save_classifier(tmp_path / "c.pt", classifier, class_names=list("abcde"))
    network = tiny(weights=str(tmp_path / "c.pt"))
    for name, value in network.trunk.state_dict().items():
        assert torch.equal(value, classifier.state_dict()[name])
    with pytest.raises(ConfigError, match=r"backbone 'tiny' and width 4 does not fit 'tiny' of width 8"):
        tiny(weights=str(tmp_path / "c.pt"), width=8)


def test_a_classifier_within_another_host_starts_the_trunk(tmp_path):
    seam = build_seam("tiny", 2, width=4, seed=8)
    save_seam(tmp_path / "s.pt", seam, class_names=["a", "b"])
    network, state = tiny(weights=str(tmp_path / "s.pt")), seam.net.state_dict()
    for name, value in network.trunk.state_dict().items():
        assert torch.equal(value, state[name])


# --- files -----------------------------------------------------------------------------------------------------------


def test_files_hold_the_network_without_auxiliary_decoders(tmp_path):
    training = with_auxiliary(tiny(seed=4), 3, seed=1)
    first, second = (decoder.upsample[0].weight for decoder in training.aux_decoders[:2])
    assert not torch.equal(first, second)
    save_cct(tmp_path / "cct.pt", training.network, class_names=["ant", "bee"], meta={"method": "cct"})
    loaded = load_cct(tmp_path / "cct.pt")
    assert not any("aux" in name for name in torch.load(tmp_path / "cct.pt", weights_only=True)["state_dict"])
    assert (loaded.class_names, loaded.meta, loaded.training) == (["ant", "bee"], {"method": "cct"}, False)
    x = torch.randn(2, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(x), training.eval()(x))
    save_cct(tmp_path / "again.pt", loaded, class_names=loaded.class_names, meta=loaded.meta)
    assert (tmp_path / "again.pt").read_bytes() == (tmp_path / "cct.pt").read_bytes()


def test_foreign_files_and_wrong_names_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="3 class names for a network of 2"):
        save_cct(tmp_path / "cct.pt", tiny(), class_names=list("abc"))
    save_classifier(tmp_path / "c.pt", build_classifier("tiny", 2, width=4), class_names=["ant", "bee"])
    with pytest.raises(StoreError, match="is no segmenter_cct network"):
        load_cct(tmp_path / "c.pt")
