"""AMN against its authors' implementation: network, loss and gradient, map rule, confident labels, published constants."""

import inspect
import math
import zlib

import numpy as np
import pytest
import torch

from camflow.localize.amn import amn_planes, merged_logits
from camflow.localize.extract import normalisation_table, to_views
from camflow.localize.maps import SeedMaps, full_size_maps, stride4_maps
from camflow.models.amn import build_amn
from camflow.models.deeplab import Aspp
from camflow.refine.confident import PUBLISHED as LABELS
from camflow.refine.confident import confident_labels
from camflow.refine.threshold import winners
from camflow.refine.walk import PUBLISHED as WALKS
from camflow.train.amn import AmnParams
from camflow.train.amn_loss import amn_losses
from camflow.train.segment import nearest_labels
from tests.golden.loader import fill_by_rule, golden

NETWORK, LOSS, MAPS = 1e-9, 1e-10, 1e-10  # float64; all tolerances: README of the arrays
SINGLE = 5e-5
READ = 2e-5  # maps as read beside maps in single precision


@pytest.fixture(scope="module")
def arrays():
    return golden("amn")


def tensor(arrays, name, dtype=torch.float64):
    return torch.from_numpy(arrays[name]).to(dtype)


# --- network ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    made = build_amn("resnet50", 20, output_stride=16)
    fill_by_rule(made, rename=lambda name: name.removeprefix("net."))
    draws = np.random.default_rng(zlib.crc32(b"label_enc.weight")).standard_normal((2048, 20)) * math.sqrt(2 / 20)
    bias = np.random.default_rng(zlib.crc32(b"label_enc.bias")).standard_normal(2048) * 0.1
    with torch.no_grad():
        made.label_enc.weight.copy_(torch.from_numpy(draws.astype(np.float32)))
        made.label_enc.bias.copy_(torch.from_numpy(bias.astype(np.float32)))
    return made.eval()


def test_weights_follow_the_rule(arrays, model):
    state = {name.removeprefix("net."): value for name, value in model.state_dict().items()}
    for name, first, total, magnitude in zip(
        arrays["weight_names"], arrays["weight_first4"], arrays["weight_sum"], arrays["weight_abs_sum"], strict=True
    ):
        value = state[str(name)].double()
        np.testing.assert_allclose(value.flatten()[:4], first, rtol=1e-6, err_msg=str(name))
        np.testing.assert_allclose([value.sum(), value.abs().sum()], [total, magnitude], rtol=1e-6, atol=1e-4)


def seen(arrays, model, photo):
    dtype = model.label_enc.weight.dtype
    table = normalisation_table(model.mean, model.std).to(dtype)
    views = to_views(torch.from_numpy(arrays[f"image_{photo}"])[None], table, True)
    return views, model.given(np.flatnonzero(arrays[f"label_{photo}"]))


@pytest.mark.parametrize("photo", [0, 1])
def test_network_float64(arrays, model, photo):
    views, host = seen(arrays, model.double(), photo)
    with torch.inference_mode():
        embedding = model.label_enc(host.labels.double())[0]
        features, logits = host.features(views[0]), host.logits(views[0])
        merged = merged_logits(host, views)
    near = {"rtol": NETWORK, "atol": NETWORK}
    np.testing.assert_allclose(embedding[::16], arrays[f"label_embedding_{photo}"], **near)
    np.testing.assert_allclose(features[:, ::64], arrays[f"features_sub_{photo}"], **near)
    np.testing.assert_allclose(features.sum(1), arrays[f"features_sum_{photo}"], **near)
    np.testing.assert_allclose(logits, arrays[f"pair_logits_{photo}"], **near)
    np.testing.assert_allclose(merged, arrays[f"merged_logits_{photo}"], **near)
    with torch.inference_mode():
        np.testing.assert_allclose(host.score_maps(views[0]), arrays[f"pair_logits_{photo}"][:, 1:], **near)


@pytest.mark.parametrize("photo", [0, 1])
def test_network_float32(arrays, model, photo):
    views, host = seen(arrays, model.float(), photo)
    with torch.inference_mode():
        found = host.logits(views[0])
    np.testing.assert_allclose(found, arrays[f"pair_logits_{photo}"], rtol=0, atol=SINGLE)


def test_every_dilation_reaches_beyond_the_centre(arrays):
    head = Aspp(12, 5, arrays["aspp_rates"].tolist()).double()
    with torch.no_grad():
        for number, conv in enumerate(head.children()):
            conv.weight.copy_(tensor(arrays, f"aspp_weight_{number}"))
            conv.bias.copy_(tensor(arrays, f"aspp_bias_{number}"))
        found = head(tensor(arrays, "aspp_input"))
    np.testing.assert_allclose(found, arrays["aspp_output"], rtol=NETWORK, atol=NETWORK)


def test_published_dropout_stays_on_and_ours_does_not(arrays, model):
    assert arrays["reference_dropout_active_after_eval"]
    views, host = seen(arrays, model.float(), 0)
    with torch.inference_mode():
        assert torch.equal(host.logits(views[0]), host.logits(views[0]))


# --- loss ------------------------------------------------------------------------------------------------------------


def test_labels_on_the_grid_of_the_logits(arrays):
    found = nearest_labels(torch.from_numpy(arrays["loss_labels_full"]), arrays["loss_labels_resized"].shape[1:])
    np.testing.assert_array_equal(found, arrays["loss_labels_resized"])


