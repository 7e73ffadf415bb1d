"""MCTformer as a host: its interface, its attention against torchvision's transformer, initial weights, files."""

import math

import pytest
import torch
import torchvision
from torch.nn import functional

from camflow.errors import ConfigError, StoreError
from camflow.models.classifier import load_classifier
from camflow.models.host import Host
from camflow.models.mctformer import (
    ARCHITECTURES,
    Architecture,
    MctFormer,
    architecture_of,
    build_mctformer,
    load_mctformer,
    save_mctformer,
)
from camflow.models.vit import VisionTransformer, resize_positions
from camflow.models.vit_weights import from_one_token

PATCH = Architecture(patch=8, width=24, depth=4, heads=3, size=32, mlp_ratio=2.0)
CONV = Architecture(patch=8, width=24, depth=4, heads=3, size=32, stem="conv")
NAMES = ["ant", "bee", "cow"]


@pytest.fixture(params=[PATCH, CONV], ids=["patch", "conv"])
def model(request):
    return build_mctformer(3, request.param, seed=1).eval().double()


def photos(*size, count=2):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


# --- the interface ---------------------------------------------------------------------------------------------------


def test_interface_of_a_host(model):
    x = photos(32, 48)
    features, maps, logits = model.features(x), model.score_maps(x), model(x)
    assert isinstance(model, Host)
    assert (model.n_classes, model.stride) == (3, 8)
    assert features.shape == (2, 24, 4, 6) and maps.shape == (2, 3, 4, 6) and logits.shape == (2, 3)
    assert model.head.weight.shape == (3, 24, 3, 3)
    torch.testing.assert_close(model.head(features), maps)
    assert model.pool(features).shape == (2, 24, 1, 1)
    both = model.score_maps_and_logits(x)
    assert torch.equal(both[0], maps) and torch.equal(both[1], logits)
    refined = model.refined_maps(x)
    assert refined.shape == maps.shape and refined.min() >= 0


def test_scores_are_differentiable_in_the_pixels(model):
    x = photos(32, 48, count=1).requires_grad_()
    for scores in (model(x), model.score_maps(x), model.refined_maps(x)):
        (gradient,) = torch.autograd.grad(scores[0, 1].sum(), x)
        assert torch.isfinite(gradient).all() and gradient.abs().max() > 0


def test_images_do_not_see_each_other(model):
    x = photos(32, 40)
    torch.testing.assert_close(model.refined_maps(x)[1:], model.refined_maps(x[1:]))


