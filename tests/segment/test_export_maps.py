"""Exported seed maps: what other codes read, and the way back through the localizer `import`."""

import json

import numpy as np
import pytest
from PIL import Image

from camflow import cli
from camflow.data.interchange import MapFolder
from camflow.errors import ConfigError, DataError, StoreError
from camflow.evaluate.sweep import SeedSweep
from camflow.localize.imported import ImportParams, import_maps
from camflow.localize.maps import SeedMaps, full_size_maps, read_seed, stride4_maps
from camflow.segment.export import MARKER
from camflow.segment.export_maps import FORMS, export_maps
from camflow.store import Store, StoreWriter

NAMES = ["ant", "bee", "cow"]
SIZES = {"a": (37, 50), "b/c": (21, 16), "empty": (8, 9)}
CLASSES = {"a": [0, 2], "b/c": [1], "empty": []}
# form -> the format of the way back, the rounding of float16 and of 8 bits
READ = {form: (form, 3e-3 if form.startswith("png") else 5e-4) for form in FORMS} | {"irn": ("npy", 5e-4)}


class Images:
    class_names, ids, sizes = NAMES, list(SIZES), np.array(list(SIZES.values()), np.int32)

    def label(self, image_id):
        return np.isin(np.arange(3), CLASSES[image_id]).astype(np.uint8)


