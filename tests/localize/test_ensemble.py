"""Ensembles of maps and of probabilities, against plain loops."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from camflow.errors import ConfigError, DataError, StoreError
from camflow.localize.ensemble import EnsembleParams, ensemble_confidence, ensemble_maps, ensemble_seed
from camflow.localize.maps import SeedMaps, full_size_maps, read_seed
from camflow.store import Store, StoreWriter
from tests.localize.photos import CLASSES, Photos


def member(catalog, image_id, number):
    """Raw maps of one member: strides 16 and 8, one or two scales, other units."""
    classes, (height, width) = np.flatnonzero(catalog.label(image_id)), catalog.size(image_id)
    stride, scales = (16, (1.0, 1.5)) if number != 1 else (8, (1.0,))
    rng = np.random.default_rng([number, int(image_id[1:])])
    grids = [(-(-round(height * s) // stride), -(-round(width * s) // stride)) for s in scales]
    maps = [(rng.random((len(classes), *grid)) * 10.0**number).astype(np.float32) for grid in grids]
    return SeedMaps(classes, maps if len(classes) else [], (height, width), stride=stride)


def maps_store(path, catalog, number, leave_out=()):
    with StoreWriter(path, stage="maps", class_names=catalog.class_names) as writer:
        for image_id in catalog.ids:
            if image_id not in leave_out:
                array, attrs = member(catalog, image_id, number).pack()
                writer.write(image_id, array, **attrs)
    return Store(path, stage="maps")


def expected(seeds, grid):
    """One class and one cell at a time."""
    out = np.zeros((len(seeds[0].classes), *grid))
    for seed in seeds:
        for c in range(len(seed.classes)):
            scales = [torch.from_numpy(m[c].astype(np.float64))[None, None] for m in seed.maps]
            sized = [functional.interpolate(m, size=grid, mode="bilinear", align_corners=False) for m in scales]
            total = sum(sized)[0, 0].numpy()
            out[c] += total / (max(total.ravel().tolist()) + 1e-5)
    return out / len(seeds)


@pytest.mark.parametrize("grid", ["first", "finest"])
def test_a_store_of_several_members_is_the_mean_of_their_maps(tmp_path, grid):
    catalog = Photos(9)
    stores = [maps_store(tmp_path / f"{n}.h5", catalog, n) for n in range(3)]
    done = []
    with StoreWriter(tmp_path / "all.h5", stage="maps", class_names=CLASSES) as writer:
        ensemble_maps(stores, catalog, writer, EnsembleParams(grid), progress=done.append)
    assert sum(done) == 9
    store = Store(tmp_path / "all.h5", stage="maps")
    assert store.ids == catalog.ids
    for image_id in catalog.ids:
        seeds = [read_seed(s, image_id) for s in stores]
        found = read_seed(store, image_id)
        np.testing.assert_array_equal(found.classes, np.flatnonzero(catalog.label(image_id)))
        assert found.size == catalog.size(image_id)
        if not len(found.classes):
            assert not found.maps
            continue
        finest = seeds[0].maps[1].shape[1:] if grid == "first" else seeds[1].maps[0].shape[1:]
        assert found.maps[0].shape[1:] == finest
        assert found.stride == (16 if grid == "first" else 8)
        np.testing.assert_allclose(found.maps[0], expected(seeds, finest), atol=1e-3)  # float16
        assert full_size_maps(found).shape == (len(found.classes), *found.size)


def test_one_member_is_itself_and_units_do_not_matter():
    catalog = Photos(3)
    seed = member(catalog, "i01", 0)
    grid = seed.maps[1].shape[1:]
    one = ensemble_seed([seed], EnsembleParams())
    np.testing.assert_allclose(one.maps[0], expected([seed], grid), atol=1e-6)
    louder = SeedMaps(seed.classes, [m * 1000 for m in seed.maps], seed.size, stride=16)
    other = member(catalog, "i01", 2)
    a, b = (ensemble_seed([first, other], EnsembleParams()).maps[0] for first in (seed, louder))
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_a_member_that_sees_nothing_counts_as_zero():
    seed = member(Photos(2), "i01", 0)
    blind = SeedMaps(seed.classes, [m * 0 for m in seed.maps], seed.size, stride=16)
    half, whole = (ensemble_seed(seeds, EnsembleParams()).maps[0] for seeds in ([seed, blind], [seed]))
    np.testing.assert_allclose(half, whole / 2, atol=1e-7)


def test_mean_probabilities(tmp_path):
    catalog = Photos(4)
    stores, given = [], np.random.default_rng(3).random((3, 4, len(CLASSES)), np.float32)
    for n, rows in enumerate(given):
        with StoreWriter(tmp_path / f"{n}.h5", stage="confidence", class_names=CLASSES) as writer:
            for image_id, row in zip(catalog.ids, rows, strict=True):
                writer.write(image_id, row)
        stores.append(Store(tmp_path / f"{n}.h5", stage="confidence"))
    with StoreWriter(tmp_path / "all.h5", stage="confidence", class_names=CLASSES) as writer:
        ensemble_confidence(stores, catalog, writer)
    store = Store(tmp_path / "all.h5")
    for i, image_id in enumerate(catalog.ids):
        assert store.read(image_id).dtype == np.float32
        by_hand = [sum(given[n, i, c].item() for n in range(3)) / 3 for c in range(len(CLASSES))]
        np.testing.assert_allclose(store.read(image_id), by_hand, atol=1e-6)


def test_what_does_not_fit_together_is_named(tmp_path):
    catalog = Photos(4)
    stores = [maps_store(tmp_path / "a.h5", catalog, 0), maps_store(tmp_path / "b.h5", catalog, 1, leave_out=("i02",))]

    def put_together(members, photos=catalog):
        with StoreWriter(tmp_path / "all.h5", stage="maps", class_names=CLASSES) as writer:
            ensemble_maps(members, photos, writer)

    with pytest.raises(StoreError, match="i02"):
        put_together(stores)
    with pytest.raises(ConfigError, match="at least one member"):
        put_together([])
    with StoreWriter(tmp_path / "c.h5", stage="maps", class_names=CLASSES[::-1]) as writer:
        writer.write("i00", np.zeros((0, 0), np.float16))
    with pytest.raises(DataError, match="one dataset"):
        put_together([stores[0], Store(tmp_path / "c.h5")])
    relabelled = Photos(4)
    relabelled.label = lambda image_id: np.roll(Photos.label(relabelled, image_id), 1)
    other = maps_store(tmp_path / "d.h5", relabelled, 0)
    with pytest.raises(DataError, match=r"image 'i01'.*classes"):
        put_together([stores[0], other])
    with pytest.raises(ConfigError, match="did you mean 'finest'"):
        EnsembleParams("fines")
    assert not (tmp_path / "all.h5").exists()
