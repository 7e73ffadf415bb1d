"""The surface around photos, its points computed one at a time."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from camflow.localize.advcam import AdvCamParams
from camflow.models.classifier import build_classifier
from camflow.studies import loss_surface as study
from camflow.studies.loss_surface import loss_surface
from tests.localize.conftest import one_thread  # noqa: F401  (a fixture for what is computed here)
from tests.localize.photos import CLASSES, Photos

PARAMS = AdvCamParams()  # scales and mirror image do not matter
IDS = ["i01", "i02", "i03"]


@pytest.fixture(scope="module")
def model():
    return build_classifier("tiny", len(CLASSES), width=4, seed=3).eval()


def surface(model, ids=IDS, **changes):
    options = {"images": 9, "radius": 0.3, "points": 5, **changes}
    return loss_surface(model, Photos(0, list(ids)), PARAMS, **options)


@pytest.fixture(scope="module")
def table(model):
    return surface(model)


def loss_of(model, x, label):
    """The multi-label soft-margin loss as its definition has it."""
    logits, y = model(x)[0].double(), torch.from_numpy(label).double()
    return -(y * torch.log(torch.sigmoid(logits)) + (1 - y) * torch.log(1 - torch.sigmoid(logits))).mean()


def photo(model, image_id):
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.mean, model.std))
    return (torch.from_numpy(Photos(0).image(image_id)).permute(2, 0, 1)[None] / 255 - mean) / std


def attack(model, image_id, radius=0.3):
    x = photo(model, image_id).requires_grad_(True)
    loss_of(model, x, Photos(0).label(image_id)).backward()
    return x.grad * radius / x.grad.abs().max()


def at(table, alpha, beta, column="loss"):
    return table.set_index(["alpha", "beta"]).loc[(alpha, beta), column]


def test_the_middle_is_the_loss_of_the_photos(model, table):
    losses = [float(loss_of(model, photo(model, i), Photos(0).label(i)).detach()) for i in IDS]
    assert at(table, 0, 0) == pytest.approx(np.mean(losses), rel=1e-5)
    assert at(table, 0, 0, "std") == pytest.approx(np.std(losses), rel=1e-4)
    assert list(table.columns) == ["alpha", "beta", "loss", "std", "images"]
    assert set(table["images"]) == {3}
    grid = [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert list(zip(table["alpha"], table["beta"], strict=True)) == [(a, b) for a in grid for b in grid]


def test_the_ends_of_the_attack_recomputed(model, table):
    for alpha in (-1.0, 0.5, 1.0):
        losses = [
            float(loss_of(model, photo(model, i) + alpha * attack(model, i), Photos(0).label(i)).detach()) for i in IDS
        ]
        assert at(table, alpha, 0.0) == pytest.approx(np.mean(losses), rel=1e-4)


def test_corners_recomputed_with_a_direction_as_long_as_the_gradient(model):
    seen = []
    hook = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    try:
        found = surface(model, ["i02"], seed=4)
    finally:
        hook.remove()
    x, n = photo(model, "i02"), attack(model, "i02")
    rows = [batch for batch in seen if len(batch) == 5]  # one for each alpha
    r = rows[2][4:] - x  # alpha = 0, beta = 1
    assert float(n.abs().max()) == pytest.approx(0.3)
    assert float(r.norm()) == pytest.approx(float(n.norm()), rel=1e-4)
    assert abs(float((r * n).sum())) < 0.1 * float(n.norm()) ** 2  # and not a copy of it
    label = Photos(0).label("i02")
    for alpha, beta in ((1.0, -1.0), (-1.0, -1.0), (-0.5, 1.0)):
        expected = loss_of(model, x + alpha * n + beta * r, label)
        assert at(found, alpha, beta) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_attacks_raise_the_loss_and_climbs_lower_it(model):
    near = surface(model, radius=0.01, points=3)
    middle = at(near, 0, 0)
    assert at(near, 1, 0) > middle > at(near, -1, 0)
    # To first order by the gradient times the way; a random direction is nearly at right angles to it.
    rise = []
    for image_id in IDS:
        x = photo(model, image_id).requires_grad_(True)
        loss_of(model, x, Photos(0).label(image_id)).backward()
        rise.append(float((x.grad * attack(model, image_id, 0.01)).sum()))
    assert at(near, 1, 0) - at(near, -1, 0) == pytest.approx(2 * np.mean(rise), rel=0.05)
    assert abs(at(near, 0, 1) - at(near, 0, -1)) < 0.2 * (at(near, 1, 0) - at(near, -1, 0))


def test_only_the_random_direction_depends_on_the_seed(model):
    one, same, other = (surface(model, points=3, seed=s) for s in (1, 1, 2))
    assert one.to_csv() == same.to_csv()
    differ = (one["loss"] - other["loss"]).abs() > 1e-9
    assert (differ == (one["beta"] != 0)).all()


def test_an_image_draws_its_own_direction_whoever_is_beside_it(model):
    together = surface(model, points=3, workers=2)
    alone = np.mean([surface(model, [i], points=3)["loss"] for i in IDS], axis=0)
    np.testing.assert_allclose(together["loss"], alone, rtol=1e-6)
    same = {"i01": "i01", "i04": "i01"}  # the same photo under two names

    class Twins(Photos):
        def image(self, image_id):
            return super().image(same[image_id])

        def label(self, image_id):
            return super().label(same[image_id])

    twins = Twins(0, list(same))
    assert twins.size("i01") == twins.size("i04")
    spread = loss_surface(model, twins, PARAMS, images=2, radius=0.3, points=3)
    assert ((spread["std"] > 1e-9) == (spread["beta"] != 0)).all()


def test_the_loss_is_that_of_training(model):
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    truth = (logits > 0.3).float()
    assert float(study.margin(logits, truth).mean()) == pytest.approx(
        float(functional.binary_cross_entropy_with_logits(logits, truth)), rel=1e-6
    )
