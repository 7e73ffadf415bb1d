"""CAM over a catalog: what it computes, and that nothing but the photo decides it."""

import hashlib

import numpy as np
import pytest
import torch
from torch.nn import functional

from camflow.errors import ConfigError, DataError
from camflow.localize.cam import CamParams, cam, extract_cams
from camflow.localize.extract import (
    Batch,
    frame_size,
    load_batch,
    localize_batch,
    normalisation_table,
    numerics,
    plan_batches,
    rescale,
    seed_of_photo,
    to_views,
)
from camflow.localize.maps import read_seed
from camflow.models.classifier import build_classifier
from camflow.store import Store, StoreWriter
from tests.localize.photos import CLASSES, Photos

PARAMS = CamParams(scales=(1.0, 0.5, 1.5))


@pytest.fixture(scope="module")
def model():
    return build_classifier("tiny", len(CLASSES), width=12, seed=3).eval()


def extract(path, model, catalog, **options):
    with StoreWriter(path, stage="maps", class_names=CLASSES) as writer:
        extract_cams(model, catalog, options.pop("params", PARAMS), writer, **options)
    return Store(path, stage="maps")


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def content(*stores):
    return {
        i: (s.read(i).tobytes(), {k: np.asarray(v).tobytes() for k, v in s.attrs(i).items()})
        for s in stores
        for i in s.ids
    }


def test_against_a_plain_loop(tmp_path, model):
    catalog = Photos(9)
    store = extract(tmp_path / "maps.h5", model, catalog)
    assert store.ids == catalog.ids
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.mean, model.std))
    for image_id in catalog.ids:
        seed, present = read_seed(store, image_id), np.flatnonzero(catalog.label(image_id))
        assert seed.classes.tolist() == present.tolist()
        assert seed.size == catalog.size(image_id)
        assert len(seed.maps) == (3 if len(present) else 0)
        for maps, scale in zip(seed.maps, PARAMS.scales, strict=False):
            photo = rescale(catalog.image(image_id), seed.size, scale)
            x = (torch.from_numpy(photo.copy()).permute(2, 0, 1)[None] / 255 - mean) / std
            with torch.no_grad():
                direct, mirror = (functional.conv2d(model.features(v), model.head.weight) for v in (x, x.flip(-1)))
            expected = (direct.relu() + mirror.relu().flip(-1))[0, present].numpy()
            np.testing.assert_allclose(maps, expected, atol=2e-3 * expected.max())


def test_file_does_not_depend_on_batch_size_or_workers(tmp_path, model):
    catalog = Photos(14)
    runs = {}
    for batch_size, workers in ((1, 1), (8, 1), (3, 4)):
        path = tmp_path / f"{batch_size}-{workers}.h5"
        extract(path, model, catalog, batch_size=batch_size, workers=workers)
        runs[path] = digest(path)
    assert len(set(runs.values())) == 1


def test_content_does_not_depend_on_shards_threads_or_other_images(tmp_path, model):
    catalog = Photos(14)
    whole = content(extract(tmp_path / "all.h5", model, catalog))
    for count in (2, 3):
        parts = [extract(tmp_path / f"{count}-{k}.h5", model, catalog.shard(k, count)) for k in range(count)]
        assert content(*parts) == whole
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert content(extract(tmp_path / "threads.h5", model, catalog, workers=2)) == whole
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_batched_run_agrees_with_single_images(model):
    """What a GPU does, on the CPU: images of one size together, some of them without a class."""
    catalog, size = Photos(24), (40, 56)
    ids = [i for i in catalog.ids if catalog.size(i) == size]
    table = normalisation_table(model.mean, model.std)
    batch = load_batch(catalog, ids, size, PARAMS)
    assert any(not len(c) for c in batch.classes)
    assert len({len(c) for c in batch.classes}) > 1
    for image_id, seed in zip(ids, localize_batch(model, cam, batch, PARAMS, table), strict=True):
        alone = seed_of_photo(model, cam, catalog.image(image_id), np.flatnonzero(catalog.label(image_id)), PARAMS)
        assert seed.classes.tolist() == alone.classes.tolist()
        for together, single in zip(seed.maps, alone.maps, strict=True):
            np.testing.assert_allclose(together, single, atol=1e-5 * max(1, single.max()))


def test_batches_hold_one_size_and_list_images_in_one_order():
    catalog = Photos(40)
    plans = [plan_batches(catalog.ids, catalog.sizes, n) for n in (1, 4, 100)]
    for plan, limit in zip(plans, (1, 4, 100), strict=True):
        assert all(catalog.size(i) == size for size, ids in plan for i in ids)
        assert max(len(ids) for _, ids in plan) <= limit
    orders = [[i for _, ids in plan for i in ids] for plan in plans]
    assert orders[0] == orders[1] == orders[2]
    assert sorted(orders[0]) == catalog.ids
    assert len(plans[2]) == 3


