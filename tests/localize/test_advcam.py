"""AdvCAM against its definition written as a plain loop, and that nobody's company changes what is climbed.

Trajectories are chaotic in float32, so everything but the reproducibility of files is tested in float64.
"""

import dataclasses
import hashlib
import itertools

import numpy as np
import pytest
import torch

from camflow.errors import ConfigError, DataError
from camflow.localize.advcam import AdvCamParams, Pairs, advcam, climb, extract_advcams, frozen
from camflow.localize.cam import CamParams, cam
from camflow.localize.extract import load_batch, localize_batch, normalisation_table, seed_of_photo
from camflow.localize.maps import full_size_maps, read_seed
from camflow.models.classifier import build_classifier
from camflow.store import Store, StoreWriter
from tests.localize.photos import CLASSES, Photos

C = len(CLASSES)
PRESENT = [np.array([0, 2]), np.array([1]), np.array([0, 3, 4])]


# --- networks and photos ---------------------------------------------------------------------------------------------


def network(seed=0, dtype=torch.float64):
    """A small network with norms that do something and, on ``photos``, scores of both signs."""
    model = build_classifier("tiny", C, width=6, seed=seed).to(torch.float64).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.1)
                module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
                module.weight.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(module.num_features, generator=generator) * 0.2)
        features = model.features(photos(4, seed=99).flatten(0, 1))
        mean = features.mean(dim=(0, 2, 3))
        weight = torch.randn(C, len(mean), generator=generator, dtype=torch.float64)
        weight -= (weight @ mean / (mean @ mean))[:, None] * mean
        model.head.weight.copy_((weight / (features.std() * weight.norm(dim=1, keepdim=True)))[:, :, None, None])
    return model.to(dtype)


def photos(count, seed=1, size=(32, 40), mirror=True):
    """Normalised views (B, V, 3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, size[0] // 4, size[1] // 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, 3, *size, generator=generator, dtype=torch.float64)
    photo = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear") + 0.3 * noise
    return torch.stack([photo, photo.flip(-1)], dim=1) if mirror else photo[:, None]


@pytest.fixture(scope="module")
def model():
    return network().requires_grad_(False)


def run(model, views, classes, params, terms, settings=None, **options):
    pairs = Pairs.of(classes, settings or [params], views)
    return list(climb(model, views, pairs, params, terms, **options))


def close(found, expected, tolerance=1e-12):
    """Equal up to ``tolerance`` of the largest expected magnitude (of 1, where that is less)."""
    found, expected = (torch.as_tensor(v, dtype=torch.float64) for v in (found, expected))
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * max(1e-6, float(expected.abs().max())))


# --- the definition, as a plain loop ---------------------------------------------------------------------------------


def released_region(features, scores, c):
    """Views' Grad-CAM as the released code has it: a backward pass to the features, whose result is a constant."""
    (slope,) = torch.autograd.grad(scores[:, c].relu().sum(), features, retain_graph=True)
    positive = int((slope > 0).sum())
    weights = slope.sum(dim=(2, 3), keepdim=True) / positive if positive else torch.zeros_like(slope[..., :1, :1])
    return (weights * features).sum(dim=1).relu()


def plain_loop(model, photo, c, params, terms):
    """States of one class of one image (V, 3, H, W), with a second backward pass for every map."""
    x, first, states = photo.clone(), None, []
    for _ in range(terms):
        x = x.detach().clone().requires_grad_()
        features = model.features(x)
        scores = model.head(features)
        if params.region == "grad_cam":
            views = released_region(features, scores, c)
        else:
            views = scores[:, c].relu()
        region = views[0] + views[1].flip(-1) if len(x) == 2 else views[0]
        if first is None:
            first = region.detach()
        mask = torch.zeros_like(region, dtype=torch.bool)
        if region.max() > 0:
            mask = region.detach() > params.tau * region.max().item()
        pooled = scores.relu() if params.pooled == "rectified" else scores
        score = sum(view[c].mean() for view in pooled)
        other = sum(view[k].mean() for view in pooled for k in range(len(view)) if k != c)
        distance = (region - first)[mask].abs().sum()
        objective = score - (other if params.other_classes else 0) - params.lambda_ * distance
        (gradient,) = torch.autograd.grad(objective, x)
        steepest = gradient.abs().max()
        states.append(
            {
                "images": x, "region": region, "view_region": views, "mask": mask, "score": score, "other": other,
                "distance": distance, "objective": objective, "positive": (scores[:, c] > 0).sum(dim=(1, 2)),
                "steepest": steepest,
            }
        )  # fmt: skip
        if params.ascent == "max_normalised":
            gradient = gradient / (steepest + 1e-12)
        moved = x.detach() + params.step_size * gradient
        if params.clamp != "none":
            within = x.detach() if params.clamp == "shrinking" else photo
            moved = moved.clamp(within.min(), within.max())
        x = moved
    return [{name: value.detach() for name, value in state.items()} for state in states]


