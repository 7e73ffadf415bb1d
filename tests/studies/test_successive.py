"""Maps on the way up are those of shorter climbs."""

import dataclasses

import numpy as np
import pytest
import torch

from camflow.data.sample import sample
from camflow.localize.advcam import AdvCamParams, Pairs, climb, extract_advcams
from camflow.localize.extract import normalisation_table, to_views
from camflow.localize.maps import full_size_maps, read_seed
from camflow.models.classifier import build_classifier
from camflow.store import Store, StoreWriter
from camflow.studies.successive import successive_maps
from tests.localize.conftest import one_thread  # noqa: F401  (a fixture for what is computed here)
from tests.localize.photos import CLASSES, Photos

OWN = AdvCamParams(scales=(0.5, 1.0), steps=27, step_size=0.2)
AT = [1, 4, 7, 12]
CATALOG = Photos(6)  # i00 has no class


@pytest.fixture(scope="module")
def model():
    return build_classifier("tiny", len(CLASSES), width=4, seed=3).eval()


def run(path, model, params=OWN, **options):
    options = {"images": 2, "at": AT, **options}
    with StoreWriter(path, stage="maps", class_names=CLASSES) as writer:
        table = successive_maps(model, CATALOG, params, writer, **options)
    return table, Store(path, stage="maps")


@pytest.fixture(scope="module")
def result(tmp_path_factory, model):
    return run(tmp_path_factory.mktemp("successive") / "maps.h5", model)


CHOSEN = sample(["i01", "i02", "i03", "i04", "i05"], 2)


def test_the_maps_of_t_are_those_of_a_climb_of_t_steps(tmp_path, model, result):
    """With fewer steps at the half scale, as the climb of T steps has them (4, 5 and 6 there for T = 4, 7 and 12)."""
    _, store = result
    assert store.ids == sorted(f"{i}@{t}" for i in CHOSEN for t in AT)
    for t in AT:
        path = tmp_path / f"{t}.h5"
        with StoreWriter(path, stage="maps", class_names=CLASSES) as writer:
            extract_advcams(model, Photos(0, CHOSEN), dataclasses.replace(OWN, steps=t), writer)
        for image_id in CHOSEN:
            found, expected = read_seed(store, f"{image_id}@{t}"), read_seed(Store(path), image_id)
            assert (
                found.classes.tolist() == expected.classes.tolist() == np.flatnonzero(CATALOG.label(image_id)).tolist()
            )
            assert (found.size, found.frame, found.stride) == (expected.size, expected.frame, expected.stride)
            for one, other in zip(found.maps, expected.maps, strict=True):
                np.testing.assert_allclose(one, other, atol=2e-3 * other.max())


def test_the_first_map_is_the_cam_and_later_ones_differ(result):
    _, store = result
    first, last = (full_size_maps(read_seed(store, f"{CHOSEN[0]}@{t}")) for t in (AT[0], AT[-1]))
    assert abs(first - last).max() > 0.1


def test_the_table_tells_every_step_of_scale_one(model, result):
    table, _ = result
    assert list(table.columns) == ["image", "class", "step", "score", "other", "covered"]
    lut = normalisation_table(model.mean, model.std)
    rows = table.set_index(["image", "class", "step"])
    assert rows.index.is_unique
    count = 0
    for image_id in CHOSEN:
        views = to_views(torch.from_numpy(CATALOG.image(image_id))[None], lut, True)
        for c in np.flatnonzero(CATALOG.label(image_id)):
            pairs = Pairs.of([[c]], [OWN], views)
            for step in climb(model, views, pairs, OWN, AT[-1]):
                with torch.no_grad():
                    pooled = model.score_maps(step.images[0]).relu().mean(dim=(2, 3)).sum(0)
                region = step.region[0].numpy()
                row, count = rows.loc[(image_id, CLASSES[c], step.t)], count + 1
                assert row["score"] == pytest.approx(float(pooled[c]), rel=5e-3)
                assert row["other"] == pytest.approx(float(pooled.sum() - pooled[c]), rel=5e-3, abs=1e-3)
                assert row["covered"] == pytest.approx((region > 0.5 * region.max()).mean(), abs=1.5 / region.size)
    assert len(table) == count


def test_workers_change_neither_table_nor_maps(tmp_path, model):
    found = [run(tmp_path / f"{n}.h5", model, images=3, at=[1, 2], workers=n)[0].to_csv() for n in (1, 3)]
    assert found[0] == found[1]
    assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "3.h5").read_bytes()