def test_views():
    table = normalisation_table((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    photo = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    views = to_views(torch.from_numpy(photo)[None], table, flip=True)
    expected = ((photo / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).astype(np.float32).transpose(2, 0, 1)
    assert np.array_equal(views[0, 0].numpy(), expected)
    assert np.array_equal(views[0, 1].numpy(), expected[..., ::-1])
    assert to_views(torch.from_numpy(photo)[None], table, flip=False).shape == (1, 1, 3, 7, 9)


def test_mirror_image_has_the_mirrored_map(model):
    photo = Photos(3).image("i01")
    wide = np.ascontiguousarray(np.pad(photo, ((0, 15), (0, 1), (0, 0)))[:48, :48])  # whole cells: exact mirror
    params = CamParams(scales=(1.0,))
    one, other = (seed_of_photo(model, cam, p, [0, 1, 2], params).maps[0] for p in (wide, wide[:, ::-1]))
    np.testing.assert_allclose(one, other[..., ::-1], atol=1e-4)


def test_without_mirror(model):
    photo = Photos(3).image("i01")
    maps = seed_of_photo(model, cam, photo, range(5), CamParams(scales=(1.0,), flip=False)).maps[0]
    table = normalisation_table(model.mean, model.std)
    with torch.no_grad():
        direct = model.score_maps(to_views(torch.from_numpy(photo)[None], table, False)[:, 0]).relu()[0]
    np.testing.assert_allclose(maps, direct.numpy(), atol=1e-5)


def test_long_side():
    assert frame_size((375, 500), None) == (375, 500)
    assert frame_size((375, 500), 320) == (240, 320)
    assert frame_size((500, 3), 100) == (100, 1)


def test_long_side_keeps_the_size_of_the_photo(model):
    seed = seed_of_photo(model, cam, Photos(3).image("i00"), [1], CamParams(scales=(1.0,), long_side=112))
    assert seed.size == (40, 56)
    assert seed.frame == (80, 112)
    assert seed.maps[0].shape == (1, 10, 14)


def test_bfloat16_is_close_but_not_the_same(model):
    photo = Photos(3).image("i00")
    exact, rough = (
        seed_of_photo(model, cam, photo, range(5), CamParams(scales=(1.0,), precision=p)).maps[0]
        for p in ("float32", "bfloat16")
    )
    assert rough.dtype == np.float32
    assert not np.array_equal(exact, rough)
    assert abs(exact - rough).max() < 0.05 * exact.max()


def test_settings_of_torch_are_restored():
    threads = torch.get_num_threads()
    with numerics(torch.device("cpu"), "tf32"):
        assert torch.backends.cudnn.allow_tf32
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == threads
    assert not torch.backends.cuda.matmul.allow_tf32


def test_one_pixel_photo(model):
    seed = seed_of_photo(model, cam, np.zeros((1, 1, 3), np.uint8), [0, 1], PARAMS)
    assert [m.shape for m in seed.maps] == [(2, 1, 1)] * 3


def test_empty_catalog(tmp_path, model):
    assert extract(tmp_path / "none.h5", model, Photos(0)).ids == []


def test_progress_counts_every_image(tmp_path, model):
    seen = []
    extract(tmp_path / "maps.h5", model, Photos(5), progress=seen.append)
    assert sum(seen) == 5


def test_wrong_classes_are_refused(tmp_path):
    with pytest.raises(DataError, match="3 classes"):
        extract(tmp_path / "maps.h5", build_classifier("tiny", 3, width=8), Photos(2))
    model = build_classifier("tiny", 5, width=8)
    model.class_names = CLASSES[::-1]
    with pytest.raises(DataError, match="elk"):
        extract(tmp_path / "maps.h5", model, Photos(2))
    assert list(tmp_path.iterdir()) == []


def test_diverged_classifier_is_named(tmp_path):
    model = build_classifier("tiny", 5, width=8)
    torch.nn.init.constant_(model.head.weight, float("nan"))
    with pytest.raises(DataError, match=r"i01.*diverged"):
        extract(tmp_path / "maps.h5", model, Photos(2))


def test_photo_of_another_size_is_named(model):
    with pytest.raises(DataError, match="i01"):
        load_batch(Photos(3), ["i01"], (9, 9), PARAMS)
    assert isinstance(load_batch(Photos(3), ["i01"], (33, 47), PARAMS), Batch)


@pytest.mark.parametrize("wrong", [{"scales": ()}, {"scales": (0.0,)}, {"long_side": 0}, {"precision": "float16"}])
def test_wrong_parameters(wrong):
    with pytest.raises(ConfigError):
        CamParams(**wrong)