@pytest.mark.parametrize(("smoothing", "name"), [(0.4, "loss_value"), (0.0, "loss_value_eps0")])
def test_loss(arrays, smoothing, name):
    logits = tensor(arrays, "loss_logits").requires_grad_()
    terms = amn_losses(logits, torch.from_numpy(arrays["loss_labels_resized"]), smoothing)
    assert terms["loss"].item() == pytest.approx(float(arrays[name]), abs=LOSS)
    if smoothing == float(arrays["loss_eps"]):
        terms["loss"].backward()
        np.testing.assert_allclose(logits.grad, arrays["loss_grad"], rtol=0, atol=LOSS)


def test_a_batch_of_one_kind_of_cells_trains_where_the_published_loss_is_nan(arrays):
    assert arrays["loss_without_foreground_is_nan"] and arrays["loss_without_background_is_nan"]
    logits, labels = tensor(arrays, "loss_logits"), torch.from_numpy(arrays["loss_labels_resized"])
    whole = amn_losses(logits, labels, 0.4)
    for kind, only in (("background", labels == 0), ("foreground", labels != 0)):
        terms = amn_losses(logits, torch.where(only, labels, 255), 0.4)
        assert terms["loss"] == pytest.approx(whole[kind].item() / 2)
        assert terms[kind] == pytest.approx(whole[kind].item())


# --- maps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("photo", [0, 1])
@pytest.mark.parametrize("which", ["cam", "high_res"])
def test_map_rule(arrays, photo, which):
    wanted = arrays[f"map_{which}_{photo}"]
    logits = [tensor(arrays, f"map_logits_{photo}_s{number}") for number in range(4)]
    found = amn_planes(logits, arrays[f"map_ir_label_{photo}"], arrays[f"map_keys_{photo}"], wanted.shape[1:])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=MAPS)


@pytest.mark.parametrize("photo", [0, 1])
def test_stored_maps_are_read_as_they_were_made(arrays, photo):
    """On the grid they were made on, whatever their maxima are."""
    size, classes = tuple(arrays[f"map_size_{photo}"].tolist()), arrays[f"map_keys_{photo}"]
    for which, stride, read in (("high_res", 1, full_size_maps), ("cam", 4, stride4_maps)):
        wanted = arrays[f"map_{which}_{photo}"][1:].astype(np.float32) * np.float32(0.7)
        seed = SeedMaps(classes, [wanted], size, stride=stride, absolute=True)
        np.testing.assert_array_equal(read(seed), wanted)
        np.testing.assert_allclose(read(SeedMaps.unpack(*seed.pack())), wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("photo", [0, 1])
def test_labels_of_the_maps(arrays, photo):
    maps, classes = arrays[f"map_high_res_{photo}"][1:], arrays[f"map_keys_{photo}"]
    ids = np.concatenate([[0], classes + 1])
    found = ids[winners(maps, float(arrays["eval_threshold"]))]
    np.testing.assert_array_equal(found, arrays[f"map_eval_label_{photo}"])
    params = LABELS["amn"]
    np.testing.assert_array_equal(winners(maps, params.conf_fg), arrays[f"ir_fg_index_{photo}"])
    np.testing.assert_array_equal(winners(maps, params.conf_bg), arrays[f"ir_bg_index_{photo}"])
    refined = confident_labels(lambda: arrays[f"map_image_{photo}"], maps, classes, params.conf_fg, params)
    assert (refined.labels != arrays[f"ir_label_crf_{photo}"]).mean() <= 0.005


# --- constants -------------------------------------------------------------------------------------------------------


def test_published_constants_are_the_defaults(arrays):
    params = AmnParams()
    for name, value in {
        "lr_backbone": params.lr, "lr_new": params.lr * params.head_lr_mult, "weight_decay": params.weight_decay,
        "epochs": params.epochs, "batch": params.batch_size, "crop": params.crop, "rescale": params.scale,
    }.items():  # fmt: skip
        np.testing.assert_allclose(value, arrays[f"train_{name}"], err_msg=name)
    assert params.smoothing == float(arrays["loss_eps"]) and params.rates == tuple(arrays["aspp_rates"].tolist())
    assert inspect.signature(build_amn).parameters["dropout"].default == params.dropout == 0.1
    own, first, walk = LABELS["amn"], LABELS["irn"], WALKS["amn"]
    for name, value in {
        "ir_conf_fg_thres": own.conf_fg, "ir_conf_bg_thres": own.conf_bg, "ir_crf_gt_prob": own.crf.gt_prob,
        "ir_crf_iterations": own.crf.iterations, "ir_crf_gauss_sxy": own.crf.gaussian_sxy,
        "ir_crf_gauss_compat": own.crf.gaussian_compat, "ir_crf_bilateral_sxy": own.crf.bilateral_sxy,
        "ir_crf_bilateral_srgb": own.crf.bilateral_srgb, "ir_crf_bilateral_compat": own.crf.bilateral_compat,
        "first_stage_conf_fg_thres": first.conf_fg, "first_stage_conf_bg_thres": first.conf_bg,
        "walk_power": walk.gamma, "walk_bg_voc": walk.threshold,
    }.items():  # fmt: skip
        assert value == float(arrays[name]), name
