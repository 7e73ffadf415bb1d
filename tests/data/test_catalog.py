"""The catalog: what is written is read back, in every kind of process, without holding pixels."""

import json
import multiprocessing
import os
import pickle
import tracemalloc

import numpy as np
import pytest
from handmade import label_map, write_mask, write_photo, write_text
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from camflow.data.catalog import Catalog
from camflow.data.check import check_dataset, write_catalog
from camflow.data.readers.base import make_reader
from camflow.errors import DataError, StoreError
from camflow.store import StoreWriter, shard_of


@pytest.fixture
def catalog(voc_params, voc_root, tmp_path):
    write_text(voc_root / "boxes.json", json.dumps({"b": [["dog", 1, 2, 3, 4], ["dog", 5, 6, 7, 8]]}))
    reader = make_reader({**voc_params, "boxes": "boxes.json"}, "mine")
    path = tmp_path / "catalog.h5"
    write_catalog(check_dataset(reader, "train", progress=False), path, meta={"key": "abc"})
    return Catalog(path)


def test_tables(catalog):
    assert catalog.class_names == ["cat", "dog"]
    assert (catalog.split, catalog.dataset, len(catalog)) == ("train", "mine", 3)
    assert catalog.ids == ["a", "b", "c"]
    np.testing.assert_array_equal(catalog.labels, [[1, 0], [0, 1], [1, 1]])
    assert catalog.labels.dtype == np.uint8
    np.testing.assert_array_equal(catalog.sizes, [[24, 32]] * 3)
    assert catalog.sizes.dtype == np.int32
    assert catalog.has_masks
    assert "b" in catalog
    assert "d" not in catalog


def test_images(catalog, voc_root):
    np.testing.assert_array_equal(catalog.image("b"), np.asarray(Image.open(voc_root / "JPEGImages/b.jpg")))
    np.testing.assert_array_equal(catalog.mask("b"), label_map(2, 255, 255))
    np.testing.assert_array_equal(catalog.boxes("b"), [[1, 1, 2, 3, 4], [1, 5, 6, 7, 8]])
    assert catalog.boxes("a").shape == (0, 5)
    assert catalog.boxes("b").dtype == np.int32
    np.testing.assert_array_equal(catalog.label("c"), [1, 1])
    assert catalog.size("a") == (24, 32)
    assert catalog.image_path("a") == voc_root / "JPEGImages/a.jpg"


def test_same_data_same_bytes(voc_params, tmp_path):
    for name in ("1.h5", "2.h5"):
        write_catalog(check_dataset(make_reader(voc_params, "mine"), "train", progress=False), tmp_path / name)
    assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "2.h5").read_bytes()


def test_order_of_the_list_does_not_matter(voc_params, voc_root, tmp_path, catalog):
    write_text(voc_root / "ImageSets/Segmentation/train.txt", "c\na\nb\n")
    write_catalog(check_dataset(make_reader(voc_params, "mine"), "train", progress=False), tmp_path / "o.h5")
    assert Catalog(tmp_path / "o.h5").ids == catalog.ids


def test_subset(catalog):
    part = catalog.subset(["c", "a", "c"])
    assert part.ids == ["a", "c"]
    assert len(part) == 2
    np.testing.assert_array_equal(part.labels, [[1, 0], [1, 1]])
    np.testing.assert_array_equal(part.label("c"), [1, 1])
    np.testing.assert_array_equal(part.mask("c"), label_map(1, 2))
    assert part.has_masks
    with pytest.raises(DataError, match="has no image 'b'"):
        part.image("b")
    assert part.subset(["a"]).ids == ["a"]
    with pytest.raises(DataError, match="has no image 'zz'"):
        catalog.subset(["zz"])


def test_shards_partition_by_hash(catalog):
    for n in (1, 2, 5):
        shards = [catalog.shard(k, n) for k in range(n)]
        assert sorted(i for shard in shards for i in shard.ids) == catalog.ids
        for k, shard in enumerate(shards):
            assert all(shard_of(i, n) == k for i in shard.ids)
            assert shard.labels.shape == (len(shard), 2)
            assert isinstance(shard.has_masks, bool)
    with pytest.raises(ValueError, match="shard 2 of 2"):
        catalog.shard(2, 2)


def test_coco_label_maps_are_stored(tmp_path):
    write_photo(tmp_path / "train2014/x.jpg", 20, 30)
    square = [[5, 5, 15, 5, 15, 15, 5, 15]]
    content = {
        "images": [{"id": 1, "file_name": "x.jpg", "height": 20, "width": 30}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 9, "segmentation": square, "bbox": [5, 5, 10, 10]}],
        "categories": [{"id": 9, "name": "crate"}],
    }
    path = write_text(tmp_path / "annotations/instances_train2014.json", json.dumps(content))
    reader = make_reader({"format": "coco", "root": str(tmp_path), "classes": ["crate"]}, "coco")
    write_catalog(check_dataset(reader, "train", progress=False), tmp_path / "c.h5")
    path.unlink()  # from now on the JSON is not needed
    catalog = Catalog(tmp_path / "c.h5")
    expected = np.zeros((20, 30), np.uint8)
    expected[5:15, 5:15] = 1
    np.testing.assert_array_equal(catalog.mask("x"), expected)
    assert catalog.has_masks
    assert catalog.boxes("x").tolist() == [[0, 5, 5, 15, 15]]