SWITCHES = {
    "released": {},
    "without mirror": {"flip": False},
    "one class": {"other_classes": False},
    "raw scores": {"pooled": "raw"},
    "raw gradient": {"ascent": "raw", "step_size": 3.0},
    "range of the photo": {"clamp": "initial"},
    "no range": {"clamp": "none"},
    "plain map": {"region": "cam", "lambda_": 0.05},
    "without mask": {"lambda_": 0.0},
    "another mask": {"tau": 0.8},
    "paper": {
        "pooled": "raw", "ascent": "raw", "clamp": "none", "region": "cam", "lambda_": 0.05, "step_size": 3.0,
        "last_map": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SWITCHES)
def test_against_the_definition(model, name):
    params = AdvCamParams(**{"step_size": 0.3, **SWITCHES[name]})
    views, terms = photos(3, mirror=params.flip), 5
    steps = run(model, views, PRESENT, params, terms)
    assert [step.t for step in steps] == list(range(terms))
    index = 0
    for photo, present in zip(views, PRESENT, strict=True):
        for c in present:
            for step, state in zip(steps, plain_loop(model, photo, c, params, terms), strict=True):
                assert torch.equal(step.mask[index], state["mask"])
                assert torch.equal(step.positive[index], state["positive"])
                last = step.t == terms - 1  # no gradient is computed there
                for field in state.keys() - {"mask", "positive"} - ({"steepest"} if last else set()):
                    close(getattr(step, field)[index], state[field], 1e-9)
                assert bool(step.steepest[index].isnan()) == last
            index += 1
    assert index == len(steps[0].region)
    # ... and the climb is one: masked, moved, and changed by the switch.
    assert steps[-1].mask.any() and (steps[-1].distance > 0).all()
    if name != "released":
        released = run(model, photos(3), PRESENT, AdvCamParams(step_size=0.3), terms)[-1].region
        assert (steps[-1].region - released).abs().max() > 1e-4 * released.max()


@pytest.mark.parametrize(
    ("changes", "scale", "terms", "factor"),
    [
        ({"steps": 3}, 1.0, 3, 1),
        ({"steps": 3, "last_map": True}, 1.0, 4, 1),
        ({"steps": 3, "last_map": True, "clamp": "none"}, 1.0, 4, 1),
        ({"steps": 7}, 0.5, 5, 1),
        ({"steps": 7, "half_scale": "same"}, 0.5, 7, 1),
        ({"steps": 11, "scales": (0.5, 1.0)}, 0.5, 5, 2),
        ({"steps": 11, "scales": (1.0,)}, 1.5, 11, 1),
    ],
)
def test_maps_are_the_sum_of_the_terms(model, changes, scale, terms, factor):
    params = AdvCamParams(**{"scales": (1.0,), "step_size": 0.2, **changes})
    views = photos(1)
    maps = advcam(params)(model, views, [np.array([1, 3])], scale)[0]
    for index, c in enumerate((1, 3)):
        states = plain_loop(model, views[0], c, params, terms)
        close(maps[index], factor * sum(state["region"] for state in states), 1e-9)


@pytest.mark.parametrize(("steps", "half", "factor"), [
    (1, 1, 1), (2, 2, 1), (5, 5, 1), (6, 5, 1), (10, 5, 1), (11, 5, 2), (12, 6, 2), (27, 13, 2),
])  # fmt: skip
def test_number_of_terms(steps, half, factor):
    """The table of the released code, by hand."""
    four = AdvCamParams(steps=steps)
    assert [four.terms(scale) for scale in (1.0, 0.5, 1.5, 2.0)] == [steps, half, steps, steps]
    assert four.factor == factor
    assert four.terms(0.25) == half
    assert AdvCamParams(steps=steps, scales=(1.0, 2.0)).factor == 1
    same = AdvCamParams(steps=steps, half_scale="same")
    assert (same.terms(0.5), same.factor) == (steps, 1)
    more = AdvCamParams(steps=steps, last_map=True)
    assert (more.terms(1.0), more.terms(0.5), more.factor) == (steps + 1, half + 1, factor)


# --- the region map --------------------------------------------------------------------------------------------------


def regions_by_autograd(model, x, classes):
    """(P, V, h, w) of the images x (P, V, 3, H, W) at hand."""
    found = []
    for image, c in zip(x, classes, strict=True):
        features = model.features(image.detach().clone().requires_grad_())
        found.append(released_region(features, model.head(features), c).detach())
    return torch.stack(found)


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_closed_form_is_grad_cam(seed, mirror):
    model, views = network(seed), photos(3, seed=10 + seed, mirror=mirror)
    classes = [c for present in PRESENT for c in present]
    for step in run(model, views, PRESENT, AdvCamParams(step_size=0.3), 3):
        close(step.view_region, regions_by_autograd(model, step.images, classes))
        turned = step.view_region[:, 0] + (step.view_region[:, 1].flip(-1) if mirror else 0)
        assert torch.equal(step.region, turned)
        assert step.region.max() > 0


def test_closed_form_with_few_positive_weights():
    model, views = network(5), photos(2)
    with torch.no_grad():
        weight = model.head.weight
        features = model.features(views.flatten(0, 1))
        best = features.mean(dim=(0, 2, 3)).topk(2).indices
        sparse = (features == 0).double().mean(dim=(0, 2, 3)).sub(0.5).abs().argmin()
        weight.copy_(-0.05 * weight.abs())
        weight[0, best[0]], weight[1, best] = 1.0, 2.0
        weight[4] = 0
        weight[4, sparse] = 1.0  # a score is exactly 0 where this feature is: not positive
    assert (weight > 0).sum(dim=(1, 2, 3)).tolist() == [1, 2, 0, 0, 1]
    for step in run(model, views, [np.arange(C)] * 2, AdvCamParams(step_size=0.3), 3):
        close(step.view_region, regions_by_autograd(model, step.images, [*range(C)] * 2))
        firing = step.region.flatten(1).amax(1) > 0
        assert firing.tolist() == [True, True, False, False, True] * 2
        for name, value in dataclasses.asdict(step).items():
            assert name in ("t", "steepest") or torch.isfinite(value.double()).all(), name


@pytest.mark.parametrize("changes", [{}, {"region": "cam"}, {"ascent": "raw"}, {"other_classes": False}])
def test_nothing_fires(changes):
    """Every score is negative: rectified there is nothing to climb, and nothing is divided by zero."""
    model, views = network(6), photos(2)
    with torch.no_grad():
        model.head.weight.copy_(-model.head.weight.abs())
    steps = run(model, views, [np.array([0, 1]), np.array([4])], AdvCamParams(**changes), 4)
    assert len(steps) == 4
    for step in steps:
        assert not (step.region.any() or step.cam.any() or step.mask.any() or step.positive.any())
        assert torch.equal(step.images, views[[0, 0, 1]])
        assert not (step.score.any() or step.objective.any() or step.distance.any())
        assert step.t == 3 or not step.steepest.any()


def test_one_class_that_does_not_fire_leaves_the_others_alone(model):
    lame = network().requires_grad_(False)
    with torch.no_grad():
        lame.head.weight[4] = -lame.head.weight[4].abs()
    views, params = photos(1), AdvCamParams(other_classes=False)
    for alone, beside in zip(
        run(lame, views, [np.array([0, 1])], params, 4), run(lame, views, [np.array([0, 1, 4])], params, 4), strict=True
    ):
        close(beside.region[:2], alone.region)
        assert not beside.region[2].any()


# --- t = 0 is CAM ----------------------------------------------------------------------------------------------------


def test_first_map_is_cam(model):
    views = photos(3)
    step = run(model, views, PRESENT, AdvCamParams(), 1)[0]
    maps = torch.cat(cam(model, views, PRESENT, 1.0))
    close(step.cam, maps)
    close(run(model, views, PRESENT, AdvCamParams(region="cam"), 1)[0].region, maps)
    # As Grad-CAM: each view's map up to a number of the pair, the views weighed by how many cells fire in them.
    rows = (model.head.weight > 0).sum(dim=(1, 2, 3))
    with torch.no_grad():
        scores = model.score_maps(views.flatten(0, 1)).unflatten(0, (3, 2))
    index = 0
    for image, present in zip(scores, PRESENT, strict=True):
        for c in present:
            count = (image[:, c] > 0).sum(dim=(1, 2)).double()
            share = (count / count.sum())[:, None, None]
            close(step.view_region[index] * rows[c], image[:, c].relu() * share)
            index += 1


def test_first_map_without_mirror_is_cam_up_to_a_number_of_the_class(model):
    views = photos(3, mirror=False)
    step = run(model, views, PRESENT, AdvCamParams(), 1)[0]
    rows = (model.head.weight > 0).sum(dim=(1, 2, 3))[torch.from_numpy(np.concatenate(PRESENT))]
    close(step.region * rows[:, None, None], torch.cat(cam(model, views, PRESENT, 1.0)))


@pytest.mark.parametrize("changes", [{"flip": False}, {"region": "cam"}])
def test_one_step_over_scales_is_cam(model, changes, monkeypatch):
    """... once normalised, and without any gradient."""
    monkeypatch.setattr(torch.autograd, "grad", lambda *_, **__: pytest.fail("a gradient was computed"))
    scales, photo = (1.0, 0.5, 1.5), Photos(3).image("i01")
    params = AdvCamParams(steps=1, scales=scales, **changes)
    seed = seed_of_photo(model, advcam(params), photo, range(C), params)
    plain = CamParams(scales=scales, flip=params.flip)
    expected = full_size_maps(seed_of_photo(model, cam, photo, range(C), plain))
    # 1e-5 is added to the maximum when maps are normalised, which a map that is K_c times smaller notices.
    peaks = expected.max(axis=(1, 2), keepdims=True)
    found = full_size_maps(seed)
    assert (peaks > 0.9).any()
    firing = peaks[:, 0, 0] > 0
    np.testing.assert_allclose(
        (found / found.max(axis=(1, 2), keepdims=True).clip(1e-12))[firing], (expected / peaks.clip(1e-12))[firing],
        rtol=0, atol=1e-6,
    )  # fmt: skip
    assert not found[~firing].any()


def test_one_step_keeps_no_graph():
    """... with trainable weights too."""
    step = run(network(), photos(1), [np.array([0])], AdvCamParams(), 1)[0]
    assert not any(value.requires_grad for value in dataclasses.asdict(step).values() if torch.is_tensor(value))


def test_climbs_where_gradients_are_switched_off(model):
    views, classes = photos(1), [np.array([0])]
    outside = run(model, views, classes, AdvCamParams(), 3)[-1].region
    with torch.no_grad():
        inside = run(model, views, classes, AdvCamParams(), 3)[-1].region
    close(inside, outside)


def test_no_update_follows_the_last_map(model, monkeypatch):
    calls, real = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: calls.append(1) or real(*a, **k))
    run(model, photos(3), PRESENT, AdvCamParams(), 4)
    # t = 0: one for each class of the image that has most; t = 1, 2: one for all pairs; t = 3: none.
    assert len(calls) == 3 + 2


