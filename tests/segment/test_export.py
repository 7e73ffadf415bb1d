"""Exported label maps: what others read back, and what an export leaves alone."""

import errno
import json

import numpy as np
import pytest
from PIL import Image

from camflow.errors import ConfigError, DataError, StoreError
from camflow.segment import export
from camflow.segment.export import MARKER, export_masks, export_voc
from camflow.store import Store, StoreWriter

NAMES = ["ant", "bee", "cow"]
SIZES = {"a": (7, 9), "b/c": (5, 4), "b/ d.png": (1, 1), "..e": (8, 3), "...": (2, 2)}


class Split:
    class_names, split = NAMES, "train_aug"

    def __init__(self, sizes=None):
        self.ids = list(sizes or SIZES)
        self.sizes = np.array(list((sizes or SIZES).values()), np.int32)


def labels_of(image_id, values):
    return np.random.default_rng(len(image_id)).choice(np.array(values, np.uint8), SIZES.get(image_id, (2, 3)))


def masks_store(path, values=(0, 1, 2, 3), ids=SIZES, stage="masks"):
    with StoreWriter(path, stage=stage, class_names=NAMES, meta={"key": "k1"}) as writer:
        for image_id in ids:
            writer.write(image_id, labels_of(image_id, values))
    return Store(path)


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_folders_of_the_voc_server(tmp_path):
    store = masks_store(tmp_path / "masks.h5")
    folder = export_voc(store, tmp_path / "out", split="test")
    assert folder == tmp_path / "out/results/VOC2012/Segmentation/comp6_test_cls"
    assert files_below(folder) == sorted(f"{image_id}.png" for image_id in SIZES)
    for image_id, size in SIZES.items():
        with Image.open(folder / f"{image_id}.png") as image:
            assert image.mode == "P" and image.size == size[::-1]
            assert np.array_equal(np.asarray(image), store.read(image_id))
            palette = np.array(image.getpalette()).reshape(-1, 3)
    # from VOC's development kit: aeroplane, bicycle, bird, the 15th, and the outlines
    assert palette[[0, 1, 2, 3, 15, 255]].tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [192, 128, 128], [224, 224, 192]
    ]  # fmt: skip
    assert export_voc(store, tmp_path / "other", competition="comp5", split="val").name == "comp5_val_cls"


def test_masks_of_a_plain_folder(tmp_path):
    store = masks_store(tmp_path / "masks.h5", (0, 2, 3, 255))
    export_masks(store, Split(), tmp_path / "out")
    assert files_below(tmp_path / "out") == sorted(
        [MARKER, "classes.txt", "train_aug.txt", *(f"masks/{image_id}.png" for image_id in SIZES)]
    )
    assert (tmp_path / "out/classes.txt").read_text() == "ant\nbee\ncow\n"
    ids = (tmp_path / "out/train_aug.txt").read_text().split("\n")
    assert ids == [*SIZES, ""]
    for image_id in SIZES:
        with Image.open(tmp_path / f"out/masks/{image_id}.png") as image:
            assert np.array_equal(np.asarray(image), store.read(image_id))
    assert (store.read("a") == 255).any()
    assert json.loads((tmp_path / f"out/{MARKER}").read_text())["meta"] == {"key": "k1"}


def test_some_images_of_a_store(tmp_path):
    store = masks_store(tmp_path / "masks.h5")
    export_masks(store, Split({"a": (7, 9)}), tmp_path / "out")
    assert files_below(tmp_path / "out/masks") == ["a.png"]
    with pytest.raises(StoreError, match="has no image 'z'"):
        export_masks(store, Split({"z": (7, 9)}), tmp_path / "other")
    with pytest.raises(DataError, match="image 'a': its mask is for 7x9 pixels, the photo has 9x7"):
        export_masks(store, Split({"a": (9, 7)}), tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["masks.h5", "out"]


@pytest.mark.parametrize("image_id", ["../x", "a/../../x", "/x", "a//b", "a/./b", "", "a/", ".", "..", "a\nb", "a\0"])
def test_ids_stay_within_the_folder(tmp_path, image_id):
    class One:
        stage, path, class_names, meta, ids = "masks", "masks.h5", NAMES, {}, [image_id]

        def read(self, _):
            return np.zeros((2, 3), np.uint8)

    split = Split({image_id: (2, 3)})
    for run in (lambda: export_masks(One(), split, tmp_path / "x"), lambda: export_voc(One(), tmp_path, split="val")):
        with pytest.raises(DataError, match="does not name a file within a folder"):
            run()
        assert not list(tmp_path.iterdir())


def test_what_is_refused(tmp_path):
    store = masks_store(tmp_path / "masks.h5", (0, 255))
    with pytest.raises(ConfigError, match="unknown competition 'comp7'; did you mean 'comp"):
        export_voc(store, tmp_path / "out", competition="comp7", split="val")
    with pytest.raises(DataError, match=r"image .*: label 255 is none of the 3 classes"):
        export_voc(store, tmp_path / "out", split="val")
    for split in ("", "../val", "a/b", ".hidden", "a\nb"):
        with pytest.raises(DataError, match="does not name a file; rename the split"):
            export_voc(store, tmp_path / "out", split=split)
    catalog = Split()
    catalog.split = "classes"
    with pytest.raises(DataError, match="split 'classes'"):
        export_masks(store, catalog, tmp_path / "out")
    maps = masks_store(tmp_path / "maps.h5", stage="maps")
    for run in (lambda: export_masks(maps, Split(), tmp_path / "out"), lambda: export_voc(maps, tmp_path, split="val")):
        with pytest.raises(StoreError, match="holds 'maps', not 'masks'"):
            run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["maps.h5", "masks.h5"]


def test_only_an_earlier_export_is_replaced(tmp_path):
    store, mine = masks_store(tmp_path / "masks.h5"), tmp_path / "mine"
    (mine / "photos").mkdir(parents=True)
    (mine / "photos/a.png").write_bytes(b"precious")
    with pytest.raises(DataError, match=r"mine holds files that are not an export \(export.json is missing\)"):
        export_masks(store, Split(), mine)
    assert (mine / "photos/a.png").read_bytes() == b"precious"
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(mine)
    for name in ("file", "link"):
        with pytest.raises(DataError, match=f"{name} is a file or a link"):
            export_masks(store, Split(), tmp_path / name)

    out = tmp_path / "deep/out"
    out.mkdir(parents=True)
    export_masks(store, Split(), out)
    (out / "stray.txt").write_text("of the earlier export")
    export_voc(store, out, split="val")
    assert not (out / "stray.txt").exists() and not (out / "masks").exists()
    assert len(files_below(out)) == len(SIZES) + 1
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_a_failure_leaves_the_earlier_export(tmp_path, monkeypatch):
    store, out = masks_store(tmp_path / "masks.h5"), tmp_path / "out"
    export_masks(store, Split(), out)
    before = {name: (out / name).read_bytes() for name in files_below(out)}
    with pytest.raises(StoreError):
        export_masks(store, Split({"a": (7, 9), "gone": (1, 1)}), out)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export, "write_label_map", full)
    with pytest.raises(StoreError, match="no space left on the device"):
        export_masks(store, Split(), out)
    assert before == {name: (out / name).read_bytes() for name in files_below(out)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["masks.h5", "out"]


def test_the_working_folder_itself(tmp_path, monkeypatch):
    store, here = masks_store(tmp_path / "masks.h5"), tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    export_masks(store, Split(), ".")
    assert (here / "train_aug.txt").is_file()
