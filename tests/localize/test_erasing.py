"""Adversarial erasing: the rules, the identity between seed maps and erased pixels, and a round against a plain loop."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from camflow.data.erased import ErasedStore, mean_pixel, pack_regions, unpack_regions
from camflow.errors import ConfigError, DataError, StoreError
from camflow.localize.cam import CamParams, extract_cams
from camflow.localize.erasing import RULES, ErasingParams, fused, heat, region, united, write_erased, write_fused
from camflow.localize.maps import SeedMaps, full_size_maps, normalise, read_seed
from camflow.models.classifier import build_classifier
from camflow.refine.threshold import winners
from camflow.store import Store, StoreWriter, join_shards
from tests.localize.photos import CLASSES, Photos

SCALES = (1.0, 0.5)
ALL = [ErasingParams(rule=rule) for rule in RULES]
OTHER = [
    ErasingParams(rule=rule, share=share) for rule in ("rel_max", "area") for share in (0.003, 0.25, 0.3, 0.75, 0.99)
]


def name_of(params):
    return f"{params.rule}-{params.value}"


# --- rules -----------------------------------------------------------------------------------------------------------


def plain_region(heatmap, rule, share):
    if rule == "area":
        ranked = sorted(heatmap.ravel().tolist(), reverse=True)
        last = ranked[max(1, round(share * len(ranked))) - 1]
        return np.array([[v >= last and v > 0 for v in row] for row in heatmap.tolist()])
    top = max(heatmap.ravel().tolist())
    return np.array([[v > share * top for v in row] for row in heatmap.tolist()])


def drawn(seed, kind, size=(9, 14)):
    """Heat with or without ties, or hardly above 0 anywhere; in no particular unit."""
    rng = np.random.default_rng(seed)
    values = {
        "smooth": rng.random(size) * 40,
        "ties": rng.integers(0, 6, size) / 5,
        "few": np.maximum(rng.random(size) - 0.95, 0),
        "close": 1 - rng.random(size) * 1e-3,
        "flat": np.full(size, 0.3),
    }[kind]
    return values.astype(np.float32)


KINDS = ("smooth", "ties", "few", "close", "flat")


@pytest.mark.parametrize("kind", ["smooth", "few"])
@pytest.mark.parametrize(("rule", "share"), [("rel_max", 0.8), ("cam20", 0.2), ("area", 0.2)])
def test_region_against_a_plain_loop(rule, share, kind):
    for seed in range(5):
        heatmap = drawn(seed, kind)
        np.testing.assert_array_equal(region(heatmap, ErasingParams(rule=rule)), plain_region(heatmap, rule, share))


def test_hand_made_regions():
    heatmap = np.array([[0, 1, 2, 3, 4], [5, 6, 7, 8, 10]], np.float32)
    assert region(heatmap, ErasingParams(rule="rel_max")).sum() == 1  # 8 is not above .8 * 10
    assert region(heatmap, ErasingParams(rule="rel_max", share=0.5)).sum() == 4
    assert region(heatmap, ErasingParams(rule="cam20")).sum() == 7
    assert np.flatnonzero(region(heatmap, ErasingParams(rule="area"))).tolist() == [8, 9]
    tied = np.array([[1, 1, 1, 0, 0, 0, 0, 0, 0, 0]], np.float32)
    assert region(tied, ErasingParams(rule="area")).sum() == 3  # all that are as hot as the last one due
    assert region(tied, ErasingParams(rule="area", share=0.9)).sum() == 3  # but none of heat 0


@pytest.mark.parametrize("params", ALL, ids=name_of)
def test_without_activation_nothing_is_erased(params):
    nothing = np.zeros((4, 5), np.float32)
    assert not region(nothing, params).any()
    assert not heat(nothing, params).any()


@pytest.mark.parametrize(
    "wrong", [{"rule": "rel_min"}, {"share": 0.0}, {"share": 1.0}, {"share": -0.1}, {"scales": ()}], ids=str
)
def test_wrong_parameters(wrong):
    with pytest.raises(ConfigError):
        ErasingParams(**wrong)


def test_shares_of_the_rules():
    assert [(p.kind, p.value, p.level) for p in ALL] == [
        ("maximum", 0.8, 0.8),
        ("maximum", 0.2, 0.2),
        ("pixels", 0.2, 0.5),
    ]


# --- heat ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("params", [*ALL, *OTHER], ids=name_of)
def test_heat_encodes_the_region_in_float16(params, kind):
    for seed in range(3):
        heatmap = drawn(seed, kind)
        found, inside = heat(heatmap, params), region(heatmap, params)
        np.testing.assert_array_equal(found > np.float32(params.level), inside)
        np.testing.assert_array_equal(found, found.astype(np.float16))
        assert found.max() == 1
        assert (np.diff(found.ravel()[heatmap.argsort(axis=None)]) >= 0).all()
        np.testing.assert_array_equal(normalise(found[None])[0] > np.float32(params.level), inside)


def test_heat_of_a_share_of_the_maximum_is_that_share():
    heatmap = drawn(3, "smooth", (30, 40))
    np.testing.assert_allclose(heat(heatmap, ErasingParams()), heatmap / heatmap.max(), rtol=2**-10)


# --- rounds ----------------------------------------------------------------------------------------------------------


def round_of(seed, classes=(0, 3), size=(37, 51)):
    """Raw maps at two scales; the last class is silent in every third round."""
    rng = np.random.default_rng(seed)
    maps = [np.maximum(rng.standard_normal((len(classes), *grid)), 0).astype(np.float32) for grid in ((3, 4), (5, 7))]
    if seed % 3 == 0:
        for part in maps:
            part[-1] = 0
    return SeedMaps(np.array(classes, int), maps if len(classes) else [], size)


@pytest.mark.parametrize("params", [*ALL, *OTHER], ids=name_of)
def test_cut_at_the_level_the_seed_map_is_the_union_of_all_rounds(params):
    rounds = [round_of(seed) for seed in range(1, 5)]
    expected = np.zeros((2, 37, 51), bool)
    seed, erased = None, None
    for now in rounds:
        expected |= np.stack([region(one, params) for one in full_size_maps(now)])
        seed, erased = SeedMaps.unpack(*fused(seed, now, params).pack()), united(erased, now, params)
        maps = full_size_maps(seed)
        np.testing.assert_array_equal(maps > np.float32(params.level), expected)
        np.testing.assert_array_equal(erased[1], expected)
        for one, mask in zip(maps, expected, strict=True):
            np.testing.assert_array_equal(winners(one[None], params.level) == 1, mask)
            if params.kind == "maximum":  # a seed map obeys the rule itself
                np.testing.assert_array_equal(region(one, params), mask)
    assert expected.any(axis=(1, 2)).all()
    assert params.value < 0.01 or params.rule == "area" or not expected.all()


def test_a_seed_map_is_the_largest_heat():
    params, rounds = ErasingParams(), [round_of(1), round_of(2)]
    seed = fused(fused(None, rounds[0], params), rounds[1], params)
    expected = np.maximum(*(full_size_maps(r) / full_size_maps(r).max(axis=(1, 2), keepdims=True) for r in rounds))
    np.testing.assert_allclose(full_size_maps(seed), expected, rtol=2**-10)


def test_a_class_that_is_silent_in_a_round_keeps_what_it_had():
    params, loud, silent = ErasingParams(), round_of(1), round_of(3)
    assert not silent.maps[0][-1].any()
    first = fused(None, loud, params)
    np.testing.assert_array_equal(fused(first, silent, params).maps[0][-1], first.maps[0][-1])
    assert not full_size_maps(fused(None, silent, params))[-1].any()


def test_an_image_without_classes():
    nobody = round_of(1, classes=())
    seed = fused(fused(None, nobody, ErasingParams()), nobody, ErasingParams())
    assert full_size_maps(SeedMaps.unpack(*seed.pack())).shape == (0, 37, 51)
    assert united(united(None, nobody, ErasingParams()), nobody, ErasingParams())[1].shape == (0, 37, 51)


def test_rounds_that_do_not_belong_together():
    params, now = ErasingParams(), round_of(1)
    with pytest.raises(ValueError, match=r"\[0, 3\], but were \[0, 4\]"):
        fused(fused(None, round_of(1, classes=(0, 4)), params), now, params)
    with pytest.raises(ValueError, match="another localizer"):
        fused(round_of(2), now, params)
    with pytest.raises(ValueError, match="but were"):
        united((np.array([1]), np.zeros((1, 37, 51), bool)), now, params)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_maps_that_are_not_finite_are_refused(bad):
    now = round_of(1)
    now.maps[1][0, 2, 3] = bad
    for make_round in (united, fused):
        with pytest.raises(ValueError, match="diverged"):
            make_round(None, now, ErasingParams())


# --- stores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 7, 8, 9, 16, 51])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_regions_come_back(tmp_path, width, count):
    regions = np.random.default_rng(width).random((count, 5, width)) < 0.5
    classes = np.arange(count) * 2
    packed, attrs = pack_regions(classes, regions)
    assert packed.dtype == np.uint8
    assert packed.shape == (count, 5, -(-width // 8))
    with StoreWriter(tmp_path / "erased.h5", stage="erased", class_names=CLASSES) as writer:
        writer.write("a", packed, **attrs)
    store = ErasedStore(tmp_path / "erased.h5")
    for found in (unpack_regions(packed, attrs), store.read("a"), store.read("a", (5, width))):
        assert found[0].tolist() == classes.tolist()
        assert found[1].dtype == bool
        np.testing.assert_array_equal(found[1], regions)
    np.testing.assert_array_equal(store.union("a"), regions.any(axis=0))
    with pytest.raises(DataError, match=rf"image 'a'.*5x{width} pixels, the photo has 5x{width + 1}"):
        store.union("a", (5, width + 1))
    with pytest.raises(StoreError, match="'b'"):
        store.union("b")


def test_regions_and_classes_must_match():
    with pytest.raises(ValueError, match="2 classes but 1"):
        pack_regions(np.array([1, 2]), np.zeros((1, 3, 3), bool))


def test_a_store_of_another_stage_is_refused(tmp_path):
    with StoreWriter(tmp_path / "maps.h5", stage="maps"):
        pass
    with pytest.raises(StoreError, match="erased"):
        ErasedStore(tmp_path / "maps.h5")


# --- a catalog -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models():
    return [build_classifier("tiny", len(CLASSES), width=12, seed=seed).eval() for seed in (3, 4)]


def make(folder, models, catalog, params, workers=1):
    """Stores of erased pixels and of maps after each round."""
    erased, maps = [None], [None]
    for number, model in enumerate(models, 1):
        paths = folder / f"erased{number}.h5", folder / f"maps{number}.h5"
        with StoreWriter(paths[0], stage="erased", class_names=CLASSES) as writer:
            write_erased(model, catalog, erased[-1], params, writer, workers=workers)
        with StoreWriter(paths[1], stage="maps", class_names=CLASSES) as writer:
            write_fused(model, catalog, erased[-1], maps[-1], params, writer, workers=workers)
        erased.append(ErasedStore(paths[0]))
        maps.append(Store(paths[1], stage="maps"))
    return erased[1:], maps[1:]


@pytest.mark.parametrize("rule", ["rel_max", "area"])
def test_maps_and_erased_pixels_of_two_rounds_agree(tmp_path, models, rule):
    catalog, params = Photos(8), ErasingParams(rule=rule, scales=SCALES)
    erased, maps = make(tmp_path, models, catalog, params)
    grown = 0
    for image_id in catalog.ids:
        gone = []
        for one, store in zip(erased, maps, strict=True):
            seed = read_seed(store, image_id)
            classes, regions = one.read(image_id, catalog.size(image_id))
            assert classes.tolist() == seed.classes.tolist() == np.flatnonzero(catalog.label(image_id)).tolist()
            np.testing.assert_array_equal(full_size_maps(seed) > np.float32(params.level), regions)
            gone.append(regions)
        assert not (gone[0] & ~gone[1]).any()
        grown += (gone[1] & ~gone[0]).sum()
    assert grown > 0


def test_the_first_round_mines_the_plain_cams(tmp_path, models):
    catalog = Photos(5)
    with StoreWriter(tmp_path / "cam.h5", stage="maps", class_names=CLASSES) as writer:
        extract_cams(models[0], catalog, CamParams(scales=SCALES), writer)
    cams = Store(tmp_path / "cam.h5")
    erased, _ = make(tmp_path, models[:1], catalog, ErasingParams(scales=SCALES))
    for image_id in catalog.ids:
        # Stored CAMs are rounded to float16: all but pixels at the very edge of the region agree.
        share = normalise(full_size_maps(read_seed(cams, image_id)))
        sure = np.abs(share - 0.8) > 2e-3
        np.testing.assert_array_equal((share > 0.8)[sure], erased[0].read(image_id)[1][sure])
        assert sure.sum() >= 0.95 * sure.size


def test_a_later_round_against_a_plain_loop(tmp_path, models):
    """Erase, normalise, zero, run, turn back, sum, enlarge, cut: written out with torch alone at scales 1 and 1/2."""
    catalog, model = Photos(6), models[1]
    erased, _ = make(tmp_path, models, catalog, ErasingParams(scales=SCALES))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.mean, model.std))
    for image_id in catalog.ids[1:]:
        classes, before = erased[0].read(image_id)
        gone, (height, width) = before.any(axis=0), catalog.size(image_id)
        photo = catalog.image(image_id).copy()
        photo[gone] = np.round(np.array(model.mean) * 255)
        total = 0
        for scale in SCALES:
            grid = round(width * scale), round(height * scale)
            small = np.array(Image.fromarray(photo).resize(grid, Image.Resampling.BICUBIC))
            hidden = np.array(Image.fromarray(gone.astype(np.uint8)).resize(grid, Image.Resampling.NEAREST)) > 0
            x = (torch.from_numpy(small).permute(2, 0, 1)[None] / 255 - mean) / std
            x[:, :, torch.from_numpy(hidden)] = 0
            with torch.no_grad():
                direct, mirror = (functional.conv2d(model.features(v), model.head.weight) for v in (x, x.flip(-1)))
            summed = (direct.relu() + mirror.relu().flip(-1))[:, classes]
            canvas = [-(-n // model.stride) * model.stride for n in (height, width)]
            total = total + functional.interpolate(summed, canvas, mode="bilinear")[0, :, :height, :width].numpy()
        share = total / total.max(axis=(1, 2), keepdims=True)
        sure = np.abs(share - 0.8) > 1e-4
        np.testing.assert_array_equal(((share > 0.8) | before)[sure], erased[1].read(image_id)[1][sure])
        assert sure.mean() > 0.99


@pytest.mark.parametrize("flip", [False, True])
def test_the_network_sees_exact_zeros(tmp_path, models, monkeypatch, flip):
    catalog, params = Photos(3), ErasingParams(scales=SCALES, flip=flip)
    erased, _ = make(tmp_path, models[:1], catalog, params)
    seen, run = [], models[1].score_maps
    monkeypatch.setattr(models[1], "score_maps", lambda x: seen.append(x.clone()) or run(x))
    with StoreWriter(tmp_path / "second.h5", stage="erased", class_names=CLASSES) as writer:
        write_erased(models[1], catalog, erased[0], params, writer)
    order = sorted((catalog.size(i), i) for i in catalog.ids if catalog.label(i).any())
    assert len(seen) == len(order) * len(SCALES)
    for number, (_, image_id) in enumerate(order):
        gone = erased[0].union(image_id)
        for x, scale in zip(seen[number * len(SCALES) :], SCALES, strict=False):
            grid = tuple(round(n * scale) for n in gone.shape)
            hidden = np.array(Image.fromarray(gone).resize(grid[::-1], Image.Resampling.NEAREST))
            views = [hidden, hidden[:, ::-1]] if flip else [hidden]
            assert x.shape == (len(views), 3, *grid)
            for view, mask in zip(x.numpy(), views, strict=True):
                assert mask.any()
                assert (view[:, mask] == 0).all()
                assert (view[:, ~mask] != 0).mean() > 0.99  # elsewhere a value is hardly ever the mean


def test_files_do_not_depend_on_workers_and_content_not_on_shards(tmp_path, models):
    catalog, params = Photos(9), ErasingParams(scales=SCALES)
    digests = []
    for workers in (1, 3):
        folder = tmp_path / str(workers)
        folder.mkdir()
        make(folder, models, catalog, params, workers)
        digests.append({p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()})
    assert digests[0] == digests[1]
    whole = ErasedStore(tmp_path / "1" / "erased2.h5")
    for k in range(2):
        part, folder = catalog.shard(k, 2), tmp_path / f"shard{k}"
        folder.mkdir()
        erased, _ = make(folder, models, part, params)
        for image_id in part.ids:
            np.testing.assert_array_equal(erased[-1].read(image_id)[1], whole.read(image_id)[1])
    join_shards(tmp_path / "index.h5", [tmp_path / f"shard{k}" / "erased1.h5" for k in range(2)])
    with StoreWriter(tmp_path / "again.h5", stage="erased", class_names=CLASSES) as writer:
        write_erased(models[1], catalog, ErasedStore(tmp_path / "index.h5"), params, writer, workers=3)
    assert hashlib.sha256((tmp_path / "again.h5").read_bytes()).hexdigest() == digests[0]["erased2.h5"]


def test_progress_counts_images(tmp_path, models):
    catalog, done = Photos(5), []
    with StoreWriter(tmp_path / "e.h5", stage="erased", class_names=CLASSES) as writer:
        write_erased(models[0], catalog, None, ErasingParams(scales=(1.0,)), writer, progress=done.append)
    assert sum(done) == 5


def test_errors_name_the_image(tmp_path, models):
    catalog, params = Photos(4), ErasingParams(scales=(1.0,))
    erased, maps = make(tmp_path, models[:1], catalog, params)

    def again(model, photos, before=None, earlier=None, write=write_erased):
        with StoreWriter(tmp_path / "x.h5", stage="erased", class_names=CLASSES) as writer:
            if write is write_fused:
                write(model, photos, before, earlier, params, writer)
            else:
                write(model, photos, before, params, writer)

    class Relabelled(Photos):
        def label(self, image_id):
            return np.ones(len(CLASSES), np.uint8)

    class Turned(Photos):
        def size(self, image_id):
            return super().size(image_id)[::-1]

    with pytest.raises(DataError, match=r"image 'i0\d'.*make that one again"):
        again(models[1], Relabelled(4), erased[0])
    with pytest.raises(DataError, match=r"image 'i0\d'.*make that one again"):
        again(models[1], Relabelled(4), erased[0], maps[0], write_fused)
    with pytest.raises(DataError, match=r"image 'i0\d'.*erase again"):
        again(models[1], Turned(4), erased[0])
    with pytest.raises(StoreError, match="'i04'"):
        again(models[1], Photos(5), erased[0])
    for stores in ((erased[0], None), (None, maps[0])):
        with pytest.raises(ConfigError, match="needs both"):
            again(models[1], catalog, *stores, write_fused)
    broken = build_classifier("tiny", len(CLASSES), width=12, seed=3).eval()
    torch.nn.init.constant_(broken.head.weight, float("inf"))
    with pytest.raises(DataError, match=r"image 'i0\d'.*diverged"):
        again(broken, catalog)
    assert not (tmp_path / "x.h5").exists()


def test_erased_photos_hold_the_rounded_mean(models):
    assert mean_pixel(models[0].mean).tolist() == [124, 116, 104]  # 123.675, 116.28, 103.53