def test_catalog_of_labels_only(voc_params, voc_root, tmp_path):
    write_text(voc_root / "l.csv", "id,labels\na,cat\nb,dog\nc,cat\n")
    reader = make_reader({**voc_params, "labels": "l.csv", "masks": []}, "mine")
    write_catalog(check_dataset(reader, "train", progress=False), tmp_path / "c.h5")
    catalog = Catalog(tmp_path / "c.h5")
    assert not catalog.has_masks
    assert catalog.mask("a") is None


def test_files_outside_the_root_and_a_moved_root(voc_params, voc_root, tmp_path, catalog):
    moved = voc_root.with_name("moved")
    voc_root.rename(moved)
    with pytest.raises(DataError, match=r"a\.jpg: does not exist"):
        catalog.image("a")
    assert Catalog(catalog.path, root=moved).image("a").shape == (24, 32, 3)
    reader = make_reader({**voc_params, "root": str(moved), "images": str(moved / "JPEGImages")}, "mine")
    write_catalog(check_dataset(reader, "train", progress=False), tmp_path / "abs.h5")
    assert Catalog(tmp_path / "abs.h5").image("a").shape == (24, 32, 3)


def test_relative_root_survives_a_change_of_folder(voc_params, voc_root, tmp_path, monkeypatch):
    monkeypatch.chdir(voc_root.parent)
    reader = make_reader({**voc_params, "root": "voc"}, "mine")
    write_catalog(check_dataset(reader, "train", progress=False), tmp_path / "rel.h5")
    catalog = Catalog(tmp_path / "rel.h5")
    monkeypatch.chdir("/")
    assert catalog.image("a").shape == (24, 32, 3)


def test_data_that_changed_after_the_check(catalog, voc_root):
    write_photo(voc_root / "JPEGImages/a.jpg", 10, 10)
    with pytest.raises(DataError, match=r"a\.jpg: is 10x10 but was 24x32 when the dataset was checked"):
        catalog.image("a")
    write_mask(voc_root / "SegmentationClass/b.png", label_map(8, height=10))
    with pytest.raises(DataError, match=r"b\.png: is 10x32 but was 24x32"):
        catalog.mask("b")


def test_not_a_catalog(tmp_path):
    with pytest.raises(StoreError, match=r"gone\.h5: is missing"):
        Catalog(tmp_path / "gone.h5")
    with StoreWriter(tmp_path / "maps.h5", stage="maps") as writer:
        writer.write("a", np.zeros((1, 2, 2), np.float16))
    with pytest.raises(StoreError, match="holds 'maps', not 'catalog'"):
        Catalog(tmp_path / "maps.h5")


class Photos(Dataset):
    """A training set as a user would write it."""

    def __init__(self, catalog):
        self.catalog = catalog
        self.ids = catalog.ids

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        image_id = self.ids[index]
        photo, mask, label = (f(image_id) for f in (self.catalog.image, self.catalog.mask, self.catalog.label))
        return int(photo.sum()), int(mask.sum()), label.tolist(), os.getpid()


@pytest.mark.parametrize("context", ["spawn", "fork"])
def test_loader_workers(catalog, context):
    part = catalog.subset(["a", "c"])
    _ = part.labels, part.mask("a")  # open files and loaded tables must not stop a worker
    loader = DataLoader(
        Photos(part), batch_size=None, num_workers=1, multiprocessing_context=multiprocessing.get_context(context)
    )
    here = [Photos(part)[i] for i in range(2)]
    there = list(loader)
    assert [tuple(item[:3]) for item in there] == [item[:3] for item in here]
    assert os.getpid() not in {item[3] for item in there}


def test_pickle_is_small_and_complete(catalog):
    _ = catalog.labels, catalog.ids
    data = pickle.dumps(catalog.subset(["b"]))
    assert len(data) < 4000
    assert pickle.loads(data).ids == ["b"]


def test_reading_many_images_holds_no_pixels(voc_params, voc_root, tmp_path):
    """Memory after 300 reads of 120 kB photos is that after 30."""
    for name in "abc":
        write_photo(voc_root / f"JPEGImages/{name}.jpg", 200, 200, seed=ord(name))
        write_mask(voc_root / f"SegmentationClass/{name}.png", label_map(8, 12, height=200, width=200))
    write_catalog(check_dataset(make_reader(voc_params, "mine"), "train", progress=False), tmp_path / "big.h5")
    catalog = Catalog(tmp_path / "big.h5")

    def read(times):
        for _ in range(times):
            for image_id in catalog.ids:
                catalog.image(image_id), catalog.mask(image_id)

    tracemalloc.start()
    try:
        read(10)
        before = tracemalloc.get_traced_memory()[0]
        read(100)
        assert tracemalloc.get_traced_memory()[0] - before < 100_000
    finally:
        tracemalloc.stop()


def test_ids_of_any_alphabet(voc_params, voc_root, tmp_path):
    for seed, name in enumerate(["größe 1", "画像/二", "100%"], start=60):
        write_photo(voc_root / f"JPEGImages/{name}.png", seed=seed)
        write_mask(voc_root / f"SegmentationClass/{name}.png", label_map(8))
    write_text(voc_root / "ImageSets/Segmentation/odd.txt", "größe 1\n画像/二\n100%\n")
    reader = make_reader({**voc_params, "classes": ["cat"]}, "mine")
    write_catalog(check_dataset(reader, "odd", progress=False), tmp_path / "odd.h5")
    catalog = Catalog(tmp_path / "odd.h5")
    assert set(catalog.ids) == {"größe 1", "画像/二", "100%"}
    assert all(catalog.image(i).shape == (24, 32, 3) for i in catalog.ids)
    assert all((catalog.mask(i) == label_map(1)).all() for i in catalog.ids)
