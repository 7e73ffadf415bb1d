"""SEAM against its authors' implementation: network, pixel correlation module, losses and gradients."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from camflow.localize.extract import normalisation_table, to_views
from camflow.models.seam import build_seam, correlate, with_background
from camflow.train.seam import comparable, seam_losses
from tests.golden.loader import fill_by_rule, golden, rule_tensor

FLOAT64 = 1e-10  # all tolerances: README of the arrays
STORED = 1e-6  # relative; what is stored as float32 cannot be compared more closely
FLOAT32_CAM, FLOAT32_REFINED = 1.5e-5, 4e-7
FLOAT32_LOSS, FLOAT32_GRADIENT = 1e-7, 2e-7


def canonical(name):
    return "fc8.weight" if name == "net.classifier.weight" else name.removeprefix("net.")


@pytest.fixture(scope="module")
def arrays():
    return golden("seam")


# --- network ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return fill_by_rule(build_seam("resnet38", 20), rename=canonical).eval()


def network_maps(model, photo):
    """Maps of a photo at low resolution, at its size before and at its size after the PCM."""
    weight = model.f9.weight
    table = normalisation_table(model.mean, model.std).to(weight.dtype)
    x = to_views(torch.from_numpy(photo)[None], table, False)[:, 0]
    with torch.no_grad():
        low, after = model.both_maps(x)
        large = [functional.interpolate(m, size=x.shape[2:], mode="bilinear", align_corners=True) for m in (low, after)]
    return [m[0].numpy() for m in (low, *large)]


@pytest.mark.parametrize("photo", [1, pytest.param(0, marks=pytest.mark.long)])
def test_network_float64(arrays, model, photo):
    low, before, after = network_maps(model.double(), arrays[f"net{photo}_image"])
    np.testing.assert_allclose(low, arrays[f"net{photo}_cam_lowres"], rtol=0, atol=FLOAT64)
    np.testing.assert_allclose(before, arrays[f"net{photo}_cam"], rtol=STORED, atol=STORED)
    np.testing.assert_allclose(after, arrays[f"net{photo}_cam_rv"], rtol=STORED, atol=1e-7)


@pytest.mark.parametrize("photo", [0, 1])
def test_network_float32(arrays, model, photo):
    low, before, after = network_maps(model.float(), arrays[f"net{photo}_image"])
    # The reference's own float32 error is 0.7e-5 to 0.8e-5 and 1.9e-7 to 3.6e-7.
    np.testing.assert_allclose(low, arrays[f"net{photo}_cam_lowres"], rtol=0, atol=FLOAT32_CAM)
    np.testing.assert_allclose(before, arrays[f"net{photo}_cam"], rtol=0, atol=FLOAT32_CAM)
    np.testing.assert_allclose(after, arrays[f"net{photo}_cam_rv"], rtol=0, atol=FLOAT32_REFINED)


# --- pixel correlation module ----------------------------------------------------------------------------------------


def tensors(arrays, *names, dtype=torch.float64):
    return [torch.from_numpy(arrays[name]).to(dtype) for name in names]


def test_pixel_correlation_and_its_gradients(arrays):
    maps, small, features, probe = tensors(arrays, "pcm_cam", "pcm_cam_small", "pcm_f", "pcm_probe")
    f9 = torch.from_numpy(rule_tensor("f9.weight", (192, 195, 1, 1))).double()
    features.requires_grad_()
    f9.requires_grad_()
    embedding = functional.conv2d(features, f9)
    out = correlate(maps, embedding)
    np.testing.assert_allclose(out.detach().numpy(), arrays["pcm_out"], rtol=0, atol=FLOAT64)
    np.testing.assert_allclose(
        correlate(small, embedding).detach().numpy(), arrays["pcm_out_small"], rtol=0, atol=FLOAT64
    )
    (out * probe).sum().backward()
    np.testing.assert_allclose(features.grad.sum(dim=1).numpy(), arrays["pcm_grad_f_channelsum"], rtol=0, atol=FLOAT64)
    wanted = arrays["pcm_grad_f9_weight"]
    np.testing.assert_allclose(f9.grad[:, :, 0, 0].numpy(), wanted, rtol=STORED, atol=STORED * np.abs(wanted).max())


# --- losses ----------------------------------------------------------------------------------------------------------

INPUTS = ("cam1", "rv1", "cam2", "rv2")
OURS = {"total": "loss"}


def losses(arrays, dtype):
    """The four inputs, requiring gradients, and the terms."""
    inputs = tensors(arrays, "loss_cam1", "loss_cam_rv1", "loss_cam2", "loss_cam_rv2", dtype=dtype)
    (label,) = tensors(arrays, "loss_label", dtype=dtype)
    for tensor in inputs:
        tensor.requires_grad_()
    return inputs, seam_losses((inputs[0], inputs[1]), (inputs[2], inputs[3]), label)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, FLOAT64), (torch.float32, FLOAT32_LOSS)])
def test_loss_values(arrays, dtype, tolerance):
    _, terms = losses(arrays, dtype)
    for name, value in zip(arrays["loss_names"].tolist(), arrays["loss_values"], strict=True):
        assert terms[OURS.get(name, name)].item() == pytest.approx(value, abs=tolerance, rel=tolerance), name


def test_normalised_maps(arrays):
    cam1, rv1, cam2, rv2, label = tensors(
        arrays, "loss_cam1", "loss_cam_rv1", "loss_cam2", "loss_cam_rv2", "loss_label"
    )
    for name, maps, finish in (
        ("cam1", cam1, with_background),
        ("cam2", cam2, with_background),
        ("rv1", rv1, lambda m: m),
        ("rv2", rv2, lambda m: m),
    ):
        found = finish(comparable(maps, label, (12, 16)))
        np.testing.assert_allclose(found.numpy(), arrays[f"norm_{name}"], rtol=0, atol=FLOAT64, err_msg=name)


def test_hard_examples_are_as_many_as_published(arrays):
    assert int(21 * 12 * 16 * 0.2) == int(arrays["loss_topk"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients_of_the_sum(arrays, dtype):
    inputs, terms = losses(arrays, dtype)
    terms["loss"].backward()
    for name, tensor in zip(INPUTS, inputs, strict=True):
        wanted = arrays[f"grad_total_{name}"]
        tolerance = FLOAT32_GRADIENT * np.abs(wanted).max()
        np.testing.assert_allclose(tensor.grad.numpy(), wanted, rtol=FLOAT32_GRADIENT, atol=tolerance, err_msg=name)


def test_gradient_norms_per_term(arrays):
    wanted = arrays["grad_norms_cls_er_ecr_x_cam1_rv1_cam2_rv2"]
    inputs, terms = losses(arrays, torch.float64)
    for name, row in zip(("cls", "er", "ecr"), wanted, strict=True):
        gradients = torch.autograd.grad(terms[name], inputs, retain_graph=True, allow_unused=True)
        found = [0.0 if g is None else float(g.norm()) for g in gradients]
        np.testing.assert_allclose(found, row, rtol=1e-9, atol=FLOAT64, err_msg=name)