def test_nothing_to_climb(model):
    views = photos(2)
    assert run(model, views, [np.array([], np.int64)] * 2, AdvCamParams(), 3) == []


# --- the climb -------------------------------------------------------------------------------------------------------


def test_the_mask_term_has_no_say_in_the_first_update(model):
    views, params = photos(2), AdvCamParams()
    classes = [np.array([0, 3]), np.array([2])]
    none, much = (run(model, views, classes, dataclasses.replace(params, lambda_=v), 3) for v in (0.0, 1e6))
    for a, b in zip(none[:2], much[:2], strict=True):
        close(a.images, b.images)
        close(a.region, b.region)
    assert (none[1].objective - much[1].objective).abs().max() > 1
    assert (none[2].region - much[2].region).abs().max() > 1e-6


def test_climbs_along_the_gradient(model):
    """For a short raw step the objective grows by step * |gradient|^2; largest entry as reported."""
    views, step_size = photos(2), 1e-5
    params = AdvCamParams(ascent="raw", clamp="none", lambda_=0.0, step_size=step_size)
    start, later = run(model, views, [np.array([0]), np.array([3])], params, 2)
    gradient = (later.images - start.images) / step_size
    gain, expected = later.objective - start.objective, step_size * gradient.flatten(1).square().sum(1)
    torch.testing.assert_close(gain, expected, rtol=1e-2, atol=0)
    torch.testing.assert_close(gradient.flatten(1).abs().amax(1), start.steepest, rtol=1e-6, atol=0)