def test_attention_that_is_seen_is_that_which_acts(model):
    """The fast path never stores the attention."""
    x = photos(40, 32)
    seen, graph = model.tokens(x, lambda *_: None), model.tokens(x)
    with torch.no_grad():
        fast = model.tokens(x)
    for one, other, third in zip(fast, seen, graph, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
        assert torch.equal(other, third)


def test_attention_maps_by_their_definition(model):
    x, seen = photos(32, 48, count=1), []
    patches = model.tokens(x, lambda _, weights: seen.append(weights[0].mean(dim=0)))[1]
    for attention in seen:
        torch.testing.assert_close(attention.sum(dim=1), torch.ones(len(attention), dtype=torch.float64))
    relevant = functional.relu(model.head(patches))[0].flatten(1)
    for last in (1, 3):
        to_patch = sum(attention[:3, 3:] for attention in seen[-last:])
        affinity = sum(attention[3:, 3:] for attention in seen)
        fused = to_patch * relevant
        refined = torch.stack([sum(affinity[:, j] * row[j] for j in range(24)) for row in fused])
        own = torch.stack([sum(affinity[:, j] * row[j] for j in range(24)) for row in to_patch])
        for kind, wanted in (("fused", fused), ("refined", refined), ("attention", own)):
            found = model.attention_maps(x, last=last, kind=kind)[0].flatten(1)
            torch.testing.assert_close(found, wanted, msg=f"{kind} {last}")


@pytest.mark.parametrize("last", [0, 5])
def test_blocks_that_are_not_there(model, last):
    with pytest.raises(ConfigError, match=f"last_blocks: the network has 4 blocks, so 1 to that many, not {last}"):
        model.attention_maps(photos(32, 32), last=last)


def test_patches_cut_off_what_does_not_fill_one_and_convolutions_do_not():
    x = photos(39, 47)
    patch, conv = (build_mctformer(3, shape).eval().double() for shape in (PATCH, CONV))
    assert patch.features(x).shape[2:] == (4, 5) and patch.map_stride == 1
    assert torch.equal(patch(x), patch(x[:, :, :32, :40]))
    assert conv.features(x).shape[2:] == (5, 6) and conv.map_stride == 8
    with pytest.raises(ConfigError, match=r"photos of \(39, 7\) pixels are smaller than a patch of 8"):
        patch(x[..., :7])


def cubic(distance, a=-0.75):
    """Keys' kernel."""
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def test_positions_of_another_grid_by_the_formula():
    """A cubic kernel at the source (i + 0.5) n / (m + 0.1) - 0.5 along each axis, the border repeated."""
    side, grid = 4, (3, 6)
    square = torch.randn(side, side, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrices = []
    for cells in grid:
        matrix = torch.zeros(cells, side, dtype=torch.float64)
        for i in range(cells):
            source = (i + 0.5) * side / (cells + 0.1) - 0.5
            for tap in range(math.floor(source) - 1, math.floor(source) + 3):
                matrix[i, min(max(tap, 0), side - 1)] += cubic(source - tap)
        matrices.append(matrix)
    wanted = torch.einsum("iy,jx,yxd->ijd", *matrices, square).reshape(1, -1, 2)
    found = resize_positions(square.reshape(1, -1, 2), grid)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    whole = square.reshape(1, -1, 2)
    assert resize_positions(whole, (side, side)) is whole
    assert not torch.equal(resize_positions(whole, (side, side), square=False), whole)


def test_branches_are_left_out_in_training_only():
    model = build_mctformer(3, PATCH, drop_path=0.5).double()
    assert [block.drop.p for block in model.blocks] == pytest.approx([0, 1 / 6, 1 / 3, 1 / 2])
    x = photos(32, 32)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_the_seed_decides_and_the_generator_stays():
    before = torch.random.get_rng_state()
    one, same, other = (build_mctformer(3, CONV, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["pos_embed"], other["pos_embed"])


# --- against torchvision ---------------------------------------------------------------------------------------------


def test_the_trunk_against_torchvision():
    """Another implementation with the same weights: one class token, the norm applied behind the last block."""
    theirs = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=4, num_heads=3, hidden_dim=24, mlp_dim=48, num_classes=2
    )
    generator = torch.Generator().manual_seed(2)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    theirs = theirs.eval().double()
    given = theirs.state_dict()
    state = {
        "cls_token": given["class_token"],
        "pos_embed": given["encoder.pos_embedding"],
        "patch_embed.proj.weight": given["conv_proj.weight"],
        "patch_embed.proj.bias": given["conv_proj.bias"],
        "norm.weight": given["encoder.ln.weight"],
        "norm.bias": given["encoder.ln.bias"],
    }
    inner = {
        "norm1": "ln_1", "norm2": "ln_2", "attn.proj": "self_attention.out_proj", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.3",
    }  # fmt: skip
    for n in range(4):
        prefix = f"encoder.layers.encoder_layer_{n}"
        for part in ("weight", "bias"):
            state |= {f"blocks.{n}.{own}.{part}": given[f"{prefix}.{other}.{part}"] for own, other in inner.items()}
            state[f"blocks.{n}.attn.qkv.{part}"] = given[f"{prefix}.self_attention.in_proj_{part}"]
    ours = VisionTransformer(PATCH, 1).eval().double()
    ours.load_state_dict(state)
    x = photos(32, 32)
    own, patches = ours.tokens(x)
    found = ours.norm(torch.cat([own, patches.flatten(2).transpose(1, 2)], dim=1))
    start = torch.cat([theirs.class_token.expand(2, -1, -1), theirs._process_input(x)], dim=1)
    torch.testing.assert_close(found, theirs.encoder(start), rtol=0, atol=1e-9)


# --- initial weights -------------------------------------------------------------------------------------------------


def released(size=32, **changes):
    """A state dict as the public ones are: one class token, a linear head of 1000 classes."""
    trunk = VisionTransformer(Architecture(**{**vars(PATCH), "size": size}), 1)
    generator = torch.Generator().manual_seed(9)
    state = {name: torch.randn(value.shape, generator=generator) for name, value in trunk.state_dict().items()}
    return {**state, "head.weight": torch.zeros(1000, 24), "head.bias": torch.zeros(1000), **changes}


@pytest.mark.parametrize("wrapped", [None, "model", "state_dict"])
def test_weights_of_one_class_token_start_every_class(tmp_path, wrapped):
    state = released()
    torch.save({wrapped: state} if wrapped else state, tmp_path / "w.pth")
    fresh = build_mctformer(3, PATCH, seed=4)
    model = build_mctformer(3, PATCH, weights=str(tmp_path / "w.pth"), seed=4)
    for c in range(3):
        assert torch.equal(model.cls_token[0, c], state["cls_token"][0, 0])
        assert torch.equal(model.pos_embed[0, c], state["pos_embed"][0, 0])
    assert torch.equal(model.pos_embed[0, 3:], state["pos_embed"][0, 1:])
    for name, value in model.state_dict().items():
        if name.startswith(("blocks.", "norm.", "patch_embed.")):
            assert torch.equal(value, state[name]), name
    assert torch.equal(model.head.weight, fresh.head.weight)
    # Classes start as one; the 3x3 head tells them apart.
    logits = model.eval()(photos(32, 32).float())
    torch.testing.assert_close(logits, logits[:, :1].expand(-1, 3))


def test_positions_of_weights_for_another_size_are_resized():
    model = build_mctformer(3, PATCH)
    state = released(size=64)
    given = from_one_token(state, model)
    assert given["pos_embed"].shape == (1, 3 + 16, 24)
    assert torch.equal(given["pos_embed"][:, 3:], resize_positions(state["pos_embed"][:, 1:], (4, 4)))
    again = from_one_token(given, model)
    assert torch.equal(again["pos_embed"], given["pos_embed"]) and "head.weight" not in again


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dist_token": torch.zeros(1, 1, 24)}, "of a distilled transformer"),
        ({"blocks.0.ls1.gamma": torch.zeros(24)}, "1 unknown: blocks.0.ls1.gamma"),
        ({"reg_token": torch.zeros(1, 4, 24)}, "1 unknown: reg_token"),
        ({"norm.weight": torch.zeros(25)}, r"1 of another shape: norm.weight \(25,\) instead of \(24,\)"),
        ({"pos_embed": torch.zeros(1, 12, 24)}, "11 positions of patches, which form no square"),
    ],
    ids=["distilled", "layer scale", "registers", "shape", "no square"],
)
def test_weights_that_do_not_fit(tmp_path, change, words):
    torch.save(released(**change), tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=words):
        build_mctformer(3, PATCH, weights=str(tmp_path / "w.pth"))


