"""The perturbations of cross-consistency training: the authors' arrays, and what the draws are."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from camflow.models.cct import Decoder
from camflow.train import perturb
from tests.golden.loader import fill_by_rule, golden


@pytest.fixture(scope="module")
def arrays():
    return golden("cct")


def tensor(arrays, name):
    return torch.from_numpy(arrays[name]).double()


def decoder(arrays, name):
    """One of the reference's decoders, in float64."""
    made = Decoder(int(arrays["in_channels"]), int(arrays["num_classes"]), 3).double()
    return fill_by_rule(made, rename=lambda own: f"{name}.{own}")


# --- features --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [0, 1, 2])
def test_feature_drop(arrays, case):
    x, every = tensor(arrays, "decoder_input"), 1 if case == 0 else 8
    found = perturb.feature_drop(x, float(arrays["feature_drop_u"][case]))
    assert np.array_equal(found[:, ::every].numpy(), arrays[f"feature_drop_output_{case}"])


def test_feature_noise(arrays):
    found = perturb.feature_noise(tensor(arrays, "decoder_input"), tensor(arrays, "feature_noise_draw"))
    np.testing.assert_allclose(found.numpy(), arrays["feature_noise_output"], rtol=0, atol=1e-12)


def test_spatial_dropout(arrays):
    kept = torch.from_numpy(arrays["dropout_keep"]).bool()
    found = perturb.spatial_dropout(tensor(arrays, "dropout_input"), kept, float(arrays["dropout_rate"]))
    assert np.array_equal(found.numpy(), arrays["dropout_output"])


def test_the_numbers_drawn():
    rng, x = torch.Generator().manual_seed(0), torch.empty(40, 256, 3, 4, dtype=torch.float64)
    kept = perturb.draw_kept(x, 0.3, rng).double()
    assert kept.shape == (40, 256)
    assert kept.mean().item() == pytest.approx(0.7, abs=5 * (0.21 / kept.numel()) ** 0.5)
    shares = torch.stack([perturb.draw_share(x, (0.7, 0.9), rng) for _ in range(2000)])
    assert 0.7 <= shares.min() < 0.701 and 0.899 < shares.max() <= 0.9
    assert shares.mean().item() == pytest.approx(0.8, abs=5 * 0.2 / 12**0.5 / 2000**0.5)
    noise = perturb.draw_noise(x, 0.3, rng)
    assert noise.shape == (256, 3, 4)  # one for all images
    assert -0.3 <= noise.min() < -0.299 and 0.299 < noise.max() <= 0.3
    assert noise.mean().item() == pytest.approx(0, abs=5 * 0.6 / 12**0.5 / noise.numel() ** 0.5)
    start = perturb.draw_start(x, rng)
    assert start.shape == x.shape and 0 <= start.min() < 1e-3 and 0.999 < start.max() < 1


# --- virtual adversarial training ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("xi", "name", "tolerance"), [(1e-6, "xi1e-6", 1e-6), (0.1, "xi1e-1", 1e-9)])
def test_vat(arrays, xi, name, tolerance):
    x, start, aux = (
        tensor(arrays, "decoder_input"),
        tensor(arrays, "vat_uniform_draw"),
        decoder(arrays, "aux_decoders.0"),
    )
    settings = {"eps": float(arrays["vat_eps"]), "iterations": int(arrays["vat_iterations"])}
    found = perturb.vat_direction(x, aux, start, xi=xi, **settings)
    expected = arrays[f"vat_r_adv_{name}"]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=tolerance * np.abs(expected).max())
    with torch.no_grad():
        output = aux(x + found)[:, :, ::2, ::2].numpy()
    np.testing.assert_allclose(output, arrays[f"vat_output_{name}"], rtol=0, atol=1e-9)
    assert all(parameter.grad is None for parameter in aux.parameters())
    assert not found.requires_grad


def test_vat_with_the_published_step_is_lost_in_float32(arrays):
    """The reason for the warning in the docstring: direction and length agree with float64 for 0.1 only."""
    x, start = tensor(arrays, "decoder_input"), tensor(arrays, "vat_uniform_draw")
    aux = decoder(arrays, "aux_decoders.0")

    def agreement(xi):
        exact = perturb.vat_direction(x, aux.double(), start, xi=xi).flatten(1)
        rough = perturb.vat_direction(x.float(), aux.float(), start.float(), xi=xi).flatten(1).double()
        return torch.cosine_similarity(exact, rough).min().item(), exact.norm(dim=1).max().item()

    assert agreement(0.1) == pytest.approx((1, 2), abs=1e-4)
    cosine, length = agreement(1e-6)
    assert cosine < 0.9 and length < 0.01