@pytest.mark.parametrize("clamp", ["shrinking", "initial", "none"])
def test_range_of_the_images(model, clamp):
    params = AdvCamParams(clamp=clamp, step_size=0.5)
    steps = run(model, photos(3), PRESENT, params, 5)
    ranges = torch.stack([torch.stack(torch.aminmax(step.images.flatten(1), dim=1)) for step in steps])
    low, high = ranges[:, 0], ranges[:, 1]
    if clamp == "none":
        assert (high[1:] > high[0]).any()
    else:
        assert (low >= low[0]).all() and (high <= high[0]).all()
    if clamp == "shrinking":
        assert (low.diff(dim=0) >= 0).all() and (high.diff(dim=0) <= 0).all()
    for step, after in itertools.pairwise(steps):
        assert (after.images - step.images).abs().max() <= params.step_size + 1e-12


def test_the_mirrored_photo_has_mirrored_maps(model):
    views, params = photos(3), AdvCamParams(step_size=0.2)
    for step, mirrored in zip(
        run(model, views, PRESENT, params, 4), run(model, views.flip(1), PRESENT, params, 4), strict=True
    ):
        close(mirrored.region, step.region.flip(-1))
        close(mirrored.images, step.images.flip(1))


# --- company changes nothing -----------------------------------------------------------------------------------------

