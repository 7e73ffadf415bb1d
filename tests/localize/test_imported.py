"""Maps of other codes as seed maps: every form of file, what is refused and how it is told."""

import numpy as np
import pytest
import torch
from PIL import Image

from camflow.data.interchange import MapFolder, by_class, class_keys
from camflow.errors import ConfigError, DataError
from camflow.localize.imported import ImportParams, grid_stride, import_maps
from camflow.localize.maps import full_size_maps, read_seed, stride4_maps
from camflow.store import Store, StoreWriter

NAMES = ["cat", "dog", "potted_plant"]
SIZE = (10, 14)
RNG = np.random.default_rng(1)
SCORES = {index: RNG.random(SIZE).astype(np.float32) for index in range(3)}
LABELS = {"a": [0, 2], "b/c_d": [1], "none": []}


class Images:
    """A catalog of made images."""

    class_names = NAMES

    def __init__(self, labels=None, size=SIZE):
        self.labels = labels or LABELS
        self.ids = sorted(self.labels)
        self.sizes = np.array([size] * len(self.ids), np.int32)

    def label(self, image_id):
        return np.isin(np.arange(len(NAMES)), self.labels[image_id]).astype(np.uint8)


def imported(folder, images=None, **params):
    images = images or Images()
    with StoreWriter(folder.parent / "maps.h5", stage="maps", class_names=NAMES) as writer:
        import_maps(images, ImportParams(str(folder), **params), writer)
    store = Store(folder.parent / "maps.h5", stage="maps")
    return {image_id: read_seed(store, image_id) for image_id in store.ids}


def write(folder, form, classes="index"):
    """Every image's maps in a form, by the plain calls that other codes use."""
    called = {index: key for key, index in class_keys(NAMES, classes).items() if index >= 0}
    key = (lambda index: called[index]) if classes == "name" else (lambda index: int(called[index]))
    for image_id, present in LABELS.items():
        if not present:
            continue
        for path in (folder / image_id, *(folder / called[n] / image_id for n in present)):
            path.parent.mkdir(parents=True, exist_ok=True)
        stacked = np.stack([SCORES[n] for n in present])
        if form == "npy":
            np.save(folder / f"{image_id}.npy", {key(n): SCORES[n] for n in present})
        elif form == "present":
            np.save(folder / f"{image_id}.npy", stacked)
        elif form == "all":
            np.save(folder / f"{image_id}.npy", np.stack(list(SCORES.values())))
        elif form == "with background":
            np.save(folder / f"{image_id}.npy", np.stack([SCORES[0] * 0 + 9, *SCORES.values()]))
        elif form == "irn":
            cam = torch.from_numpy(stacked[:, ::4, ::4].copy())
            np.save(folder / f"{image_id}.npy", {"keys": torch.tensor(present), "cam": cam, "high_res": stacked})
        elif form == "npz":
            np.savez(folder / f"{image_id}.npz", **{called[n]: SCORES[n] for n in present})
        else:
            for n in present:
                name = f"{image_id}_{called[n]}" if form.startswith("png16") else f"{called[n]}/{image_id}"
                grey = np.rint(SCORES[n] * (65535 if form.startswith("png16") else 255))
                Image.fromarray(grey.astype(np.uint16 if form.startswith("png16") else np.uint8)).save(
                    folder / f"{name}.png"
                )
    return folder


# form -> how it is read, largest error of a map
FORMS = {
    "npy": ({"format": "npy"}, 5e-4),
    "present": ({"format": "npy"}, 5e-4),
    "all": ({"format": "npy"}, 5e-4),
    "irn": ({"format": "npy"}, 5e-4),
    "npz": ({"format": "npz"}, 5e-4),
    "png16": ({"format": "png"}, 6e-4),
    "png8": ({"format": "png_folder"}, 5e-3),
}


