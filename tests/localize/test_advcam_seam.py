"""AdvCAM on SEAM: climbing on the maps before its refinement, adding up those behind it."""

import dataclasses

import numpy as np
import pytest
import torch

from camflow.errors import ConfigError
from camflow.localize.advcam import AdvCamParams, Pairs, advcam, climb, extract_advcams
from camflow.localize.extract import load_batch, localize_batch, normalisation_table
from camflow.localize.maps import read_seed
from camflow.localize.seam import SeamMapParams, seam
from camflow.models.classifier import build_classifier, load_classifier
from camflow.models.seam import build_seam, save_seam
from camflow.store import Store, StoreWriter
from tests.localize.photos import CLASSES, Photos

PARAMS = AdvCamParams(scales=(1.0, 0.5), steps=3, lambda_=2.0, accumulate="refined", half_scale="same")


@pytest.fixture(scope="module")
def model():
    """Weights by which scores have both signs and the refined maps of an image differ from step to step."""
    made = build_seam("tiny", len(CLASSES), width=6, seed=3).eval().double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        made.net.head.weight.copy_(torch.randn(made.net.head.weight.shape, generator=generator, dtype=torch.float64))
    return made.requires_grad_(False)


def batch_of(catalog, params):
    ids = [image_id for image_id in catalog.ids if catalog.size(image_id) == (33, 47) and catalog.label(image_id).any()]
    return load_batch(catalog, ids, (33, 47), params)


def views_of(model, pixels, mirror=True):
    x = torch.from_numpy(((pixels.numpy() / 255 - model.mean) / model.std).transpose(0, 3, 1, 2).copy())
    return torch.stack([x, x.flip(-1)], dim=1) if mirror else x[:, None]


def plain_loop(model, photo, c, params, terms):
    """Sum of refined maps of one class of one photo (V, 3, H, W), every pass written out."""
    x, first, total = photo.clone(), None, 0.0
    low, high = x.min(), x.max()
    positive_weights = int((model.head.weight[c] > 0).sum())
    for _ in range(terms):
        refined = torch.stack([model.both_maps(view[None])[1][0, 1 + c].relu() for view in x])
        added = refined[0] + refined[1].flip(-1) if len(x) == 2 else refined[0]
        total = total + added - added.min()
        x = x.detach().requires_grad_()
        scores = model.both_maps(x)[0][:, 1:]  # before the refinement
        count = (scores[:, c] > 0).sum(dim=(1, 2))
        share = count / (count.sum().clamp(min=1) * positive_weights)
        weighted = scores[:, c].relu() * share[:, None, None]
        region = weighted[0] + weighted[1].flip(-1) if len(x) == 2 else weighted[0]
        first = region.detach() if first is None else first
        mask = region.detach() > params.tau * region.detach().max()
        pooled = scores.relu().mean(dim=(2, 3)).sum(0)
        objective = 2 * pooled[c] - pooled.sum() - params.lambda_ * (region - first)[mask].abs().sum()
        (gradient,) = torch.autograd.grad(objective, x)
        x = (x + params.step_size * gradient / (gradient.abs().max() + 1e-12)).clamp(low, high).detach()
        low, high = x.min(), x.max()
    return total


@pytest.mark.parametrize("mirror", [True, False], ids=["both views", "one view"])
@pytest.mark.parametrize("chunk", [None, 2], ids=["together", "in lots"])
def test_sum_against_a_plain_loop(model, mirror, chunk):
    batch = batch_of(Photos(12), PARAMS)
    views = views_of(model, batch.pixels[0], mirror)
    pairs = Pairs.of(batch.classes, [PARAMS], views)
    assert len(batch.ids) > 1 and len(pairs) > len(batch.ids)
    total = sum(step.region for step in climb(model, views, pairs, PARAMS, 3, chunk=chunk))
    for found, owner, c in zip(total, pairs.owner.tolist(), pairs.classes.tolist(), strict=True):
        expected = plain_loop(model, views[owner], c, PARAMS, 3)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-7 * float(expected.max()))
        assert expected.max() > 0


def test_what_is_climbed_stays_as_it_is(model):
    batch = batch_of(Photos(12), PARAMS)
    views = views_of(model, batch.pixels[0])
    climbed = dataclasses.replace(PARAMS, accumulate="climbed")
    pairs = Pairs.of(batch.classes, [PARAMS], views)
    both = zip(climb(model, views, pairs, PARAMS, 3), climb(model, views, pairs, climbed, 3), strict=True)
    for refined, plain in both:
        for name in set(refined.__dict__) - {"t", "region", "steepest"}:
            assert torch.equal(getattr(refined, name), getattr(plain, name)), name
        assert not torch.equal(refined.region, plain.region)


def test_one_step_gives_the_maps_of_seam(model):
    params = dataclasses.replace(PARAMS, steps=1)
    batch, table = batch_of(Photos(12), PARAMS), normalisation_table(model.mean, model.std).double()
    found = localize_batch(model, advcam(params), batch, params, table)
    expected = localize_batch(model, seam, batch, SeamMapParams(scales=PARAMS.scales), table)
    for one, other in zip(found, expected, strict=True):
        for mine, own in zip(one.maps, other.maps, strict=True):
            np.testing.assert_allclose(mine, own, atol=1e-12)


def test_a_host_without_refined_maps_is_refused(tmp_path):
    model = build_classifier("tiny", len(CLASSES), width=4)
    with (
        StoreWriter(tmp_path / "maps.h5", stage="maps", class_names=CLASSES) as writer,
        pytest.raises(ConfigError, match="accumulate: refined needs a classifier that refines its maps"),
    ):
        extract_advcams(model, Photos(3), PARAMS, writer)


def test_whole_catalog_from_a_file(model, tmp_path):
    catalog, path = Photos(5), tmp_path / "classifier.pt"
    save_seam(path, build_seam("tiny", len(CLASSES), width=4, seed=1), class_names=CLASSES)
    with StoreWriter(tmp_path / "maps.h5", stage="maps", class_names=CLASSES) as writer:
        extract_advcams(load_classifier(path), catalog, PARAMS, writer, pairs=2)
    store = Store(tmp_path / "maps.h5", stage="maps")
    assert store.ids == sorted(catalog.ids)
    assert all(maps.min() == 0 for maps in read_seed(store, "i01").maps)