SETTINGS = [
    AdvCamParams(),
    AdvCamParams(lambda_=0.0, step_size=0.3),
    AdvCamParams(lambda_=30.0, tau=0.3, step_size=0.2),
]


def alone(model, views, terms):
    """{(image, class, setting): regions (T, h, w)}, each climbed by itself."""
    found = {}
    for n, present in enumerate(PRESENT):
        for c in present:
            for s, params in enumerate(SETTINGS):
                steps = run(model, views[n : n + 1], [np.array([c])], params, terms)
                found[n, int(c), s] = torch.stack([step.region[0] for step in steps])
    return found


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_company_order_and_chunks_change_nothing(dtype, tolerance):
    model = network(dtype=dtype).requires_grad_(False)
    views, terms = photos(3).to(dtype), 4
    expected = alone(model, views, terms)
    keys = list(expected)
    pairs = Pairs.of(PRESENT, SETTINGS, views)
    assert [*zip(pairs.owner.tolist(), pairs.classes.tolist(), strict=True)] == [key[:2] for key in keys]
    assert torch.equal(pairs.lambda_, torch.tensor([SETTINGS[s].lambda_ for *_, s in keys], dtype=dtype))
    orders = [np.arange(len(keys)), np.arange(len(keys))[::-1], np.random.default_rng(4).permutation(len(keys))]
    orders.append(orders[-1][:7])  # not every class under every setting
    for order, chunk in zip(orders, (None, 1, 4, 1000), strict=True):
        rows = torch.from_numpy(order.copy())
        chosen = Pairs(*(getattr(pairs, field.name)[rows] for field in dataclasses.fields(Pairs)))
        steps = list(climb(model, views, chosen, AdvCamParams(), terms, chunk=chunk))
        together = torch.stack([step.region for step in steps], dim=1)
        for position, row in enumerate(order):
            close(together[position], expected[keys[row]], tolerance)


