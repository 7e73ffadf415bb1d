"""MCTformer-V2 against its authors' implementation: network, attention, maps, losses, gradients, names of weights."""

import math
import zlib

import numpy as np
import pytest
import torch

from camflow.localize.extract import normalisation_table, seed_of_photo, to_views
from camflow.localize.mctformer import MctFormerMapParams, mctformer, mctformer_full_maps
from camflow.models.mctformer import ARCHITECTURES, Architecture, build_mctformer
from camflow.train.mctformer import mctformer_losses
from tests.golden.loader import golden

FLOAT64 = 1e-9  # both tolerances: README of the arrays
FLOAT32 = 3e-5
PHOTOS = (0, 1, 2)


@pytest.fixture(scope="module")
def arrays():
    return golden("mctformer_v2")


def draw(name, kind, shape):
    """One tensor of the weight rule, whose kinds for transformers are these."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if kind in ("conv", "linear"):
        values = rng.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
    elif kind == "ln_w":
        values = rng.uniform(0.5, 1.5, shape)
    else:
        values = rng.standard_normal(shape) * {"token": 0.5, "bias": 0.1, "ln_b": 0.1}[kind]
    return torch.from_numpy(values.astype(np.float32))


def state_of(arrays):
    names, kinds, shapes = (arrays[f"weight_{what}"].tolist() for what in ("names", "kinds", "shapes"))
    return {
        name: draw(name, kind, tuple(int(n) for n in shape.split("x")))
        for name, kind, shape in zip(names, kinds, shapes, strict=True)
    }


@pytest.fixture(scope="module")
def model(arrays):
    shape = Architecture(
        patch=int(arrays["patch_size"]),
        width=int(arrays["embed_dim"]),
        depth=int(arrays["depth"]),
        heads=int(arrays["num_heads"]),
        size=int(arrays["img_size"]),
        mlp_ratio=float(arrays["mlp_ratio"]),
        eps=float(arrays["ln_eps"]),
    )
    network = build_mctformer(int(arrays["num_classes"]), shape)
    network.load_state_dict(state_of(arrays))
    return network.eval().double()


def photo(model, image):
    table = normalisation_table(model.mean, model.std).double()
    return to_views(torch.from_numpy(image)[None], table, False)[:, 0]


def equal(found, wanted, tolerance=FLOAT64):
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=0, atol=tolerance)


def test_the_weights_are_those_of_the_arrays(arrays):
    for value, total, magnitude in zip(
        state_of(arrays).values(), arrays["weight_sum"], arrays["weight_abs_sum"], strict=True
    ):
        assert value.double().sum().item() == pytest.approx(total, abs=1e-4)
        assert value.double().abs().sum().item() == pytest.approx(magnitude, rel=1e-6)


# --- network ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", PHOTOS)
def test_tokens_and_logits(arrays, model, number):
    x = photo(model, arrays[f"image_{number}"])
    own, patches = model.tokens(x)
    grid = patches.shape[2:]
    assert grid == tuple(n // 16 for n in x.shape[2:])
    equal(own[0], arrays[f"class_tokens_{number}"])
    equal(patches[0].flatten(1).T, arrays[f"patch_tokens_{number}"])
    equal(model.positions(grid)[0], arrays[f"pos_embed_used_{number}"])
    equal(model(x)[0], arrays[f"class_logits_{number}"])
    if number == 0:  # V1 has the same trunk
        equal(model(x)[0], arrays["v1_class_logits_0"])
    maps, logits = model.score_maps_and_logits(x)
    equal(maps.mean(dim=(2, 3))[0], arrays[f"patch_logits_{number}"])
    equal(maps.relu()[0], arrays[f"patchcam_{number}"])
    assert torch.equal(logits, model(x)) and torch.equal(maps, model.score_maps(x))


@pytest.mark.parametrize("number", PHOTOS)
def test_float32(arrays, model, number):
    single = build_mctformer(**model.spec).eval()
    single.load_state_dict(model.state_dict())
    x = photo(model, arrays[f"image_{number}"]).float()
    equal(single(x)[0], arrays[f"class_logits_{number}"], FLOAT32)
    equal(single.score_maps(x).mean(dim=(2, 3))[0], arrays[f"patch_logits_{number}"], FLOAT32)


@pytest.mark.parametrize("number", PHOTOS)
def test_attention(arrays, model, number):
    seen = []
    model.tokens(photo(model, arrays[f"image_{number}"]), lambda _, weights: seen.append(weights[0]))
    equal(torch.stack(seen).mean(dim=1), arrays[f"attention_headmean_{number}"])
    heads = arrays[f"attention_layer0_heads_{number}"]
    equal(seen[0][:, : heads.shape[1]], heads)


@pytest.mark.parametrize("last", [1, 2, 3])
@pytest.mark.parametrize("number", PHOTOS)
def test_fusion_and_refinement(arrays, model, number, last):
    x = photo(model, arrays[f"image_{number}"])
    patches, attention = model.features_and_attention(x, last)
    equal(attention.class_to_patch[0], arrays[f"class_to_patch_last{last}_{number}"])
    if (number, last) == (0, 2):  # likewise
        equal(attention.class_to_patch[0], arrays["v1_class_to_patch_last2_0"])
    equal(attention.affinity[0], arrays[f"patch_affinity_sum_{number}"])
    equal(model.attention_maps(x, last=last, kind="fused")[0], arrays[f"fused_last{last}_{number}"])
    refined = model.attention_maps(x, last=last)[0]
    if last == 2:  # the one that is stored
        equal(refined, arrays[f"refined_last2_{number}"])
    equal(attention.apply(model.head(patches).relu())[0], refined.detach().numpy())


@pytest.mark.parametrize("last", [2, 3])
@pytest.mark.parametrize("number", PHOTOS)
def test_maps_of_a_photo(arrays, model, number, last):
    params = MctFormerMapParams(last_blocks=last)
    classes = arrays[f"map_keys_{number}"]
    assert classes.tolist() == np.flatnonzero(arrays["labels"][number]).tolist()
    seed = seed_of_photo(model, mctformer(params), arrays[f"image_{number}"], classes, params)
    np.testing.assert_allclose(mctformer_full_maps(seed), arrays[f"map_last{last}_{number}"], rtol=0, atol=FLOAT64)


# --- training --------------------------------------------------------------------------------------------------------


def test_losses_and_gradients(arrays, model):
    x = torch.cat([photo(model, image) for image in arrays["batch_images"]])
    label = torch.from_numpy(arrays["labels"][: len(x)]).double()
    maps, class_logits = model.score_maps_and_logits(x)
    patch_logits = maps.mean(dim=(2, 3))
    equal(class_logits, arrays["batch_class_logits"])
    equal(patch_logits, arrays["batch_patch_logits"])
    terms = mctformer_losses(class_logits, patch_logits, label)
    for name, wanted in (("class", "loss_class"), ("patch", "loss_patch"), ("loss", "loss_total")):
        assert terms[name].item() == pytest.approx(float(arrays[wanted]), abs=FLOAT64)
    for name, logits in (("class", class_logits), ("patch", patch_logits)):
        (gradient,) = torch.autograd.grad(terms["loss"], logits, retain_graph=True)
        equal(gradient, arrays[f"grad_{name}_logits"])
    model.zero_grad()
    terms["loss"].backward()
    for name, parameter in (
        ("cls_token", model.cls_token),
        ("head_weight", model.head.weight),
        ("head_bias", model.head.bias),
        ("qkv0_bias", model.blocks[0].attn.qkv.bias),
        ("patch_embed_bias", model.patch_embed.proj.bias),
    ):
        equal(parameter.grad.reshape(arrays[f"grad_{name}"].shape), arrays[f"grad_{name}"])
    assert model.norm.weight.grad is None and bool(arrays["norm_weight_has_no_gradient"])


# --- full size -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [20, 80])
def test_names_and_shapes_of_deit_small(arrays, classes):
    with torch.device("meta"):  # shapes alone
        network = build_mctformer(classes, ARCHITECTURES["deit_small"])
    found = {name: "x".join(map(str, value.shape)) for name, value in network.state_dict().items()}
    names, shapes = (arrays[f"deits_v2_{what}_{classes}"].tolist() for what in ("names", "shapes"))
    assert found == dict(zip(names, shapes, strict=True))
    assert sum(p.numel() for p in network.parameters()) == int(arrays[f"deits_v2_n_parameters_{classes}"])
