"""Maps of MCTformer, LPCAM and AdvCAM on it: against loops that write every pass out."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from camflow.errors import ConfigError
from camflow.localize.advcam import AdvCamParams, Pairs, advcam, climb
from camflow.localize.extract import load_batch, localize_batch, normalisation_table, seed_of_photo, to_views
from camflow.localize.lpcam import LpcamParams, lpcam
from camflow.localize.maps import full_size_maps, read_seed
from camflow.localize.mctformer import MctFormerMapParams, extract_mctformer_maps, mctformer, mctformer_full_maps
from camflow.models.classifier import build_classifier
from camflow.models.mctformer import Architecture, build_mctformer
from camflow.store import Store, StoreWriter
from tests.localize.photos import CLASSES, Photos

SHAPE = Architecture(patch=8, width=12, depth=3, heads=3, size=32)


@pytest.fixture(scope="module")
def model():
    """Weights by which attention and scores differ from cell to cell, scores with both signs."""
    made = build_mctformer(len(CLASSES), SHAPE).eval().double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return made.requires_grad_(False)


def batch_of(catalog, params):
    ids = [image_id for image_id in catalog.ids if catalog.size(image_id) == (33, 47) and catalog.label(image_id).any()]
    return load_batch(catalog, ids, (33, 47), params)


def views_of(model, pixels):
    return to_views(pixels, normalisation_table(model.mean, model.std).double(), flip=True)


def from_minimum(maps):
    return maps - maps.amin(dim=(1, 2), keepdim=True)


# --- its own maps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["refined", "fused", "attention"])
def test_maps_are_those_of_both_views_from_their_minimum(model, kind):
    params = MctFormerMapParams(maps=kind, last_blocks=2)
    catalog = Photos(4)
    photo = catalog.image("i01")
    seed = seed_of_photo(model, mctformer(params), photo, [3, 1], params)
    x = views_of(model, torch.from_numpy(photo)[None])[0]
    one, mirrored = (model.attention_maps(view[None], last=2, kind=kind)[0] for view in x)
    wanted = from_minimum((one + mirrored.flip(-1))[[1, 3]])
    np.testing.assert_allclose(seed.maps[0], wanted.numpy(), rtol=0, atol=1e-12)
    assert seed.classes.tolist() == [1, 3] and (seed.maps[0].min(axis=(1, 2)) == 0).all()


def test_readers_stretch_maps_over_a_photo_that_does_not_fill_its_patches(model):
    """33 x 47 pixels: 4 x 5 cells are seen, and cover the photo, not the 5 x 6 cells that would hang over it."""
    params = MctFormerMapParams()
    seed = seed_of_photo(model, mctformer(params), Photos(4).image("i01"), [0, 2], params)
    assert seed.size == (33, 47) and seed.maps[0].shape == (2, 4, 5) and seed.stride == 1
    plain = functional.interpolate(torch.from_numpy(seed.maps[0])[None], size=(33, 47), mode="bilinear")[0].numpy()
    peak = plain.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(full_size_maps(seed), plain / (peak + 1e-5), rtol=0, atol=1e-9)
    low = plain.min(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(mctformer_full_maps(seed), (plain - low) / (peak - low + 1e-8), rtol=0, atol=1e-9)


def test_the_published_reading_is_indifferent_to_what_is_taken_off(model):
    params = MctFormerMapParams(scales=(1.0, 1.5))
    seed = seed_of_photo(model, mctformer(params), Photos(4).image("i01"), [0, 2], params)
    raised = dataclasses.replace(seed, maps=[maps + 0.25 for maps in seed.maps])
    np.testing.assert_allclose(mctformer_full_maps(raised), mctformer_full_maps(seed), rtol=0, atol=1e-9)
    empty = dataclasses.replace(seed, classes=np.zeros(0, np.int64), maps=[])
    assert mctformer_full_maps(empty).shape == (0, 33, 47)


def test_a_whole_catalog(model, tmp_path):
    catalog = Photos(6)
    with StoreWriter(tmp_path / "maps.h5", stage="maps", class_names=CLASSES) as writer:
        extract_mctformer_maps(model, catalog, MctFormerMapParams(), writer, workers=2)
    store = Store(tmp_path / "maps.h5", stage="maps")
    assert store.ids == sorted(catalog.ids)
    for image_id in catalog.ids:
        seed = read_seed(store, image_id)
        assert seed.classes.tolist() == np.flatnonzero(catalog.label(image_id)).tolist()


def test_an_unknown_map():
    with pytest.raises(ConfigError, match=r"maps: unknown 'refind'; did you mean 'refined'\?"):
        MctFormerMapParams(maps="refind")


# --- LPCAM -----------------------------------------------------------------------------------------------------------


def test_lpcam_takes_the_place_of_the_maps_of_the_patches(model):
    vectors = torch.randn(len(CLASSES), 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    params = LpcamParams(scales=(1.0,), fusion="attention")
    photo = Photos(4).image("i01")
    seed = seed_of_photo(model, lpcam(vectors, "attention"), photo, [1, 3], params)
    total = 0.0
    for number, view in enumerate(views_of(model, torch.from_numpy(photo)[None])[0]):
        seen = []
        patches = model.tokens(view[None], lambda _, weights, seen=seen: seen.append(weights[0].mean(dim=0)))[1][0]
        similar = torch.stack([functional.cosine_similarity(patches, v[:, None, None], dim=0) for v in vectors])
        own = (
            (similar * vectors.norm(dim=1)[:, None, None]).relu().flatten(1)
        )  # a class's vector need not be a unit one
        fused = own * sum(attention[:5, 5:] for attention in seen[-3:])
        refined = (fused @ sum(attention[5:, 5:] for attention in seen).T).reshape(5, *patches.shape[1:])
        total = total + (refined.flip(-1) if number else refined)
    np.testing.assert_allclose(seed.maps[0], from_minimum(total[[1, 3]]).numpy(), rtol=0, atol=1e-10)


def test_lpcam_by_itself_sees_the_patch_tokens(model):
    vectors = torch.randn(len(CLASSES), 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    photo = Photos(4).image("i01")
    seed = seed_of_photo(model, lpcam(vectors), photo, [1, 3], LpcamParams(scales=(1.0,)))
    one, mirrored = model.features(views_of(model, torch.from_numpy(photo)[None])[0])
    both = one + mirrored.flip(-1)
    similar = torch.stack([functional.cosine_similarity(both, vectors[c, :, None, None], dim=0) for c in (1, 3)])
    wanted = (similar * vectors[[1, 3]].norm(dim=1)[:, None, None]).relu()
    np.testing.assert_allclose(seed.maps[0], wanted.numpy(), rtol=0, atol=1e-10)


def test_hosts_without_attention_are_refused():
    plain = build_classifier("tiny", len(CLASSES), width=4).eval()
    photo, vectors = Photos(2).image("i01"), torch.ones(len(CLASSES), 16)
    with pytest.raises(ConfigError, match="fusion: attention needs a classifier that attends"):
        seed_of_photo(plain, lpcam(vectors, "attention"), photo, [0], LpcamParams(scales=(1.0,), fusion="attention"))
    params = AdvCamParams(scales=(1.0,), steps=2, pooled="logits")
    with pytest.raises(ConfigError, match="pooled: logits needs a classifier with class tokens"):
        seed_of_photo(plain, advcam(params), photo, [0], params)
    with pytest.raises(ConfigError, match=r"fusion: unknown 'atention'; did you mean 'attention'\?"):
        LpcamParams(fusion="atention")


# --- AdvCAM ----------------------------------------------------------------------------------------------------------

PARAMS = AdvCamParams(scales=(1.0,), steps=3, lambda_=2.0, tau=0.3, half_scale="same")


def plain_loop(model, photo, c, params, terms):
    """Sum of what is added up of one class of one photo (V, 3, H, W), every pass written out."""
    x, first, total = photo.clone(), None, 0.0
    low, high = x.min(), x.max()
    positive_weights = int((model.head.weight[c].sum(dim=(1, 2)) > 0).sum())
    for _ in range(terms):
        x = x.detach().requires_grad_()
        scores = model.head(model.features(x))
        pooled = model(x).sum(0) if params.pooled == "logits" else scores.relu().mean(dim=(2, 3)).sum(0)
        count = (scores[:, c] > 0).sum(dim=(1, 2))
        weighted = scores[:, c].relu() * (count / (count.sum().clamp(min=1) * positive_weights))[:, None, None]
        region = weighted[0] + weighted[1].flip(-1)
        if params.accumulate == "refined":
            one, mirrored = model.attention_maps(x.detach())[:, c]
            added = one + mirrored.flip(-1)
            total = total + added - added.min()
        else:
            total = total + region.detach()
        first = region.detach() if first is None else first
        mask = region.detach() > params.tau * region.detach().max()
        objective = 2 * pooled[c] - pooled.sum() - params.lambda_ * (region - first)[mask].abs().sum()
        (gradient,) = torch.autograd.grad(objective, x)
        x = (x + params.step_size * gradient / (gradient.abs().max() + 1e-12)).clamp(low, high).detach()
        low, high = x.min(), x.max()
    return total


@pytest.mark.parametrize("accumulate", ["climbed", "refined"])
@pytest.mark.parametrize("pooled", ["rectified", "logits"])
def test_climbing_against_a_plain_loop(model, pooled, accumulate):
    params = dataclasses.replace(PARAMS, pooled=pooled, accumulate=accumulate)
    batch = batch_of(Photos(12), params)
    views = views_of(model, batch.pixels[0])
    pairs = Pairs.of(batch.classes, [params], views)
    assert len(pairs) > len(batch.ids) > 1
    total = sum(step.region for step in climb(model, views, pairs, params, 3, chunk=2))
    for found, owner, c in zip(total, pairs.owner.tolist(), pairs.classes.tolist(), strict=True):
        expected = plain_loop(model, views[owner], c, params, 3)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-7 * max(1.0, float(expected.max())))


def test_climbing_raises_the_class_score(model):
    params = dataclasses.replace(PARAMS, pooled="logits", lambda_=0.0, steps=6, step_size=0.02)
    batch = batch_of(Photos(12), params)
    views = views_of(model, batch.pixels[0])
    pairs = Pairs.of(batch.classes, [params], views)
    steps = list(climb(model, views, pairs, params, 6))
    for step in (steps[0], steps[-1]):
        logits = model(step.images.flatten(0, 1)).unflatten(0, (len(pairs), 2)).sum(dim=1)
        torch.testing.assert_close(step.score, logits.gather(1, pairs.classes[:, None])[:, 0])
    gain = [(s.score - s.other) for s in (steps[0], steps[-1])]
    assert (gain[1] > gain[0]).all()


def test_one_step_gives_its_own_maps(model):
    params = dataclasses.replace(PARAMS, steps=1, accumulate="refined")
    batch, table = batch_of(Photos(12), PARAMS), normalisation_table(model.mean, model.std).double()
    found = localize_batch(model, advcam(params), batch, params, table)
    expected = localize_batch(model, mctformer(MctFormerMapParams()), batch, MctFormerMapParams(), table)
    for one, other in zip(found, expected, strict=True):
        for mine, own in zip(one.maps, other.maps, strict=True):
            np.testing.assert_allclose(mine, own, rtol=0, atol=1e-12)