@pytest.mark.parametrize("chunk", [None, 1, 2, 5])
def test_every_field_is_the_same_in_chunks(model, chunk):
    views, params = photos(3), AdvCamParams(step_size=0.3)
    whole = run(model, views, PRESENT, params, 4)
    parts = run(model, views, PRESENT, params, 4, chunk=chunk)
    for a, b in zip(whole, parts, strict=True):
        for field in dataclasses.fields(a):
            x, y = getattr(a, field.name), getattr(b, field.name)
            if field.name == "t":
                assert x == y
            elif x.isnan().any():
                assert y.isnan().all()
            else:
                close(y, x)


def test_maps_of_a_batch_are_those_of_its_images(model):
    params, views = AdvCamParams(steps=4, step_size=0.3, scales=(1.0,)), photos(3)
    single = [
        advcam(params)(model, views[n : n + 1], [present], 1.0)[0].clone() for n, present in enumerate(PRESENT)
    ]  # fmt: skip
    for pairs in (None, 1, 4):
        for maps, expected in zip(advcam(params, pairs=pairs)(model, views, PRESENT, 1.0), single, strict=True):
            close(maps, expected)


def test_pairs_at_smaller_scales_go_together(model, monkeypatch):
    """``pairs`` is meant at scale 1; memory allows four times as many at scale .5."""
    sizes = []
    real = model.score_maps
    monkeypatch.setattr(model, "score_maps", lambda x: sizes.append(len(x)) or real(x))
    params = AdvCamParams(steps=2, scales=(1.0, 0.5, 2.0))
    for scale, largest in ((1.0, 2), (0.5, 6), (2.0, 1)):
        sizes.clear()
        advcam(params, pairs=2)(model, photos(3), PRESENT, scale)
        assert max(sizes[1:]) == 2 * largest


def test_memory_format_changes_nothing(model):
    views, params = photos(3), AdvCamParams(step_size=0.3)
    expected = run(model, views, PRESENT, params, 4)
    other = network().requires_grad_(False).to(memory_format=torch.channels_last)
    for a, b in zip(expected, run(other, views, PRESENT, params, 4), strict=True):
        close(b.region, a.region)
        close(b.images, a.images)


# --- weights stay as they are ----------------------------------------------------------------------------------------


def test_frozen_restores_what_trains():
    model = network()
    model.head.weight.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    assert True in before.values() and False in before.values()
    with frozen(model):
        assert not any(p.requires_grad for p in model.parameters())
        run(model, photos(1), [np.array([0])], AdvCamParams(), 3)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    with pytest.raises(KeyError), frozen(model):
        raise KeyError
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before


def test_weights_get_no_gradient_and_do_not_change():
    model = network()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    maps = advcam(AdvCamParams(steps=3))(model, photos(1), [np.array([0, 1])], 1.0)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not maps[0].requires_grad
    with frozen(model):
        close(maps[0], advcam(AdvCamParams(steps=3))(model, photos(1), [np.array([0, 1])], 1.0)[0])


def test_photos_are_left_alone(model):
    views = photos(2)
    copy = views.clone()
    run(model, views, [np.array([0]), np.array([1])], AdvCamParams(), 3)
    assert torch.equal(views, copy) and not views.requires_grad


# --- a whole catalog -------------------------------------------------------------------------------------------------

PARAMS = AdvCamParams(steps=3, scales=(1.0, 0.5))


@pytest.fixture(scope="module")
def single():
    return build_classifier("tiny", C, width=8, seed=3).eval()


def extract(path, model, catalog, **options):
    with StoreWriter(path, stage="maps", class_names=CLASSES) as writer:
        extract_advcams(model, catalog, options.pop("params", PARAMS), writer, **options)
    return Store(path, stage="maps")


def content(*stores):
    return {
        i: (s.read(i).tobytes(), {k: np.asarray(v).tobytes() for k, v in s.attrs(i).items()})
        for s in stores
        for i in s.ids
    }


