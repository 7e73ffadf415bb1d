"""Growth of regions under the climb, against loops over cells."""

import dataclasses

import numpy as np
import pytest
import torch

from camflow.localize.advcam import AdvCamParams, Pairs, climb
from camflow.localize.extract import normalisation_table, to_views
from camflow.models.classifier import build_classifier
from camflow.studies.amplification import REGIONS, amplification, regions
from tests.localize.conftest import one_thread  # noqa: F401  (a fixture for what is computed here)
from tests.localize.photos import CLASSES, Photos

OWN = AdvCamParams(
    scales=(0.5, 2.0), steps=27, step_size=0.2
)  # neither the scales nor the steps are those of the study
STEPS = 3


@pytest.fixture(scope="module")
def model():
    return build_classifier("tiny", len(CLASSES), width=4, seed=3).eval()


@pytest.fixture(scope="module")
def table(model):
    return amplification(model, Photos(5), OWN, images=None, steps=STEPS)


def ratios(model, lambda_):
    """{(step, region): growth of each pair}, pair by pair and cell by cell."""
    catalog, found = Photos(5), {}
    lut = normalisation_table(model.mean, model.std)
    params = dataclasses.replace(OWN, lambda_=lambda_)
    for image_id in ("i01", "i02", "i03", "i04"):
        views = to_views(torch.from_numpy(catalog.image(image_id))[None], lut, True)
        for c in np.flatnonzero(catalog.label(image_id)):
            cams = [
                step.cam[0].numpy() for step in climb(model, views, Pairs.of([[c]], [params], views), params, STEPS + 1)
            ]
            first = cams[0]
            for t, cam in enumerate(cams):
                sides = [[], []]
                for cell in np.ndindex(first.shape):
                    share = first[cell] / first.max() if first.max() > 0 else 0
                    if share > 0.1:
                        sides[0 if share >= 0.5 else 1].append(cam[cell] / first[cell])
                for region, values in zip(REGIONS, sides, strict=True):
                    if values:
                        found.setdefault((t, region), []).append(np.mean(values))
    return found


@pytest.mark.parametrize("lambda_", [7.0, 0.0])
def test_against_a_loop_over_cells(model, table, lambda_):
    expected = ratios(model, lambda_)
    rows = table[table["lambda"] == lambda_].set_index(["step", "region"])
    assert set(rows.index) == set(expected) and len(rows) == 2 * (STEPS + 1)
    for key, values in expected.items():
        row, tolerance = rows.loc[key], {"rel": 2e-3, "abs": 2e-3}
        assert row["pairs"] == len(values)
        assert row["mean"] == pytest.approx(np.mean(values), **tolerance)
        for column, share in (("q25", 0.25), ("median", 0.5), ("q75", 0.75)):
            assert row[column] == pytest.approx(np.quantile(values, share), **tolerance)
    last = rows.loc[STEPS]
    assert ((last["mean"] - 1).abs() > 0.01).all()  # the table does not merely say 1 everywhere


def test_a_photo_is_as_large_as_itself(table):
    first = table[table["step"] == 0]
    assert len(first) == 4
    assert (first[["mean", "q25", "median", "q75"]] == 1.0).all(axis=None)


def test_regularisation_holds_the_discriminative_back(table):
    last = table[(table["step"] == STEPS) & (table["region"] == "discriminative")].set_index("lambda")["mean"]
    assert last[7.0] < last[0.0]


def test_without_regularisation_there_is_one_setting(model, table):
    alone = amplification(model, Photos(5), dataclasses.replace(OWN, lambda_=0.0), images=None, steps=STEPS)
    assert set(alone["lambda"]) == {0.0}
    part = table[table["lambda"] == 0].reset_index(drop=True)
    assert (alone[["step", "region", "pairs"]] == part[["step", "region", "pairs"]]).all(axis=None)
    np.testing.assert_allclose(alone["mean"], part["mean"], rtol=2e-3)


def test_bounds_of_the_regions():
    cam = torch.tensor([[[8.0, 4.0, 3.9, 0.81, 0.8, 0.0]], [[0.0] * 6]])
    discriminative, other = regions(cam).unbind(1)
    assert discriminative[0, 0].tolist() == [True, True, False, False, False, False]
    assert other[0, 0].tolist() == [False, False, True, True, False, False]
    assert not discriminative[1].any() and not other[1].any()


def test_a_class_that_is_nowhere_is_not_a_pair(model):
    """A class without a positive score has no region to grow."""
    deaf = build_classifier("tiny", len(CLASSES), width=4, seed=3).eval()
    with torch.no_grad():
        deaf.head.weight[:] = -deaf.head.weight.abs()
    found = amplification(deaf, Photos(5), OWN, images=2, steps=1)
    assert (found["pairs"] == 0).all()
    assert found[["mean", "q25", "median", "q75"]].isna().all(axis=None)