def test_weights_that_lack_something(tmp_path):
    state = released()
    del state["blocks.3.attn.qkv.bias"], state["cls_token"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"2 missing: cls_token, blocks.3.attn.qkv.bias"):
        build_mctformer(3, PATCH, weights=str(tmp_path / "w.pth"))


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("IMAGENET1K_V1", "no released weights for backbone 'deit_small'; use weights: none or the path"),
        ("nowhere/deit.pth", "weights file 'nowhere/deit.pth' does not exist"),
    ],
)
def test_there_are_no_releases(weights, words):
    with pytest.raises(ConfigError, match=words):
        build_mctformer(3, PATCH, weights=weights)


# --- building --------------------------------------------------------------------------------------------------------


def test_named_shapes():
    for name, heads in (("deit_tiny", 3), ("deit_small", 6), ("deit_base", 12)):
        shape = architecture_of(name)
        assert (shape.patch, shape.depth, shape.size, shape.heads) == (16, 12, 224, heads)
        assert shape.width == 64 * heads
    changed = architecture_of("small", depth=2, width=None, size=48)
    assert (changed.depth, changed.width, changed.size) == (2, ARCHITECTURES["small"].width, 48)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 25}, "width 25 cannot be shared by 3 heads"),
        ({"size": 30}, "image size 30 is no multiple of the patch of 8 pixels"),
        ({"depth": 0}, "of at least 1"),
        ({"patch": 6, "size": 36, "stem": "conv"}, "the patch is a power of two, not 6"),
    ],
)
def test_shapes_that_cannot_be(changes, words):
    with pytest.raises(ConfigError, match=words):
        Architecture(**{**vars(PATCH), **changes})


def test_names_that_are_not_there():
    with pytest.raises(
        ConfigError, match=r"unknown backbone 'deit_smal'; did you mean 'deit_small'\?.* It needs a vision"
    ):
        architecture_of("deit_smal")
    with pytest.raises(ConfigError, match="unknown backbone 'resnet50'"):
        architecture_of("resnet50")
    with pytest.raises(ConfigError, match="at least one class"):
        build_mctformer(0, PATCH)
    with pytest.raises(ConfigError, match="drop_path: needs a probability"):
        build_mctformer(3, PATCH, drop_path=1.0)


def test_files(tmp_path, model):
    model = model.float()
    path = tmp_path / "classifier.pt"
    save_mctformer(path, model, class_names=NAMES, meta={"key": "abc"})
    for read in (load_classifier, load_mctformer):
        again = read(path)
        assert isinstance(again, MctFormer) and not again.training
        assert (again.class_names, again.meta, again.map_stride) == (NAMES, {"key": "abc"}, model.map_stride)
        assert torch.equal(again.refined_maps(photos(33, 40).float()), model.refined_maps(photos(33, 40).float()))
    with pytest.raises(ConfigError, match="2 class names for a network of 3 classes"):
        save_mctformer(path, model, class_names=NAMES[:2])
    content = torch.load(path, weights_only=True)
    content["state_dict"]["cls_token"] += 1
    torch.save(content, path)
    with pytest.raises(StoreError, match="its weights do not match their checksum"):
        load_classifier(path)


def test_the_initial_head_is_near_no_class():
    """Fresh logits are small, so the first loss is near twice log 2."""
    model = build_mctformer(4, PATCH).eval()
    maps, logits = model.score_maps_and_logits(photos(32, 32).float())
    loss = functional.softplus(-logits).mean() + functional.softplus(-maps.mean(dim=(2, 3))).mean()
    assert loss.item() == pytest.approx(2 * math.log(2), abs=0.2)
