"""LPCAM: gathering, selection, and that one vector per class is the same as all its prototypes."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from camflow.errors import ConfigError, DataError, StoreError
from camflow.localize.cam import CamParams, extract_cams
from camflow.localize.extract import seed_of_photo
from camflow.localize.lpcam import (
    LpcamParams,
    class_vectors,
    collapse,
    explicit_similarity,
    extract_lpcams,
    lpcam,
    params_from_config,
    similarity_maps,
)
from camflow.localize.maps import SeedMaps, full_size_maps, read_seed
from camflow.localize.prototypes import (
    PRESETS,
    ClassPrototypes,
    Clusters,
    PrototypeParams,
    Reservoir,
    SelectionParams,
    class_mask,
    class_scores,
    cluster_class,
    collect,
    images_of_class,
    prototype_params_from_config,
    read_prototypes,
    select,
    split_cells,
    write_prototypes,
)
from camflow.models.classifier import build_classifier
from camflow.store import Store, StoreWriter
from tests.localize.photos import CLASSES, Photos

PARAMS = PrototypeParams(clusters=4, tau=0.3)
KEEP_ALL = SelectionParams(mu_f=0.0, context=(0.0, 1.0))


@pytest.fixture(scope="module")
def model():
    return build_classifier("tiny", len(CLASSES), width=8, seed=3).eval()


@pytest.fixture(scope="module")
def catalog():
    return Photos(12)


@pytest.fixture(scope="module")
def masks(tmp_path_factory, model, catalog):
    path = tmp_path_factory.mktemp("masks") / "maps.h5"
    with StoreWriter(path, stage="maps", class_names=CLASSES) as writer:
        extract_cams(model, catalog, CamParams(scales=(1.0,)), writer)
    return Store(path, stage="maps")


@pytest.fixture(scope="module")
def prototypes(model, catalog, masks):
    return [cluster_class(model, catalog, masks, c, PARAMS) for c in range(len(CLASSES))]


def of_scores(foreground, context, name="ant"):
    sides = [
        Clusters(np.arange(len(s))[:, None] + np.ones((1, 3), np.float32), np.array(s, float), np.ones(len(s), int))
        for s in (foreground, context)
    ]
    return ClassPrototypes(name, *sides)


# --- one vector per class --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_context", [0, 1, 7])
def test_collapsed_vector_is_the_explicit_form(n_context):
    rng = np.random.default_rng(n_context)
    features, protos, context = (
        torch.from_numpy(np.maximum(rng.standard_normal(s), 0)) for s in ((2, 64, 5, 7), (5, 64), (n_context, 64))
    )
    features[0, :, 2, 3] = 0
    vector = collapse(protos, context)
    found = similarity_maps(features, torch.stack([vector, -vector]), [np.array([0, 1]), np.array([1])])
    assert [len(m) for m in found] == [2, 1]
    for image, maps in zip(features, found, strict=True):
        signed = explicit_similarity(image, protos, context)
        torch.testing.assert_close(maps[-1], torch.relu(-signed), rtol=0, atol=1e-14)
    signed = explicit_similarity(features[0], protos, context)
    torch.testing.assert_close(found[0][0], torch.relu(signed), rtol=0, atol=1e-14)
    assert signed[2, 3] == 0 and found[0][0, 2, 3] == 0
    # The definition once more, cell by cell.
    cell = features[0, :, 4, 6]
    cosines = [[float(functional.cosine_similarity(cell, p, dim=0)) for p in side] for side in (protos, context)]
    expected = np.mean(cosines[0]) - (np.mean(cosines[1]) if n_context else 0)
    assert float(signed[4, 6]) == pytest.approx(expected, abs=1e-12)


def test_map_does_not_depend_on_the_length_of_features_or_prototypes():
    rng = np.random.default_rng(0)
    features, protos = torch.from_numpy(rng.random((1, 8, 3, 3))), torch.from_numpy(rng.random((4, 8)))
    lengths = torch.from_numpy(rng.uniform(1e-3, 1e3, (1, 1, 3, 3)))
    one = similarity_maps(features, collapse(protos, protos[:0])[None], [np.array([0])])[0]
    other = similarity_maps(features * lengths, collapse(protos * 9, protos[:0])[None], [np.array([0])])[0]
    torch.testing.assert_close(one, other)
    assert one.max() <= 1 + 1e-12


def test_context_is_subtracted():
    """Two orthogonal parts that both belong to the class, a third that is context: closed form."""
    parts = torch.eye(3, dtype=torch.float64)
    vector = collapse(5 * parts[:2], 2 * parts[2:])
    assert vector.tolist() == [0.5, 0.5, -1.0]
    features = parts.T[None, :, None]  # three cells, one of each kind
    maps = similarity_maps(features, vector[None], [np.array([0])])[0]
    assert maps[0, 0].tolist() == [0.5, 0.5, 0.0]


def test_no_nan_on_zero_features_and_zero_prototypes():
    maps = similarity_maps(torch.zeros(1, 4, 2, 2), torch.ones(1, 4), [np.array([0])])[0]
    assert torch.equal(maps, torch.zeros(1, 2, 2))
    assert torch.equal(collapse(torch.zeros(2, 4), torch.zeros(1, 4)), torch.zeros(4))
    assert torch.equal(collapse(torch.zeros(0, 4), torch.ones(1, 4)), torch.zeros(4))


def test_localizer_adds_the_mirrored_features(model):
    vectors = torch.from_numpy(np.random.default_rng(0).standard_normal((len(CLASSES), model.head.in_channels))).float()
    photo, present = Photos(3).image("i01"), np.array([1, 3])
    x = model_input(model, photo)
    with torch.no_grad():
        total = model.features(x) + model.features(x.flip(-1)).flip(-1)
    similarity = functional.cosine_similarity(total, vectors[:, :, None, None], dim=1)  # of every class: (C, h, w)
    similarity = similarity * torch.linalg.vector_norm(vectors, dim=1)[:, None, None]
    seed = seed_of_photo(model, lpcam(vectors), photo, present, LpcamParams(scales=(1.0,)))
    assert seed.classes.tolist() == [1, 3]
    np.testing.assert_allclose(seed.maps[0], similarity[present].relu().numpy(), atol=1e-5)


def test_bfloat16_is_close(model):
    photo = Photos(3).image("i00")
    vectors = torch.ones(len(CLASSES), model.head.in_channels)
    exact, rough = (
        seed_of_photo(model, lpcam(vectors), photo, [0], LpcamParams(scales=(1.0,), precision=p)).maps[0]
        for p in ("float32", "bfloat16")
    )
    assert rough.dtype == np.float32
    assert 0 < abs(exact - rough).max() < 0.05 * exact.max()


def model_input(model, photo):
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.mean, model.std))
    return (torch.from_numpy(photo.copy()).permute(2, 0, 1)[None] / 255 - mean) / std


# --- gathering -------------------------------------------------------------------------------------------------------


def test_gathered_rows_against_a_plain_loop(model, catalog, masks):
    for c in range(len(CLASSES)):
        expected, places = {"fg": [], "bg": []}, {"fg": [], "bg": []}
        for image_id in catalog.ids:
            if not catalog.label(image_id)[c]:
                continue
            seed = read_seed(masks, image_id)
            mask = full_size_maps(seed)[seed.classes.tolist().index(c)]
            with torch.no_grad():
                features = model.features(model_input(model, catalog.image(image_id)))[0]
            _, h, w = features.shape
            for row in range(h):
                for column in range(w):
                    value = mask[row * mask.shape[0] // h, column * mask.shape[1] // w]
                    side = "fg" if value > PARAMS.tau else "bg"
                    expected[side].append(features[:, row, column])
                    places[side].append((image_id, row, column))
        found = collect(model, catalog, masks, c, PARAMS)
        for side, points in zip(("fg", "bg"), found, strict=True):
            assert points.seen == len(points.rows) == len(expected[side])
            torch.testing.assert_close(points.rows, torch.stack(expected[side]), rtol=1e-4, atol=1e-5)
            assert [(points.ids[i], r, col) for i, r, col in points.where.tolist()] == places[side]


def test_split_is_strict_on_both_sides():
    mask = np.array([[0.0, 0.5], [0.25, 0.75]], np.float32)
    above, below = split_cells(mask, (2, 2), 0.5)
    assert above.tolist() == [[False, False], [False, True]]
    assert below.tolist() == [[True, False], [True, False]]


def test_a_mask_of_maps_that_are_read_as_they_are(tmp_path):
    """Maps that readers do not divide by their maximum (AMN's) part the cells by what they say."""
    maps = np.full((1, 4, 4), 0.03, np.float32)
    for absolute, level in ((True, 0.03), (False, 1)):
        path = tmp_path / f"{absolute}.h5"
        with StoreWriter(path, stage="maps", class_names=["cat", "dog"]) as writer:
            values, attrs = SeedMaps(np.array([1]), [maps], (16, 16), stride=4, absolute=absolute).pack()
            writer.write("a", values, **attrs)
        mask = class_mask(Store(path, stage="maps"), "a", 1, (16, 16))
        np.testing.assert_allclose(mask, level, rtol=0, atol=1e-3)


def test_mask_is_resized_by_nearest_neighbour():
    mask = np.random.default_rng(0).random((123, 133)).astype(np.float32)
    above, _ = split_cells(mask, (8, 9), 0.5)
    rows, columns = np.arange(8) * 123 // 8, np.arange(9) * 133 // 9
    assert np.array_equal(above.numpy(), mask[np.ix_(rows, columns)] > 0.5)


def test_neither_order_nor_workers_nor_other_images_decide(model, catalog, masks, prototypes):
    shuffled = Photos(0, [*catalog.ids[::-1]])
    without = Photos(0, [i for i in catalog.ids if catalog.label(i)[2]])
    for other, workers in ((shuffled, 1), (catalog, 3), (without, 1)):
        again = cluster_class(model, other, masks, 2, PARAMS, workers=workers)
        for side in ("foreground", "context"):
            one, two = getattr(prototypes[2], side), getattr(again, side)
            assert one.centres.tobytes() == two.centres.tobytes()
            assert one.score.tobytes() == two.score.tobytes()
        assert again.nearest == prototypes[2].nearest


def test_images_drawn_with_replacement(model, catalog, masks):
    params = PrototypeParams(clusters=4, tau=0.3, images_per_class=20)
    drawn = images_of_class(catalog, 1, params)
    positives = [i for i in catalog.ids if catalog.label(i)[1]]
    assert sum(drawn.values()) == 20 and set(drawn) <= set(positives) and max(drawn.values()) > 1
    assert drawn == images_of_class(Photos(0, catalog.ids[::-1]), 1, params)
    assert drawn != images_of_class(catalog, 1, PrototypeParams(images_per_class=20, seed=1))
    cells = dict.fromkeys(drawn, 0)
    points = collect(model, catalog, masks, 1, params)
    for side in points:
        for image in side.where[:, 0]:
            cells[side.ids[image]] += 1
    assert all(n % drawn[i] == 0 and n for i, n in cells.items())
    assert cluster_class(model, catalog, masks, 1, params).images == 20


@pytest.mark.parametrize("pieces", [[100], [1] * 100, [7, 0, 60, 33]])
def test_reservoir_does_not_depend_on_the_pieces(pieces):
    rows, where = torch.arange(200.0).reshape(100, 2), np.arange(300).reshape(100, 3)

    def run(sizes):
        reservoir, start = Reservoir(15, np.random.default_rng(4)), 0
        for size in sizes:
            reservoir.add(rows[start : start + size], where[start : start + size])
            start += size
            assert reservoir.points([], 2).rows.shape[0] == min(start, 15)
        return reservoir.points([], 2)

    found = run(pieces)
    assert found.seen == 100
    assert found.rows[:, 0].tolist() == (found.where[:, 0] / 3 * 2).tolist()  # rows and places stay together
    assert len(set(found.where[:, 0].tolist())) == 15
    assert sorted(found.where[:, 0].tolist()) == sorted(run([50, 50]).where[:, 0].tolist())


def test_reservoir_is_a_uniform_sample():
    rows, where = torch.zeros(40, 1), np.arange(40)[:, None] * np.ones((1, 3), int)
    counts = np.zeros(40)
    for seed in range(1500):
        reservoir = Reservoir(8, np.random.default_rng(seed))
        for start in range(0, 40, 10):
            reservoir.add(rows[start : start + 10], where[start : start + 10])
        counts[reservoir.points([], 1).where[:, 0]] += 1
    # Each count is binomial(1500, 1/5): 300 +- 15.5; five sigma.
    assert abs(counts - 300).max() < 78


def test_reservoir_keeps_everything_without_a_bound():
    rows, where = torch.rand(100, 2), np.arange(300).reshape(100, 3)
    reservoir = Reservoir(None, np.random.default_rng(0))
    for start in range(0, 100, 9):
        reservoir.add(rows[start : start + 9], where[start : start + 9])
    assert torch.equal(reservoir.points([], 2).rows, rows)


def test_bounded_gathering(model, catalog, masks):
    bounded = PrototypeParams(clusters=4, tau=0.3, max_points=10)
    one, again = (collect(model, catalog, masks, 1, bounded) for _ in range(2))
    everything = collect(model, catalog, masks, 1, PARAMS)
    for some, same, full in zip(one, again, everything, strict=True):
        assert len(some.rows) == 10 < full.seen == some.seen
        assert torch.equal(some.rows, same.rows)
        known = {tuple(place): row for place, row in zip(full.where.tolist(), full.rows, strict=True)}
        assert all(torch.equal(known[tuple(p)], r) for p, r in zip(some.where.tolist(), some.rows, strict=True))
    found = cluster_class(model, catalog, masks, 1, bounded)
    assert found.foreground.points == 10 < found.foreground.seen


# --- clustering and selection ----------------------------------------------------------------------------------------


def test_scores_are_those_of_an_image_that_looks_like_the_centre(model):
    centres = torch.rand(3, model.head.in_channels)
    with torch.no_grad():
        logits = model.head(centres[:, :, None, None])[:, :, 0, 0]
    scores = class_scores(centres, model.head.weight)
    np.testing.assert_allclose(scores.numpy(), torch.softmax(logits, 1).numpy(), rtol=1e-5)
    assert class_scores(torch.eye(2), torch.tensor([[0.0, 0], [200, 0]]))[0, 0] > 0  # no underflow


def test_clusters_of_a_class(model, prototypes, catalog):
    for c, one in enumerate(prototypes):
        assert one.class_name == CLASSES[c]
        assert one.images == sum(catalog.label(i)[c] for i in catalog.ids)
        for side in (one.foreground, one.context):
            assert side.centres.dtype == np.float32 and np.isfinite(side.centres).all()
            assert side.members.sum() == side.points == side.seen
            scores = class_scores(torch.from_numpy(side.centres), model.head.weight)[:, c]
            assert np.array_equal(side.score, scores.numpy())
            assert (side.score > 0).all() and (side.score < 1).all()


def test_nearest_cells_are_where_the_prototype_responds_most(model, catalog, masks, prototypes):
    foreground, _ = collect(model, catalog, masks, 1, PARAMS)
    one = prototypes[1]
    assert len(one.nearest) == len(one.foreground.centres)
    place = {(foreground.ids[i], r, c): row for row, (i, r, c) in enumerate(foreground.where.tolist())}
    cosine = functional.cosine_similarity(
        foreground.rows[:, None], torch.from_numpy(one.foreground.centres)[None], dim=-1
    ).numpy()
    owner = cosine.argmax(axis=1)
    for k, cells in enumerate(one.nearest):
        values = [cosine[place[tuple(cell)], k] for cell in cells]
        assert 1 <= len(cells) <= 5 and len({cell.image_id for cell in cells}) == len(cells)
        assert values == sorted(values, reverse=True)
        assert values[0] == pytest.approx(cosine[owner == k, k].max(), abs=1e-6)


def test_both_bounds_are_exclusive():
    found = of_scores([0.9, 0.90001, 0.99], [0.05, 0.06, 0.89, 0.9, 0.01])
    protos, context = select(found, SelectionParams())
    assert protos[:, 0].tolist() == [2, 3]
    assert context[:, 0].tolist() == [2, 3]


def test_fall_back():
    found = of_scores([0.2, 0.7, 0.3], [])
    assert select(found, SelectionParams())[0][:, 0].tolist() == [2]
    with pytest.raises(DataError, match=r"'ant'.*0\.7"):
        select(found, SelectionParams(fallback="error"))
    nothing = of_scores([], [0.5])
    assert len(select(nothing, SelectionParams(fallback="error"))[0]) == 0


def test_lpcam_f_leaves_the_context_out():
    found = of_scores([0.95], [0.5])
    assert len(select(found, SelectionParams())[1]) == 1
    assert len(select(found, SelectionParams(use_context=False))[1]) == 0


def test_presets_differ_in_the_published_ways():
    voc, coco, paper = (PRESETS[name] for name in ("voc", "coco", "paper"))
    assert voc.prototypes == paper.prototypes
    assert (voc.selection.context, paper.selection.context) == ((0.05, 0.9), (0.0, 0.9))
    assert (coco.prototypes.clusters, coco.prototypes.tau, coco.prototypes.images_per_class) == (20, 0.25, 100)
    assert coco.selection.context == (0.0, 0.5)


def test_config_entry_replaces_single_values_of_its_preset():
    entry = {"preset": "coco", "clusters": 7, "images_per_class": None, "mu_f": 0.8, "flip": False, "mask": "cam"}
    coco = PRESETS["coco"]
    assert prototype_params_from_config(entry) == replace(coco.prototypes, clusters=7, images_per_class=None)
    params = params_from_config({**entry, "scales": [1.0]})
    assert (params.mu_f, params.context, params.flip, params.scales) == (0.8, (0.0, 0.5), False, (1.0,))
    assert prototype_params_from_config({}) == PRESETS["voc"].prototypes
    assert params_from_config({"context": [0.1, 0.2]}).context == (0.1, 0.2)
    with pytest.raises(ConfigError, match="cocco"):
        params_from_config({"preset": "cocco"})


# --- files and whole runs --------------------------------------------------------------------------------------------


def test_round_trip(tmp_path, prototypes):
    empty = ClassPrototypes("nobody", *[Clusters(np.zeros((0, 9), np.float32), np.zeros(0), np.zeros(0, int))] * 2)
    with StoreWriter(tmp_path / "p.h5", stage="prototypes", class_names=CLASSES) as writer:
        for one in (*prototypes, empty):
            write_prototypes(writer, one.class_name, one)
    store = Store(tmp_path / "p.h5", stage="prototypes")
    for one in (*prototypes, empty):
        back = read_prototypes(store, one.class_name)
        assert (back.class_name, back.images, back.stride) == (one.class_name, one.images, one.stride)
        assert back.nearest == one.nearest
        for side in ("foreground", "context"):
            mine, theirs = vars(getattr(one, side)), vars(getattr(back, side))
            for name, value in mine.items():
                assert np.array_equal(theirs[name], value), name
                assert np.shape(theirs[name]) == np.shape(value)
    with pytest.raises(StoreError, match="dragon"):
        read_prototypes(store, "dragon")


def test_class_without_images_localises_to_zero(tmp_path, caplog, model, masks, prototypes):
    with caplog.at_level(logging.WARNING):
        nobody = cluster_class(model, Photos(0), masks, 1, PARAMS)
    assert "'bee'" in caplog.text and "no image" in caplog.text
    assert nobody.foreground.centres.shape == (0, model.head.in_channels)
    with StoreWriter(tmp_path / "p.h5", stage="prototypes", class_names=CLASSES) as writer:
        write_prototypes(writer, "bee", nobody)
    caplog.clear()
    stored = [prototypes[0], read_prototypes(Store(tmp_path / "p.h5"), "bee"), *prototypes[2:]]
    vectors = class_vectors(stored, KEEP_ALL)
    assert "'bee'" in caplog.text
    seed = seed_of_photo(model, lpcam(vectors), Photos(3).image("i01"), [0, 1], LpcamParams())
    assert seed.maps[0][0].any() and not any(m[1].any() for m in seed.maps)


def test_class_without_a_cell_above_tau(tmp_path, caplog, model, catalog, masks):
    blind = build_classifier("tiny", len(CLASSES), width=8, seed=3).eval()
    with torch.no_grad():
        blind.head.weight[1] = -1
    with StoreWriter(tmp_path / "maps.h5", stage="maps", class_names=CLASSES) as writer:
        extract_cams(blind, catalog, CamParams(scales=(1.0,)), writer)
    with caplog.at_level(logging.WARNING):
        found = cluster_class(model, catalog, Store(tmp_path / "maps.h5"), 1, PARAMS)
    assert "above tau" in caplog.text
    assert len(found.foreground.centres) == 0 and len(found.context.centres) == PARAMS.clusters
    assert not class_vectors([found], KEEP_ALL).any()


def test_a_whole_run(tmp_path, model, catalog, prototypes):
    params = LpcamParams(scales=(1.0, 0.5), mu_f=0.0, context=(0.0, 1.0))
    vectors = class_vectors(prototypes, params)
    assert vectors.shape == model.head.weight.shape[:2] and vectors.dtype == torch.float32
    seen = []
    with StoreWriter(tmp_path / "maps.h5", stage="maps", class_names=CLASSES) as writer:
        extract_lpcams(model, catalog, params, writer, vectors, progress=seen.append)
    store = Store(tmp_path / "maps.h5", stage="maps")
    assert store.ids == catalog.ids and sum(seen) == len(catalog.ids)
    for image_id in catalog.ids:
        seed, present = read_seed(store, image_id), np.flatnonzero(catalog.label(image_id))
        assert seed.classes.tolist() == present.tolist()
        assert all(m.min() >= 0 and m.max() <= 2 for m in seed.maps)
    # One class, one scale, by hand from the centres.
    photo = catalog.image("i01")
    c = int(np.flatnonzero(catalog.label("i01"))[0])
    x = model_input(model, photo)
    with torch.no_grad():
        total = model.features(x) + model.features(x.flip(-1)).flip(-1)
    chosen = [torch.from_numpy(side.centres) for side in (prototypes[c].foreground, prototypes[c].context)]
    expected = torch.relu(explicit_similarity(total[0], *chosen)).numpy()
    np.testing.assert_allclose(read_seed(store, "i01").maps[0][0], expected, atol=2e-3 * expected.max() + 1e-6)


# --- what a user can mend --------------------------------------------------------------------------------------------


def test_vectors_of_another_classifier_are_refused(tmp_path, model, catalog):
    with (
        pytest.raises(DataError, match="prototypes again"),
        StoreWriter(tmp_path / "maps.h5", stage="maps", class_names=CLASSES) as writer,
    ):
        extract_lpcams(model, catalog, LpcamParams(), writer, torch.zeros(len(CLASSES), 3))
    assert list(tmp_path.iterdir()) == []


def test_masks_of_other_classes_are_refused(tmp_path, model, catalog):
    with StoreWriter(tmp_path / "maps.h5", stage="maps", class_names=CLASSES[::-1]):
        pass
    with pytest.raises(DataError, match="other classes"):
        collect(model, catalog, Store(tmp_path / "maps.h5"), 0, PARAMS)


def test_absent_masks_are_named(model, masks):
    with pytest.raises(StoreError, match="i13"):
        collect(model, Photos(0, ["i13"]), masks, int(np.flatnonzero(Photos(0).label("i13"))[0]), PARAMS)


def test_mask_without_the_class_is_named(tmp_path, model, catalog):
    first = catalog.ids[1]
    seed = seed_of_photo(model, lpcam(torch.zeros(5, model.head.in_channels)), catalog.image(first), [], LpcamParams())
    with StoreWriter(tmp_path / "maps.h5", stage="maps", class_names=CLASSES) as writer:
        array, attrs = seed.pack()
        writer.write(first, array, **attrs)
    c = int(np.flatnonzero(catalog.label(first))[0])
    with pytest.raises(DataError, match=rf"{first}.*{CLASSES[c]}"):
        collect(model, Photos(0, [first]), Store(tmp_path / "maps.h5"), c, PARAMS)


def test_diverged_classifier_is_named(catalog, masks):
    model = build_classifier("tiny", len(CLASSES), width=8, seed=3).eval()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(DataError, match=r"i\d\d.*diverged"):
        collect(model, catalog, masks, 1, PARAMS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"clusters": 0},
        {"tau": 1.0},
        {"tau": 0.0},
        {"init": "best"},
        {"seed": -1},
        {"max_points": 0},
        {"images_per_class": 0},
        {"long_side": 0},
        {"tolerance_rule": "none"},
    ],
)
def test_wrong_prototype_parameters(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PrototypeParams(**wrong)


@pytest.mark.parametrize("wrong", [{"mu_f": 1.0}, {"context": (0.9, 0.1)}, {"context": (0.1,)}, {"fallback": "bset"}])
def test_wrong_selection_parameters(wrong):
    for kind in (SelectionParams, LpcamParams):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            kind(**wrong)
    with pytest.raises(ConfigError, match="scales"):
        LpcamParams(scales=())


def test_long_side_changes_the_grid(model, catalog, masks):
    small, large = (
        collect(model, catalog, masks, 1, PrototypeParams(tau=0.3, long_side=side))[0].seen for side in (None, 112)
    )
    assert large > 2 * small