def test_file_does_not_depend_on_batch_size_or_workers(tmp_path, single):
    digests = set()
    for batch_size, workers in ((1, 1), (8, 1), (3, 4)):
        path = tmp_path / f"{batch_size}-{workers}.h5"
        extract(path, single, Photos(9), batch_size=batch_size, workers=workers)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1
    assert all(p.requires_grad and p.grad is None for p in single.parameters())


def test_content_does_not_depend_on_shards_threads_or_other_images(tmp_path, single):
    catalog = Photos(9)
    whole = content(extract(tmp_path / "all.h5", single, catalog))
    assert list(whole) == catalog.ids
    parts = [extract(tmp_path / f"part-{k}.h5", single, catalog.shard(k, 2), workers=k + 1) for k in range(2)]
    assert all(len(part.ids) for part in parts) and content(*parts) == whole
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert content(extract(tmp_path / "threads.h5", single, catalog, workers=2)) == whole
    finally:
        torch.set_num_threads(threads)


def test_extracted_maps_are_those_of_the_photo(tmp_path, single):
    catalog, seen = Photos(4), []
    store = extract(tmp_path / "maps.h5", single, catalog, progress=seen.append)
    assert sum(seen) == 4
    for image_id in catalog.ids:
        seed, present = read_seed(store, image_id), np.flatnonzero(catalog.label(image_id))
        assert seed.classes.tolist() == present.tolist()
        assert seed.size == catalog.size(image_id)
        expected = seed_of_photo(single, advcam(PARAMS), catalog.image(image_id), present, PARAMS)
        assert len(seed.maps) == len(expected.maps) == (2 if len(present) else 0)
        for found, wanted in zip(seed.maps, expected.maps, strict=True):
            np.testing.assert_allclose(found, wanted, atol=2e-3 * wanted.max())


def test_image_without_classes(tmp_path, single):
    """i00 and i07 have none: they are stored without maps, also in a catalog of nothing else."""
    catalog = Photos(0, ["i00", "i07"])
    assert not catalog.labels.any()
    store = extract(tmp_path / "maps.h5", single, catalog)
    assert store.ids == ["i00", "i07"]
    assert all(read_seed(store, i).maps == [] for i in store.ids)


def test_batched_run_agrees_with_single_images():
    """What a GPU does, in float64 on the CPU: images of one size together, some of them without a class."""
    model, catalog, size = network().requires_grad_(False), Photos(22), (40, 56)
    ids = [i for i in catalog.ids if catalog.size(i) == size]
    table = normalisation_table(model.mean, model.std).double()
    batch = load_batch(catalog, ids, size, PARAMS)
    assert any(not len(c) for c in batch.classes) and len({len(c) for c in batch.classes}) > 1
    for image_id, seed in zip(ids, localize_batch(model, advcam(PARAMS, pairs=3), batch, PARAMS, table), strict=True):
        present = np.flatnonzero(catalog.label(image_id))
        for together, by_itself in zip(
            seed.maps, seed_of_photo(model, advcam(PARAMS), catalog.image(image_id), present, PARAMS).maps, strict=True
        ):
            close(together, by_itself, 1e-11)  # of two scales of up to 3 steps


def test_failed_run_restores_what_trains(tmp_path, single):
    class Torn(Photos):
        def image(self, image_id):
            raise DataError(f"image '{image_id}' is torn")

    with pytest.raises(DataError, match="torn"):
        extract(tmp_path / "maps.h5", single, Torn(3))
    assert all(p.requires_grad for p in single.parameters())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "^steps: "),
        ({"scales": ()}, "^scales: "),
        ({"pooled": "rectifed"}, "^pooled: unknown 'rectifed'.*rectified"),
        ({"ascent": "sign"}, "^ascent: unknown 'sign'"),
        ({"clamp": "shrink"}, "^clamp: unknown 'shrink'.*shrinking"),
        ({"region": "gradcam"}, "^region: unknown 'gradcam'.*grad_cam"),
        ({"half_scale": "less"}, "^half_scale: unknown 'less'"),
        ({"precision": "half"}, "^precision: unknown 'half'"),
    ],
)
def test_wrong_parameters(wrong, message):
    with pytest.raises(ConfigError, match=message):
        AdvCamParams(**wrong)