@pytest.fixture
def store(tmp_path):
    """Maps at two scales and stride 8, of very different magnitude."""
    rng = np.random.default_rng(0)
    with StoreWriter(tmp_path / "maps.h5", stage="maps", class_names=NAMES, meta={"key": "k1"}) as writer:
        for image_id, size in SIZES.items():
            grids = [tuple(-(-int(n * scale) // 8) for n in size) for scale in (1, 2)]
            count = len(CLASSES[image_id])
            maps = [rng.random((count, *grid)).astype(np.float32) / 1000 for grid in grids] if count else []
            array, attrs = SeedMaps(np.array(CLASSES[image_id]), maps, size, size, 8).pack()
            writer.write(image_id, array, **attrs)
    return Store(tmp_path / "maps.h5")


def test_what_other_codes_load(store, tmp_path):
    export_maps(store, tmp_path / "npy", "npy")
    found = np.load(tmp_path / "npy/b/c.npy", allow_pickle=True).item()
    wanted = full_size_maps(read_seed(store, "b/c"))
    assert list(found) == [1] and type(next(iter(found))) is int and found[1].dtype == np.float32
    assert np.array_equal(found[1], wanted[0])
    assert np.load(tmp_path / "npy/empty.npy", allow_pickle=True).item() == {}
    assert json.loads((tmp_path / "npy" / MARKER).read_text())["class_names"] == NAMES

    export_maps(store, tmp_path / "irn", "irn")
    found = np.load(tmp_path / "irn/a.npy", allow_pickle=True).item()
    # What IRN does with them: pad the keys with the background, send the maps to the GPU.
    assert np.pad(found["keys"] + 1, (1, 0), mode="constant").tolist() == [0, 1, 3]
    seed = read_seed(store, "a")
    assert np.array_equal(found["cam"].cpu().numpy(), stride4_maps(seed)) and found["cam"].shape == (2, 10, 13)
    assert np.array_equal(found["high_res"], full_size_maps(seed))

    export_maps(store, tmp_path / "npz", "npz", classes="name")
    with np.load(tmp_path / "npz/a.npz") as archive:
        assert sorted(archive) == ["ant", "cow"] and np.array_equal(archive["cow"], full_size_maps(seed)[1])

    for bits, top in ((8, 255), (16, 65535)):
        export_maps(store, tmp_path / "png", "png", classes="label", bits=bits)
        with Image.open(tmp_path / "png/a_3.png") as image:
            assert image.size == (50, 37)
            assert np.abs(np.asarray(image) - full_size_maps(seed)[1] * top).max() <= 0.5 + 1e-3
        assert sorted(path.name for path in (tmp_path / "png").glob("*.png")) == ["a_1.png", "a_3.png"]


@pytest.mark.parametrize("classes", ["index", "name"])
@pytest.mark.parametrize("form", FORMS)
def test_the_way_back(store, tmp_path, form, classes):
    export_maps(store, tmp_path / "out", form, classes=classes)
    kind, error = READ[form]
    given = "index" if form == "irn" else classes
    with StoreWriter(tmp_path / "back.h5", stage="maps", class_names=NAMES) as writer:
        import_maps(Images(), ImportParams(str(tmp_path / "out"), format=kind, classes=given), writer)
    back = Store(tmp_path / "back.h5")
    for image_id in SIZES:
        old, new = read_seed(store, image_id), read_seed(back, image_id)
        assert new.classes.tolist() == old.classes.tolist() and new.size == old.size
        assert np.abs(full_size_maps(new) - full_size_maps(old)).max(initial=0) < error


def test_the_score_comes_back(store, tmp_path):
    """Confusion at thresholds that lie between the values that 16 bits tell apart: the very same counts."""
    export_maps(store, tmp_path / "out", "png", bits=16)
    folder = MapFolder(tmp_path / "out", "png", NAMES)
    rng = np.random.default_rng(1)
    sweeps = [SeedSweep(4, [0.2, 0.5, 0.8]) for _ in range(2)]
    for image_id in ("a", "b/c"):
        truth = rng.integers(0, 4, SIZES[image_id]).astype(np.uint8)
        seed = read_seed(store, image_id)
        maps = folder.read(image_id, seed.classes)
        sweeps[0].update(full_size_maps(seed), seed.classes, truth)
        sweeps[1].update(np.stack([maps[int(n)] for n in seed.classes]), seed.classes, truth)
    moved = np.abs(sweeps[0].counts - sweeps[1].counts).sum()
    assert moved <= 2  # of 2186 pixels, one at most lies so close to a threshold


def test_refusals(store, tmp_path):
    with pytest.raises(ConfigError, match="unknown form 'pgn'; did you mean 'png'"):
        export_maps(store, tmp_path / "out", "pgn")
    with pytest.raises(ConfigError, match="8 or 16 bits, not 4"):
        export_maps(store, tmp_path / "out", "png", bits=4)
    with StoreWriter(tmp_path / "masks.h5", stage="masks") as writer:
        writer.write("a", np.zeros((2, 2), np.uint8))
    with pytest.raises(StoreError, match="holds 'masks', not 'maps'"):
        export_maps(Store(tmp_path / "masks.h5"), tmp_path / "out", "npy")
    with StoreWriter(tmp_path / "odd.h5", stage="maps", class_names=["a/b"]):
        pass
    with pytest.raises(DataError, match="class 'a/b'"):
        export_maps(Store(tmp_path / "odd.h5"), tmp_path / "out", "png", classes="name")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/photo").write_text("x")
    with pytest.raises(DataError, match="not an export"):
        export_maps(store, tmp_path / "mine", "npy")
    assert not (tmp_path / "out").exists()


def test_two_maps_of_one_name_are_refused(tmp_path):
    """Class `c` of `a_b` and class `b_c` of `a` would both be `a_b_c.png`."""
    with StoreWriter(tmp_path / "maps.h5", stage="maps", class_names=["c", "b_c"]) as writer:
        for image_id, index in (("a_b", 0), ("a", 1)):
            array, attrs = SeedMaps(np.array([index]), [np.ones((1, 2, 2), np.float32)], (2, 2)).pack()
            writer.write(image_id, array, **attrs)
    store = Store(tmp_path / "maps.h5")
    with pytest.raises(DataError, match=r"a_b_c\.png is the file of another image, too; export png_folder"):
        export_maps(store, tmp_path / "out", "png", classes="name")
    export_maps(store, tmp_path / "out", "png_folder", classes="name")
    assert (tmp_path / "out/b_c/a.png").is_file() and (tmp_path / "out/c/a_b.png").is_file()


def test_the_command(store, tmp_path, capsys):
    assert cli.main(["export", str(store.path), str(tmp_path / "out")]) == 0  # maps: dictionaries
    assert capsys.readouterr().out == f"{tmp_path}/out\n" and (tmp_path / "out/a.npy").is_file()
    assert cli.main(["export", str(store.path), str(tmp_path / "out"), "--as", "png", "--classes", "name"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.*")) == ["a_ant.png", "a_cow.png", MARKER]
    assert cli.main(["export", str(store.path), str(tmp_path / "out"), "--as", "labels"]) == 1
    assert "holds 'maps', not 'masks'" in capsys.readouterr().err
    assert cli.main(["export", str(store.path), str(tmp_path / "out"), "--layout", "voc"]) == 1
    assert "--layout voc is of label maps" in capsys.readouterr().err