@pytest.mark.parametrize("classes", ["index", "label", "name"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_maps(tmp_path, form, classes):
    params, error = FORMS[form]
    found = imported(write(tmp_path / "maps", form, classes), classes=classes, **params)
    assert {image_id: seed.classes.tolist() for image_id, seed in found.items()} == LABELS
    for seed in found.values():
        assert (seed.size, seed.frame, seed.stride) == (SIZE, SIZE, 1)
        for index, one in zip(seed.classes, full_size_maps(seed), strict=True):
            assert np.abs(one - SCORES[index]).max() < error


def test_an_array_with_the_background_in_front(tmp_path):
    found = imported(write(tmp_path / "maps", "with background"), classes="label")
    assert np.allclose(full_size_maps(found["b/c_d"])[0], SCORES[1], atol=1e-3)
    np.save(tmp_path / "maps/a.npy", {0: SCORES[1], 1: SCORES[0], 3: SCORES[2]})
    seed = imported(tmp_path / "maps", classes="label")["a"]
    assert np.allclose(full_size_maps(seed)[1], SCORES[2], atol=1e-3)


def test_the_quarter_size_array_of_irn_is_read_cell_by_cell(tmp_path):
    seed = imported(write(tmp_path / "maps", "irn"), array="cam")["a"]
    assert seed.stride == 4 and seed.maps[0].shape == (2, 3, 4)
    cells = np.stack([SCORES[n][::4, ::4] for n in (0, 2)])
    assert np.allclose(stride4_maps(seed), cells, atol=1e-3)


def brute_stride(grid, size):
    fits = [s for s in range(1, 200) if tuple(-(-n // s) for n in size) == tuple(grid)]
    powers = [s for s in fits if s in (1, 2, 4, 8, 16, 32, 64, 128)]
    return (powers or fits or [None])[0]


def test_strides_of_grids():
    rng = np.random.default_rng(2)
    for size in [(375, 500), (1, 1), (7, 1), *rng.integers(1, 120, (30, 2)).tolist()]:
        for grid in [
            *(tuple(-(-n // s) for n in size) for s in (1, 2, 3, 8, 16, 77)),
            *rng.integers(1, 40, (5, 2)).tolist(),
        ]:
            assert grid_stride(grid, size) == brute_stride(grid, size), (grid, size)
    assert grid_stride((24, 32), (375, 500)) == 16 and grid_stride((41, 41), (375, 500)) is None
    assert grid_stride((41, 41), (375, 500), stretch=True) == 1


def test_a_stretched_map_covers_the_photo(tmp_path):
    """A ramp of 5 cells over 14 pixels, by torch's bilinear resizing."""
    (tmp_path / "maps").mkdir()
    ramp = np.tile(np.arange(1, 6, dtype=np.float32), (3, 1))
    np.save(tmp_path / "maps/a.npy", {1: ramp})  # 1 to 5
    images = Images({"a": [1]})
    with pytest.raises(DataError, match="maps are 3x5, the photo is 10x14"):
        imported(tmp_path / "maps", images)
    with pytest.raises(DataError, match="go from 1 to 5, not from 0 to 1"):
        imported(tmp_path / "maps", images, stretch=True)
    found = full_size_maps(imported(tmp_path / "maps", images, stretch=True, normalise="max")["a"])[0]
    wanted = torch.nn.functional.interpolate(torch.from_numpy(ramp)[None, None], size=SIZE, mode="bilinear")[0, 0]
    assert np.allclose(found, wanted / wanted.max(), atol=1e-3)


def test_scores_are_kept_however_large_their_maximum(tmp_path):
    """Not divided by it: what an outside code calls 0.3 stays below a threshold of 0.35."""
    (tmp_path / "maps").mkdir()
    for peak in (1.0, 0.99999, 0.97, 0.3, 1e-3):
        np.save(tmp_path / "maps/a.npy", {1: SCORES[1] / SCORES[1].max() * np.float32(peak)})
        found = full_size_maps(imported(tmp_path / "maps", Images({"a": [1]}))["a"])[0]
        assert np.allclose(found, SCORES[1] / SCORES[1].max() * peak, rtol=1e-3, atol=1e-6), peak


def test_negative_values(tmp_path):
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps/a.npy", {1: SCORES[1] - 0.5})
    images = Images({"a": [1]})
    with pytest.raises(DataError, match=r"go from -0\.483 to 0\.4\d+, not from 0 to 1"):
        imported(tmp_path / "maps", images)
    clipped = full_size_maps(imported(tmp_path / "maps", images, normalise="max")["a"])[0]
    assert np.allclose(clipped, np.maximum(SCORES[1] - 0.5, 0) / (SCORES[1] - 0.5).max(), atol=1e-3)
    ranged = full_size_maps(imported(tmp_path / "maps", images, normalise="min_max")["a"])[0]
    assert np.allclose(ranged, (SCORES[1] - SCORES[1].min()) / np.ptp(SCORES[1]), atol=1e-3)


def test_what_is_missing_may_be_zeros(tmp_path):
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps/a.npy", {0: SCORES[0]})
    with pytest.raises(DataError) as raised:
        imported(tmp_path / "maps")
    message = str(raised.value)
    assert "maps of 2 images cannot be taken" in message and "image 'a': has no map of potted_plant" in message
    assert f"image 'b/c_d': has no file {tmp_path}/maps/b/c_d.npy" in message
    assert not (tmp_path / "maps.h5").exists()
    found = imported(tmp_path / "maps", missing="zeros")
    assert full_size_maps(found["a"])[0].max() > 0.9 and not found["a"].maps[0][1].any()
    assert not full_size_maps(found["b/c_d"]).any() and full_size_maps(found["b/c_d"]).shape == (1, *SIZE)


BAD = {
    "NaN": ({0: SCORES[0], 1: np.full(SIZE, np.nan)}, {}, "NaN or infinite"),
    "wrong shape": ({0: SCORES[0][:, :9], 1: SCORES[1][:, :9]}, {}, "maps are 10x9, the photo is 10x14"),
    "two shapes": ({0: SCORES[0], 1: SCORES[1][:5]}, {}, r"shapes \(5, 14\), \(10, 14\)"),
    "three dimensions": ({1: SCORES[1][None], 0: SCORES[0][None]}, {}, r"shapes \(1, 10, 14\)"),
    "a class that is not there": (
        {0: SCORES[0], 1: SCORES[1], 2: SCORES[2]},
        {},
        "maps of potted_plant, which its labels",
    ),
    "no class": ({0: SCORES[0], 7: SCORES[1]}, {}, "has 7, which names no class; the 3 classes are called 0, 1, 2"),
    "a name": ({"cat": SCORES[0], "dgo": SCORES[1]}, {"classes": "name"}, "has dgo, which names no class"),
    "text": ({0: SCORES[0], 1: np.full(SIZE, "x")}, {}, "not of numbers"),
    "too many maps": (np.zeros((5, *SIZE)), {}, r"shape \(5, 10, 14\); expected \(2, H, W\)"),
    "no such array": ({"keys": [0, 1], "cam": np.zeros((2, 3, 4))}, {}, "no 'high_res' .but keys, cam."),
    "keys without maps": ({"keys": [0, 1], "high_res": np.zeros((1, *SIZE))}, {}, "for 2 keys"),
    "a list": ([1, 2], {}, r"holds .*expected|shape \(2,\)"),
}


@pytest.mark.parametrize(("content", "params", "message"), BAD.values(), ids=BAD)
def test_bad_files_are_refused_by_name(tmp_path, content, params, message):
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps/a.npy", content)
    with pytest.raises(DataError, match=rf"image 'a': .*{message}"):
        imported(tmp_path / "maps", Images({"a": [0, 1]}), **params)
    assert not (tmp_path / "maps.h5").exists()


def test_classes_that_are_not_there_may_be_dropped(tmp_path):
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps/a.npy", SCORES)
    seed = imported(tmp_path / "maps", Images({"a": [1]}), extra="drop")["a"]
    assert seed.classes.tolist() == [1] and np.allclose(full_size_maps(seed)[0], SCORES[1], atol=1e-3)


def test_pictures_are_found_by_name_however_many_lines_are_in_it(tmp_path):
    """`a_potted_plant.png` is the plant of `a`, and `a_b_cat.png` may be of `a_b` only."""
    folder = tmp_path / "maps"
    folder.mkdir()
    for name in ("a_potted_plant", "a_b_cat", "a_b_dog", "stray", "a_unknown"):
        Image.fromarray(np.full(SIZE, len(name), np.uint8)).save(folder / f"{name}.png")
    found = MapFolder(folder, "png", NAMES, classes="name")
    assert sorted(found.read("a", [2])) == [2] and sorted(found.read("a_b", [0, 1])) == [0, 1]
    assert found.read("stray", [0]) is None
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(folder / "a_cat.png")
    with pytest.raises(DataError, match=r"a_cat\.png: a score map is a grey image, this file has mode RGB"):
        imported(folder, Images({"a": [0, 2]}), format="png", classes="name")
    (folder / "a_cat.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"a_cat\.png: cannot be decoded"):
        imported(folder, Images({"a": [0, 2]}), format="png", classes="name")


def test_wrong_parameters(tmp_path):
    with pytest.raises(ConfigError, match="there is no folder"):
        imported(tmp_path / "maps")
    for key in ("format", "classes", "array", "normalise", "missing", "extra"):
        with pytest.raises(ConfigError, match=f"{key}: unknown 'x'"):
            ImportParams("f", **{key: "x"})
    (tmp_path / "maps").mkdir()
    with pytest.raises(ConfigError, match="format: unknown 'x'"):
        MapFolder(tmp_path / "maps", "x", NAMES)
    with pytest.raises(DataError, match="holds a int"):
        by_class(3, {"0": 0}, [0], "cam", "f")
