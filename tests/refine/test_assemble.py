"""Label maps from regions and saliency, against a loop over pixels."""

import itertools

import numpy as np
import pytest
from PIL import Image

from camflow.errors import ConfigError, DataError, StoreError
from camflow.localize.maps import full_size_maps, read_seed
from camflow.refine.assemble import (
    CONFLICTS,
    UNSALIENT,
    AssembleParams,
    MapSaliency,
    PngSaliency,
    assemble,
    assemble_maps,
    assemble_seed,
)
from camflow.store import Store, StoreWriter
from tests.localize.photos import CLASSES, Photos, seed_of, seed_store

# --- one image -------------------------------------------------------------------------------------------------------


def by_pixel(maps, classes, regions, saliency, low, params):
    """The rules, one pixel at a time."""
    labels = np.full(saliency.shape, 255, np.uint8)
    score = np.zeros(saliency.shape)
    sizes = [r.sum() for r in regions]
    for y, x in np.ndindex(*saliency.shape):
        owners = [k for k in range(len(classes)) if regions[k, y, x]]
        if not owners:
            if saliency[y, x] < low:
                labels[y, x], score[y, x] = 0, 1 - saliency[y, x]
            continue
        if len(owners) > 1:
            if params.conflicts == "ignore":
                continue
            key = (lambda k: sizes[k]) if params.conflicts == "smaller_region" else (lambda k: -maps[k, y, x])  # noqa: B023
            owners.sort(key=key)
        if params.unsalient == "foreground" or saliency[y, x] >= low:
            labels[y, x], score[y, x] = classes[owners[0]] + 1, maps[owners[0], y, x]
    return labels, score


@pytest.mark.parametrize(("conflicts", "unsalient"), list(itertools.product(CONFLICTS, UNSALIENT)))
def test_against_a_loop_over_pixels(conflicts, unsalient):
    params = AssembleParams(conflicts=conflicts, unsalient=unsalient)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        count = seed % 4
        maps = (rng.integers(0, 8, (count, 11, 13)) / 8).astype(np.float32)  # with ties
        classes = np.sort(rng.choice(20, count, replace=False))
        regions = maps > rng.choice([0.3, 0.5, 0.7], count)[:, None, None]
        saliency = rng.random((11, 13), np.float32)
        found = assemble(maps, classes, regions, saliency, 0.4, params)
        labels, score = by_pixel(maps, classes, regions, saliency, 0.4, params)
        assert found.labels.dtype == np.uint8
        assert found.confidence.dtype == np.float32
        np.testing.assert_array_equal(found.labels, labels)
        np.testing.assert_allclose(found.confidence, score, atol=1e-7)


def test_conflicts_by_hand():
    maps = np.array([[[0.9, 0.9, 0.9, 0.1]], [[0.1, 0.8, 0.1, 0.1]]], np.float32)
    regions = maps > 0.5
    saliency = np.array([[1, 1, 0, 0]], np.float32)

    def labels(**changes):
        return assemble(maps, np.array([4, 7]), regions, saliency, 0.12, AssembleParams(**changes)).labels[0].tolist()

    assert labels() == [5, 255, 5, 0]
    assert labels(conflicts="smaller_region") == [5, 8, 5, 0]
    assert labels(conflicts="max_heat") == [5, 5, 5, 0]
    assert labels(conflicts="max_heat", unsalient="ignore") == [5, 5, 255, 0]


def test_low_saliency_is_strictly_below_the_threshold():
    nothing = np.zeros((0, 1, 3), np.float32)
    saliency = np.array([[0.25, 0.5, 0.75]], np.float32)
    found = assemble(nothing, np.zeros(0, int), nothing > 0, saliency, 0.5, AssembleParams())
    assert found.labels.tolist() == [[0, 255, 255]]
    assert found.confidence.tolist() == [[0.75, 0, 0]]


def test_rooms_take_the_lower_threshold():
    params = AssembleParams(indoor_classes=("bee", "dog"))
    assert params.background_threshold([0, 2], CLASSES) == 0.12
    assert params.background_threshold([0, 3], CLASSES) == 0.06
    assert params.background_threshold([], CLASSES) == 0.12
    photos = Photos(7)
    saliency = {i: np.full(photos.size(i), 0.09, np.float32) for i in photos.ids}
    seen = set()
    for image_id in photos.ids:
        seed = seed_of(photos, image_id)
        labels = assemble_seed(seed, saliency[image_id], CLASSES, 0.6, params).labels
        indoor = bool({1, 3} & set(seed.classes.tolist()))
        outside = ~(full_size_maps(seed) > 0.6).any(axis=0)
        assert set(labels[outside]) == {255 if indoor else 0}
        seen.add(indoor)
    assert seen == {True, False}


