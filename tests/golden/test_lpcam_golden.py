"""LPCAM against the authors' clustering, selection and maps, step by step."""

import numpy as np
import pytest
import torch

from camflow.localize.extract import Views
from camflow.localize.kmeans import kmeans
from camflow.localize.lpcam import LpcamParams, collapse, explicit_similarity, lpcam
from camflow.localize.maps import SeedMaps, full_size_maps, stride4_maps
from camflow.localize.prototypes import (
    PRESETS,
    ClassPrototypes,
    Clusters,
    Reservoir,
    SelectionParams,
    class_scores,
    select,
    split_cells,
)
from tests.golden.loader import golden

CENTRES = SCORES = 1e-5  # all tolerances: README of the arrays
MAPS = 2e-6
EPSILON = 1e-4  # relative, for our 1e-5 in the normalisation

NAMES = ("voc", "coco")
SIDES = ("fg", "bg")


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    return request.param, golden(f"lpcam_prototypes_{request.param}")


@pytest.fixture(scope="module")
def points(case):
    """Features of both sides of each class, gathered image by image, {(class, side): (N, D)}."""
    _, arrays = case
    gathered = {}
    for c in arrays["classes"].tolist():
        sides = [Reservoir(None, np.random.default_rng(0)) for _ in SIDES]
        for image in np.flatnonzero(arrays["labels"][:, c]):
            row = np.flatnonzero(arrays["labels"][image]).tolist().index(c)
            mask = arrays[f"mask_u8_{image}"][row].astype(np.float32) / 255
            features = torch.from_numpy(arrays["features"][image].astype(np.float32))
            for side, cells in zip(sides, split_cells(mask, features.shape[1:], float(arrays["tau"])), strict=True):
                side.add(features.permute(1, 2, 0)[cells], np.zeros((int(cells.sum()), 3), np.int32))
        for name, side in zip(SIDES, sides, strict=True):
            gathered[c, name] = side.points([], 2048).rows
    return gathered


@pytest.fixture(scope="module")
def clusterings(case, points):
    _, arrays = case
    return {
        (c, side): kmeans(
            rows,
            int(arrays["K"]),
            init_index=arrays[f"class{c}_{side}_init_index"],
            tolerance=float(arrays["tol"]),
            tolerance_rule="authors",
        )
        for (c, side), rows in points.items()
    }


def test_presets_are_the_published_values(case):
    name, arrays = case
    prototypes, selection = PRESETS[name]
    assert prototypes.clusters == arrays["K"]
    assert prototypes.tau == arrays["tau"]
    assert prototypes.tolerance == arrays["tol"]
    assert (prototypes.init, prototypes.tolerance_rule) == ("random", "authors")
    assert selection.mu_f == arrays["mu_f"]
    assert selection.context == (arrays["context_low"], arrays["context_high"])


def test_split(case, points):
    _, arrays = case
    for (c, side), rows in points.items():
        assert len(rows) == arrays[f"class{c}_{side}_n_points"]
        summed = rows[:, ::32].double().sum(dim=0).numpy()
        np.testing.assert_allclose(summed, arrays[f"class{c}_{side}_feature_sum"], rtol=1e-12)


def test_clustering(case, clusterings):
    _, arrays = case
    for (c, side), found in clusterings.items():
        key = f"class{c}_{side}"
        assert found.iterations == arrays[f"{key}_iterations"]
        assert np.array_equal(found.assignment.numpy(), arrays[f"{key}_assign"])
        np.testing.assert_allclose(found.centres.numpy(), arrays[f"{key}_centers"], rtol=0, atol=CENTRES)
        assert found.converged and not found.repaired