def test_vat_is_the_power_method_on_the_divergence():
    """For a linear decoder the Hessian of the divergence is known: W' (diag p - p p') W."""
    rng = torch.Generator().manual_seed(3)
    weight = torch.randn(4, 6, dtype=torch.float64, generator=rng)
    x = torch.randn(1, 6, 1, 1, dtype=torch.float64, generator=rng)
    p = torch.softmax(weight @ x.flatten(), dim=0)
    hessian = weight.T @ (torch.diag(p) - torch.outer(p, p)) @ weight
    start = perturb.draw_start(x, rng)
    expected = start.flatten() - 0.5
    for iterations in (1, 2, 3):
        expected = hessian @ expected
        expected = expected / expected.norm()
        found = perturb.vat_direction(
            x, lambda f: torch.einsum("cd,bdhw->bchw", weight, f), start, xi=3e-3, eps=3, iterations=iterations
        )
        assert found.norm().item() == pytest.approx(3, rel=0.01)
        torch.testing.assert_close(found.flatten() / found.norm(), expected, rtol=0, atol=5e-3)


# --- guided by the prediction ----------------------------------------------------------------------------------------


def test_guided_masks(arrays):
    found, x = torch.from_numpy(arrays["guided_prediction"]) > 0, tensor(arrays, "guided_features")
    assert np.array_equal(perturb.on_grid(found, x)[:, 0].numpy(), arrays["guided_mask_small"])
    assert np.array_equal(perturb.context_mask(x, found).numpy(), arrays["context_masked"])
    assert np.array_equal(perturb.object_mask(x, found).numpy(), arrays["object_masked"])
    predicted = perturb.foreground(tensor(arrays, "decoder_output"))
    masked = perturb.context_mask(tensor(arrays, "decoder_input"), predicted)
    assert np.array_equal(masked[:, ::8].numpy(), arrays["context_masked_from_logits"])


def test_guided_cutout(arrays):
    found = torch.from_numpy(arrays["guided_prediction"]) > 0
    erase = float(arrays["cutout_erase"])
    boxes = perturb.object_boxes(found, int(arrays["cutout_min_points"]))
    assert sorted(boxes.tolist()) == sorted(arrays["cutout_boxes"].tolist())
    boxes = arrays["cutout_boxes"]  # their order is the contour library's
    low, high, offsets = arrays["cutout_draws_low_high_value"].T.reshape(3, -1, 2)
    assert np.array_equal(perturb._room(boxes, erase), high) and not low.any()
    rectangles = perturb.cutout_rectangles(boxes, offsets, erase)
    assert np.array_equal(rectangles, arrays["cutout_rectangles"])
    left = perturb.cutout_mask(rectangles, found.shape)
    assert np.array_equal(np.packbits(left.numpy(), axis=2), arrays["cutout_mask_full"])
    x = tensor(arrays, "guided_features")
    assert np.array_equal(perturb.on_grid(left, x)[:, 0].numpy(), arrays["cutout_mask_small"])
    cut = perturb.guided_cutout(x, left)
    assert np.array_equal(cut.numpy(), x.numpy() * arrays["cutout_mask_small"][:, None])


def test_boxes_are_those_of_the_components(arrays):
    """Every component's box, whatever its contour looks like, by another library."""
    found = torch.from_numpy(arrays["guided_prediction"]) > 0
    boxes = {tuple(box) for box in perturb.object_boxes(found, min_points=0).tolist()}
    expected = set()
    for image, mask in enumerate(found.numpy()):
        filled = ndimage.binary_fill_holes(mask)  # a component inside a hole has no outer contour of its own
        parts, _ = ndimage.label(filled, np.ones((3, 3)))
        for y, x in ndimage.find_objects(parts):
            expected.add((image, x.start, x.stop - 1, y.start, y.stop - 1))
    assert boxes == expected and len(expected) > 10


def test_a_rectangle_is_never_cut_and_without_boxes_all_is_left():
    found = torch.zeros(2, 40, 50, dtype=torch.bool)
    found[0, 5:30, 10:45] = True
    boxes = perturb.object_boxes(found)
    assert boxes.shape == (0, 5)
    rectangles = perturb.cutout_rectangles(boxes, perturb.draw_offsets(boxes))
    assert perturb.cutout_mask(rectangles, found.shape).all()
    assert perturb.object_boxes(found, min_points=3).tolist() == [[0, 10, 44, 5, 29]]


def test_offsets_are_uniform_over_the_box():
    boxes = np.tile([[0, 3, 8, 0, 20]], (6000, 1))  # room of 3 and of 12 pixels
    offsets = perturb.draw_offsets(boxes, 0.4, torch.Generator().manual_seed(0))
    for column, count in ((0, 4), (1, 13)):
        share = np.bincount(offsets[:, column], minlength=count) / len(boxes)
        assert len(share) == count
        np.testing.assert_allclose(share, 1 / count, rtol=0, atol=5 * (1 / count / len(boxes)) ** 0.5)