@pytest.mark.parametrize(
    "wrong",
    [{"saliency_threshold": 1.2}, {"indoor_threshold": -0.1}, {"conflicts": "largest"}, {"unsalient": "background"}],
    ids=str,
)
def test_wrong_parameters(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        AssembleParams(**wrong)


# --- saliency --------------------------------------------------------------------------------------------------------


def test_seed_maps_as_saliency(tmp_path):
    photos = Photos(8)
    source = MapSaliency(seed_store(tmp_path / "maps.h5", photos))
    for image_id in photos.ids:
        found = source.saliency(image_id, photos.size(image_id))
        maps = full_size_maps(read_seed(source.store, image_id))
        assert found.dtype == np.float32
        assert found.shape == photos.size(image_id)
        np.testing.assert_array_equal(found, np.max(maps, axis=0) if len(maps) else 0)
    with pytest.raises(DataError, match="image 'i00'"):
        source.saliency("i00", (3, 3))
    with pytest.raises(StoreError, match="'nobody'"):
        source.saliency("nobody", (3, 3))


@pytest.mark.parametrize(
    ("dtype", "full"), [(np.uint8, 255), (np.uint16, 65535), (bool, 1)], ids=["8 bit", "16 bit", "1 bit"]
)
def test_grey_files(tmp_path, dtype, full):
    values = np.random.default_rng(0).integers(0, full, (6, 9), endpoint=True).astype(dtype)
    Image.fromarray(values).save(tmp_path / "a.png")
    found = PngSaliency(tmp_path).saliency("a", (6, 9))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, values / full, rtol=1e-6)


def test_files_that_cannot_be_used(tmp_path):
    source = PngSaliency(tmp_path)
    Image.fromarray(np.zeros((6, 9, 3), np.uint8)).save(tmp_path / "colour.png")
    Image.fromarray(np.zeros((6, 9), np.uint8)).save(tmp_path / "grey.png")
    whole = (tmp_path / "grey.png").read_bytes()
    (tmp_path / "torn.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    for name, message in (
        ("none", "does not exist"),
        ("colour", "mode RGB"),
        ("torn", "cannot be decoded"),
        ("empty", "cannot be decoded"),
    ):
        with pytest.raises(DataError, match=rf"{name}.png: .*{message}"):
            source.saliency(name, (6, 9))
    with pytest.raises(DataError, match=r"grey\.png: has 6x9 pixels, the photo has 9x6"):
        source.saliency("grey", (9, 6))


# --- a catalog -------------------------------------------------------------------------------------------------------


PARAMS = AssembleParams(saliency_threshold=0.4, indoor_threshold=0.2, indoor_classes=("ant",))


def run(folder, photos, jobs=1):
    """Assemble with the maps as their own saliency; the stores' paths."""
    maps = seed_store(folder / "maps.h5", photos)
    paths, done = (folder / f"{jobs}.h5", folder / f"{jobs}c.h5"), []
    with (
        StoreWriter(paths[0], stage="masks", class_names=CLASSES) as writer,
        StoreWriter(paths[1], stage="confidence", class_names=CLASSES) as confidence,
    ):
        options = {"confidence": confidence, "jobs": jobs, "progress": done.append}
        assemble_maps(maps, photos, MapSaliency(maps), PARAMS, 0.6, writer, **options)
    assert sum(done) == len(photos.ids)
    return paths


def test_a_catalog(tmp_path):
    photos = Photos(9)
    masks, scores = (Store(path) for path in run(tmp_path, photos))
    maps = Store(tmp_path / "maps.h5")
    assert masks.ids == photos.ids
    values = set()
    for image_id in photos.ids:
        seed = read_seed(maps, image_id)
        full = full_size_maps(seed)
        low = np.float32(0.2 if 0 in seed.classes else 0.4)
        saliency = full.max(axis=0, initial=0)
        labels, score = by_pixel(full, seed.classes, full > np.float32(0.6), saliency, low, PARAMS)
        np.testing.assert_array_equal(masks.read(image_id), labels)
        np.testing.assert_allclose(scores.read(image_id), 255 * score, atol=0.51)
        values |= set(np.unique(labels))
    assert {0, 255} < values
    assert not masks.read("i00").any()  # no class, hence nothing salient in its own maps


@pytest.mark.long
def test_files_do_not_depend_on_the_number_of_workers(tmp_path):
    one, two = (run(tmp_path, Photos(9), jobs) for jobs in (1, 2))
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]


def test_a_misspelt_indoor_class_is_found_at_once(tmp_path):
    photos = Photos(2)
    maps = seed_store(tmp_path / "maps.h5", photos)
    params = AssembleParams(indoor_classes=("bees",))
    with (
        pytest.raises(ConfigError, match="'bees'; did you mean 'bee'"),
        StoreWriter(tmp_path / "x.h5", stage="masks") as writer,
    ):
        assemble_maps(maps, photos, PngSaliency(tmp_path), params, 0.6, writer)