def test_scores_and_selection(case, clusterings):
    name, arrays = case
    weight = torch.from_numpy(arrays["classifier_weight"])
    for c in arrays["classes"].tolist():
        sides = []
        for side in SIDES:
            found = clusterings[c, side]
            score = class_scores(found.centres, weight)[:, c].numpy()
            np.testing.assert_allclose(score, arrays[f"class{c}_{side}_score"], rtol=0, atol=SCORES)
            sides.append(Clusters(found.centres.numpy(), score, found.members.numpy()))
        class_protos, context_protos = select(ClassPrototypes("", *sides), PRESETS[name].selection)
        for chosen, side in ((class_protos, "fg"), (context_protos, "bg")):
            expected = arrays[f"class{c}_{side}_centers"][arrays[f"class{c}_{side}_kept"]]
            np.testing.assert_allclose(chosen, expected, rtol=0, atol=CENTRES)


def test_fallback_is_exercised():
    arrays = golden("lpcam_prototypes_coco")
    assert not (arrays["class41_fg_score"] > arrays["mu_f"]).any()
    assert arrays["class41_fg_kept"].sum() == 1


# --- maps ------------------------------------------------------------------------------------------------------------


class Recorded(torch.nn.Module):
    """A network that answers with given features, whatever it sees."""

    def __init__(self, features: torch.Tensor):
        super().__init__()
        self.answer = features

    def features(self, x: torch.Tensor) -> torch.Tensor:
        assert len(x) == len(self.answer)
        return self.answer


@pytest.fixture(scope="module")
def maps():
    return golden("lpcam_map")


@pytest.fixture(scope="module")
def seed(maps):
    """Our raw maps of the file's classes at its four scales."""
    classes = maps["classes"]
    vectors = torch.stack(
        [collapse(*(torch.from_numpy(maps[f"class{c}_{kind}"]) for kind in ("prototypes", "context"))) for c in classes]
    )
    raw = []
    for index, scale in enumerate(maps["scales"]):
        model = Recorded(torch.from_numpy(maps[f"features_scale{index}"].astype(np.float32)))
        views = torch.zeros(1, 2, 3, 8, 8)
        (found,) = lpcam(vectors)(model, views, [np.arange(len(classes))], scale)
        raw.append(found.numpy())
    return SeedMaps(classes, raw, tuple(maps["image_size"].tolist()))


def test_raw_maps(maps, seed):
    assert Views().scales == tuple(maps["scales"])
    for index, raw in enumerate(seed.maps):
        for row, c in enumerate(maps["classes"]):
            np.testing.assert_allclose(raw[row], maps[f"raw_class{c}_scale{index}"], rtol=0, atol=MAPS)
    assert not seed.maps[0][:, 0, 0].any()  # the feature is zero there


def test_the_plain_form_agrees(maps):
    for index in range(len(maps["scales"])):
        features = torch.from_numpy(maps[f"features_scale{index}"].astype(np.float32))
        total = features[0] + features[1].flip(-1)
        for c in maps["classes"]:
            protos = [torch.from_numpy(maps[f"class{c}_{kind}"]) for kind in ("prototypes", "context")]
            plain = torch.relu(explicit_similarity(total, *protos)).numpy()
            np.testing.assert_allclose(plain, maps[f"raw_class{c}_scale{index}"], rtol=0, atol=MAPS)


@pytest.mark.parametrize(("kind", "scales"), [("multi", slice(None)), ("single", slice(1))])
def test_maps(maps, seed, kind, scales):
    part = SeedMaps(seed.classes, seed.maps[scales], seed.size)
    for grid, name in ((stride4_maps, "cam"), (full_size_maps, "high_res")):
        found, expected = grid(part), maps[f"{kind}_{name}"]
        np.testing.assert_allclose(found, expected, rtol=EPSILON, atol=MAPS)
        # Without the epsilon the difference is rounding only.
        exact = found / found.max(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(exact, expected, rtol=0, atol=MAPS)


def test_default_parameters_are_the_voc_preset():
    params = LpcamParams()
    selection = PRESETS["voc"].selection
    assert SelectionParams(params.mu_f, params.context, params.fallback, params.use_context) == selection
