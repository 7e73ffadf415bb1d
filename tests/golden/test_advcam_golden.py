"""AdvCAM against its authors' loop and driver, step by step, in float64 (ResNet-50, output stride 16)."""

import dataclasses

import numpy as np
import pytest
import torch

from camflow.localize.advcam import AdvCamParams, Pairs, advcam, climb
from camflow.localize.extract import frame_size, rescale, seed_of_photo
from camflow.localize.maps import SeedMaps, full_size_maps, stride4_maps
from camflow.models.classifier import build_classifier
from tests.golden.loader import fill_by_rule, golden

FLOAT64 = 1e-9  # README of the arrays: relative on maps, absolute on images
DRIVER = (0.5, 1.0, 1.5, 2.0)


@pytest.fixture(scope="module")
def model():
    return fill_by_rule(build_classifier("resnet50", 20, output_stride=16)).double().eval().requires_grad_(False)


def climbed(model, arrays, classes, steps, **changes):
    """States of all classes climbed side by side, from the stored input."""
    params = AdvCamParams(tau=float(arrays["tau"]), step_size=float(arrays["xi"]), **changes)
    views = torch.from_numpy(arrays["input"]).double()[None]
    pairs = Pairs.of([np.asarray(classes)], [params], views)
    return list(climb(model, views, pairs, params, steps))


def compare(found, expected, relative=True):
    expected = np.asarray(expected, np.float64)
    atol = FLOAT64 * (np.abs(expected).max() if relative else 1)
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=0, atol=atol)


def compare_steps(steps, arrays, prefix, index):
    """Everything recorded of one class against its states."""
    for t, step in enumerate(steps):
        compare(step.region[index], arrays[f"{prefix}R"][t])
        compare(step.score[index], arrays[f"{prefix}score"][t])
        compare(step.other[index], arrays[f"{prefix}other"][t])
        compare(step.objective[index], arrays[f"{prefix}objective"][t])
        if f"{prefix}l_ad" in arrays:
            compare(step.distance[index], arrays[f"{prefix}l_ad"][t], relative=t > 0)
        if f"{prefix}mask" in arrays:
            assert np.array_equal(step.mask[index].numpy(), arrays[f"{prefix}mask"][t].astype(bool))
        if f"{prefix}view_R" in arrays:
            compare(step.view_region[index], arrays[f"{prefix}view_R"][t])
            assert np.array_equal(step.positive[index].numpy(), arrays[f"{prefix}n_pos"][t])
    for t, step in enumerate(steps[1:]):
        compare(step.images[index], arrays[f"{prefix}image_after"][t], relative=False)
        compare(steps[t].steepest[index], arrays[f"{prefix}gmax"][t])


def maps_of(steps, count, size):
    total = sum(step.region for step in steps[:count]).numpy()
    return SeedMaps(np.arange(len(total)), [total], size)


def test_every_step(model):
    arrays = golden("advcam")
    steps = climbed(model, arrays, arrays["classes"], 5, lambda_=float(arrays["lam"]))
    for index, number in enumerate(arrays["classes"]):
        compare_steps(steps[:4], arrays, f"c{number}_", index)
        compare(steps[4].images[index], arrays[f"c{number}_image_after"][3], relative=False)
    size = arrays["image"].shape[:2]
    for count in (1, 2, 4):
        seed = maps_of(steps, count, size)
        compare(seed.maps[0], arrays[f"acc_T{count}"])
        compare(stride4_maps(seed), arrays[f"cam_T{count}"])
        compare(full_size_maps(seed), arrays[f"high_res_T{count}"])


@pytest.mark.parametrize(
    ("variant", "steps", "changes"),
    [
        ("lam0", 4, {"lambda_": 0.0}),
        ("plain", 4, {"lambda_": 0.0, "other_classes": False}),
        ("strong", 3, {}),
    ],
)
def test_variants(model, variant, steps, changes):
    arrays = golden("advcam_variants")
    if variant == "strong":
        changes = {"lambda_": float(arrays["strong_lam"])}
    found = climbed(model, arrays, arrays["classes"], steps, **changes)
    compare_steps(found, arrays, f"{variant}_", 0)
    seed = maps_of(found, steps, arrays["image"].shape[:2])
    compare(seed.maps[0], arrays[f"{variant}_acc_T{steps}"])
    compare(stride4_maps(seed), arrays[f"{variant}_cam_T{steps}"])


@pytest.mark.parametrize("steps", [2, pytest.param(12, marks=pytest.mark.long)])
def test_the_driver_over_four_scales(model, steps):
    arrays = golden("advcam_ms")
    photo, keys = arrays[f"T{steps}_image"], arrays[f"T{steps}_keys"]
    params = AdvCamParams(
        scales=DRIVER,
        steps=steps,
        lambda_=float(arrays["lam"]),
        tau=float(arrays["tau"]),
        step_size=float(arrays["xi"]),
    )
    assert [params.terms(scale) for scale in DRIVER] == list(arrays[f"T{steps}_steps_scale_0.5_1_1.5_2"])
    assert params.factor == int(arrays[f"T{steps}_factor"])
    for scale in (0.5, 1.5, 2.0):
        resized = rescale(photo, frame_size(photo.shape[:2], None), scale)
        assert np.array_equal(resized, arrays[f"T{steps}_image_scale{scale}"])
    seed = seed_of_photo(model, advcam(params), photo, keys, params)
    for scale, maps in zip(DRIVER, seed.maps, strict=True):
        compare(maps, arrays[f"T{steps}_acc_scale{scale}"])
    compare(stride4_maps(seed), arrays[f"T{steps}_cam"])
    compare(full_size_maps(seed), arrays[f"T{steps}_high_res"])


def test_float32_stays_close_on_these_inputs(model):
    """The proposed float32 tolerance holds for these inputs only: trajectories are chaotic in float32."""
    arrays = golden("advcam")
    params = AdvCamParams(tau=float(arrays["tau"]), step_size=float(arrays["xi"]), lambda_=float(arrays["lam"]))
    single = fill_by_rule(build_classifier("resnet50", 20, output_stride=16)).eval().requires_grad_(False)
    views = torch.from_numpy(arrays["input"])[None]
    steps = list(climb(single, views, Pairs.of([arrays["classes"]], [params], views), params, 4))
    for count in (1, 2, 4):
        found = maps_of(steps, count, arrays["image"].shape[:2]).maps[0]
        expected = arrays[f"acc_T{count}"]
        peak = expected.max(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(found / peak, expected / peak, rtol=0, atol=1e-4)


def test_settings_climbed_together_are_those_climbed_alone(model):
    arrays = golden("advcam_variants")
    views = torch.from_numpy(arrays["input"]).double()[None]
    base = AdvCamParams(tau=float(arrays["tau"]), step_size=float(arrays["xi"]))
    settings = [dataclasses.replace(base, lambda_=value) for value in (0.0, float(arrays["strong_lam"]))]
    steps = list(climb(model, views, Pairs.of([arrays["classes"]], settings, views), base, 3))
    for index, variant in enumerate(("lam0", "strong")):
        for t, step in enumerate(steps):
            compare(step.region[index], arrays[f"{variant}_R"][t])
