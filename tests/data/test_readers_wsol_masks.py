"""WSOL metadata: the masks of OpenImages, and the classes that its folders name."""

import numpy as np
import pytest
from handmade import write_photo, write_text
from PIL import Image

from camflow.data.catalog import Catalog
from camflow.data.check import check_dataset, write_catalog
from camflow.data.readers.base import make_reader
from camflow.errors import ConfigError, DataError


def write_binary(path, mask):
    """A 1-bit PNG, as OpenImages has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(bool)).save(path)


def rectangle(shape, y1, y2, x1, x2):
    mask = np.zeros(shape, bool)
    mask[y1:y2, x1:x2] = True
    return mask


@pytest.fixture
def root(tmp_path):
    """Two training photos of two classes, and a test split with masks: of b two objects, one at half the size."""
    root = tmp_path / "OpenImages"
    for seed, name in enumerate(["train/owl/1", "train/wren/2", "test/wren/a", "test/owl/b"]):
        write_photo(root / f"{name}.jpg", seed=seed)
    write_text(root / "metadata/train/image_ids.txt", "train/owl/1.jpg\ntrain/wren/2.jpg")
    write_text(root / "metadata/train/class_labels.txt", "train/owl/1.jpg,1\ntrain/wren/2.jpg,0")
    write_text(root / "metadata/test/image_ids.txt", "test/wren/a.jpg\ntest/owl/b.jpg")
    write_text(root / "metadata/test/class_labels.txt", "test/wren/a.jpg,0\ntest/owl/b.jpg,1")
    write_text(
        root / "metadata/test/localization.txt",
        "test/wren/a.jpg,test/wren/a_m.png,test/wren/a_ignore.png\n"
        "test/owl/b.jpg,test/owl/b_1.png,\n"
        "test/owl/b.jpg,test/owl/b_2.png,",
    )
    write_binary(root / "test/wren/a_m.png", rectangle((24, 32), 2, 10, 3, 20))
    write_binary(root / "test/wren/a_ignore.png", rectangle((24, 32), 5, 20, 15, 30))
    write_binary(root / "test/owl/b_1.png", rectangle((24, 32), 0, 4, 0, 4))
    grey = np.where(rectangle((12, 16), 3, 5, 3, 8), 255, 0).astype(np.uint8)
    Image.fromarray(grey).save(root / "test/owl/b_2.png")
    return root


def make(root, **params):
    return make_reader({"format": "folder", "root": str(root), "layout": "wsol", **params}, "birds")


def drawn(reader, image_id):
    return reader.record(image_id, "test").mask


def test_masks_are_drawn(root):
    reader = make(root, classes=["wren", "owl"])
    wanted = np.zeros((24, 32), np.uint8)
    wanted[5:20, 15:30] = 255
    wanted[2:10, 3:20] = 1  # an object is no pixel to ignore
    np.testing.assert_array_equal(drawn(reader, "test/wren/a.jpg"), wanted)
    wanted = np.zeros((24, 32), np.uint8)
    wanted[:4, :4] = wanted[6:10, 6:16] = 2
    np.testing.assert_array_equal(drawn(reader, "test/owl/b.jpg"), wanted)
    assert reader.record("test/owl/b.jpg", "test").boxes.shape == (0, 5)
    assert reader.record("train/owl/1.jpg", "train").mask is None


def test_a_mask_of_another_size_follows_the_published_index(root):
    """Row i of the label map is row floor(i * h / H) of the file."""
    noise = np.random.default_rng(0).random((17, 45)) > 0.5
    write_binary(root / "test/owl/b_1.png", noise)
    write_binary(root / "test/owl/b_2.png", np.zeros((3, 3)))
    found = drawn(make(root, classes=["wren", "owl"]), "test/owl/b.jpg")
    wanted = [[2 * noise[int(y * 17 / 24), int(x * 45 / 32)] for x in range(32)] for y in range(24)]
    np.testing.assert_array_equal(found, wanted)


def test_their_files_are_in_the_sources(root):
    sources = make(root, classes=["wren", "owl"]).sources("test")
    names = {i: [path.name for path in paths] for i, paths in sources.masks.items()}
    assert names == {"test/wren/a.jpg": ["a_m.png", "a_ignore.png"], "test/owl/b.jpg": ["b_1.png", "b_2.png"]}
    assert sources.shared["masks"][0].name == "localization.txt" and "boxes" not in sources.shared
    assert make(root, classes=["wren", "owl"]).sources("train").masks == {}
    (root / "test/owl/b_2.png").unlink()
    assert make(root, classes=["wren", "owl"]).sources("test").masks["test/owl/b.jpg"] == ()


def test_the_catalog_stores_them(root, tmp_path):
    for split in ("train", "test"):
        reader = make(root)
        result = check_dataset(reader, split, progress=False)
        assert result.errors == []
        write_catalog(result, tmp_path / f"{split}.h5")
    test, train = Catalog(tmp_path / "test.h5"), Catalog(tmp_path / "train.h5")
    assert test.has_masks and not train.has_masks
    np.testing.assert_array_equal(test.mask("test/wren/a.jpg"), drawn(make(root), "test/wren/a.jpg"))
    assert train.mask("train/owl/1.jpg") is None


def test_masks_in_a_folder_of_their_own(root):
    (root / "pngs").mkdir()
    (root / "test/wren").rename(root / "pngs/wren")
    write_photo(root / "test/wren/a.jpg", seed=2)
    listing = root / "metadata/test/localization.txt"
    write_text(listing, "test/wren/a.jpg,wren/a_m.png\ntest/owl/b.jpg,wren/a_m.png,wren/a_ignore.png")
    reader = make(root, classes=["wren", "owl"], masks="pngs")
    assert (drawn(reader, "test/wren/a.jpg") == rectangle((24, 32), 2, 10, 3, 20)).all()
    assert set(np.unique(drawn(reader, "test/owl/b.jpg"))) == {0, 2, 255}


def test_mistakes_are_named(root):
    listing = root / "metadata/test/localization.txt"
    write_text(listing, "test/wren/a.jpg,test/wren/a_m.png,test/wren/a_ignore.png\n")
    with pytest.raises(DataError, match=r"image 'test/owl/b\.jpg': no mask in .*localization\.txt; add one"):
        check_dataset(make(root), "test", progress=False)
    write_text(listing, "test/wren/a.jpg,test/wren/a_m.png,\ntest/owl/b.jpg,1,2,3,4\n")
    with pytest.raises(DataError, match=r"the line 'test/owl/b\.jpg,1,2,3,4' is not 'id,mask\.png,ignore\.png'"):
        drawn(make(root), "test/wren/a.jpg")
    write_text(listing, "test/wren/a.jpg,test/wren/gone.png,\ntest/owl/b.jpg,test/owl/b_1.png,")
    with pytest.raises(DataError, match=r"gone\.png: does not exist"):
        check_dataset(make(root), "test", progress=False)
    write_text(root / "metadata/test/class_labels.txt", "test/wren/a.jpg,0")
    with pytest.raises(DataError, match=r"image 'test/owl/b\.jpg': no label in"):
        drawn(make(root), "test/owl/b.jpg")


def test_more_classes_than_a_label_map_has_values(root):
    write_text(root / "metadata/test/class_labels.txt", "test/wren/a.jpg,253\ntest/owl/b.jpg,254")
    reader = make(root, classes=[f"c{n}" for n in range(255)])
    assert drawn(reader, "test/wren/a.jpg").max() == 255
    assert (drawn(reader, "test/wren/a.jpg")[3:5, 4:14] == 254).all()
    with pytest.raises(DataError, match=r"image 'test/owl/b\.jpg': its class is number 255, a label map holds 254"):
        drawn(reader, "test/owl/b.jpg")


def test_classes_are_the_folders_of_the_training_photos(root):
    assert make(root).class_names == ("wren", "owl")
    assert make(root).record("test/owl/b.jpg", "test").labels.tolist() == [0, 1]
    labels = root / "metadata/train/class_labels.txt"
    for wrong in ("train/owl/1.jpg,0\ntrain/wren/2.jpg,0", "train/owl/1.jpg,1\ntrain/wren/2.jpg,2",
                  "train/owl/1.jpg,1\ntrain/owl/2.jpg,0", "1.jpg,0", "train/owl/1.jpg,x"):  # fmt: skip
        write_text(labels, wrong)
        with pytest.raises(ConfigError, match=r"do not lie in one folder a class.*give `classes`"):
            _ = make(root).class_names
