"""Class folders, tables, CUB files and WSOL metadata."""

import pytest
from handmade import label_map, write_mask, write_photo, write_text

from camflow.data.check import check_dataset
from camflow.data.readers.base import make_reader
from camflow.errors import ConfigError, DataError


@pytest.fixture
def birds(tmp_path):
    root = tmp_path / "birds"
    for seed, name in enumerate(["train/owl/1", "train/owl/deep/2", "train/wren/1", "val/wren/1", "val/owl/9"]):
        write_photo(root / f"{name}.jpg", seed=seed)
    write_text(root / "train/owl/.DS_Store", "")
    write_text(root / "train/owl/notes.txt", "")
    return root


def make(root, **params):
    return make_reader({"format": "folder", "root": str(root), **params}, "birds")


def labels_of(reader, split):
    return {i: reader.record(i, split).labels.tolist() for i in reader.ids(split)}


def test_class_folders(birds):
    reader = make(birds)
    assert reader.class_names == ("owl", "wren")
    assert reader.splits == ("train", "val")
    assert labels_of(reader, "train") == {"owl/1": [1, 0], "owl/deep/2": [1, 0], "wren/1": [0, 1]}
    assert reader.record("wren/1", "val").image == birds / "val/wren/1.jpg"
    assert reader.sources("train").images["owl/deep/2"] == (birds / "train/owl/deep/2.jpg",)
    assert reader.record("owl/1", "train").mask is None


def test_same_id_in_two_splits_is_no_leak_but_the_same_bytes_are(birds):
    assert check_dataset(make(birds), "train", progress=False).errors == []
    (birds / "val/owl/9.jpg").write_bytes((birds / "train/owl/1.jpg").read_bytes())
    with pytest.raises(DataError, match=r"image 'owl/1': its photo is also in split 'val' \(.*val/owl/9\.jpg\)"):
        check_dataset(make(birds), "train", progress=False)


def test_class_subset_and_renamed_split_folders(birds):
    reader = make(birds, classes=["wren"], folders={"train": "train", "test": "val"})
    assert reader.ids("test") == ["wren/1"]
    assert reader.splits == ("test", "train")
    with pytest.raises(DataError, match="split 'val' not found"):
        reader.ids("val")


def test_boxes_from_a_table(birds):
    write_text(birds / "boxes.csv", "id,x1,y1,x2,y2\nwren/1,0,0,10,10\nwren/1,5,5,20,20\nowl/1,1,1,2,2\n")
    reader = make(birds, boxes="boxes.csv")
    assert reader.record("wren/1", "train").boxes.tolist() == [[1, 0, 0, 10, 10], [1, 5, 5, 20, 20]]
    assert reader.sources("train").shared == {"boxes": (birds / "boxes.csv",)}


def test_masks(birds):
    write_mask(birds / "masks/owl/1.png", label_map(1))
    reader = make(birds, masks="masks")
    assert (reader.record("owl/1", "train").mask == label_map(1)).all()
    assert reader.record("wren/1", "train").mask is None
    assert check_dataset(reader, "train", progress=False).report()["masks"] == 1


def test_tables(birds):
    write_text(birds / "all.csv", "id,path,class,split\nx,train/owl/1.jpg,owl,train\ny,val/wren/1.jpg,owl;wren,val\n")
    reader = make(birds, layout="table", tables="all.csv", classes=["owl", "wren"])
    assert labels_of(reader, "train") == {"x": [1, 0]}
    assert labels_of(reader, "val") == {"y": [1, 1]}
    assert reader.sources("val").shared == {"labels": (birds / "all.csv",)}
    write_text(birds / "train.csv", "path,class\ntrain/owl/1.jpg,owl\n")
    assert make(birds, layout="table", classes=["owl"]).ids("train") == ["train/owl/1"]


def test_table_mistakes(birds):
    write_text(birds / "train.csv", "id,path,class\nx,train/owl/1.jpg,owll\ny,train/owl/77.jpg,owl\nx,b.jpg,owl\n")
    reader = make(birds, layout="table", classes=["owl", "wren"])
    with pytest.raises(DataError, match="5 problems") as caught:
        check_dataset(reader, "train", progress=False)
    text = str(caught.value)
    assert "unknown class 'owll'; did you mean 'owl'" in text
    assert "image 'y': no image file" in text
    assert "image 'x': is listed 2 times" in text
    with pytest.raises(ConfigError, match="layout table needs `classes`"):
        _ = make(birds, layout="table").class_names
    write_text(birds / "train.csv", "id,path\n")
    with pytest.raises(DataError, match=r"train\.csv: the header lacks the column 'class'"):
        make(birds, layout="table", classes=["owl"]).ids("train")


@pytest.fixture
def cub(tmp_path):
    root = tmp_path / "CUB"
    names = {1: "001.Owl/Owl_0001", 2: "001.Owl/Owl_0002", 3: "002.Wren/Wren_0001"}
    for number, name in names.items():
        write_photo(root / f"images/{name}.jpg", seed=number)
    write_text(root / "images.txt", "".join(f"{n} {name}.jpg\n" for n, name in names.items()))
    write_text(root / "classes.txt", "1 001.Owl\n2 002.Wren\n")
    write_text(root / "image_class_labels.txt", "1 1\n2 1\n3 2\n")
    write_text(root / "train_test_split.txt", "1 1\n2 0\n3 1\n")
    write_text(root / "bounding_boxes.txt", "1 4.0 5.0 20.0 10.0\n2 0.0 0.0 32.0 24.0\n3 1.0 2.0 3.0 4.0\n")
    return root


def test_cub(cub):
    reader = make(cub, layout="cub")
    assert reader.class_names == ("001.Owl", "002.Wren")
    assert labels_of(reader, "train") == {"001.Owl/Owl_0001": [1, 0], "002.Wren/Wren_0001": [0, 1]}
    assert labels_of(reader, "test") == {"001.Owl/Owl_0002": [1, 0]}
    assert reader.record("001.Owl/Owl_0001", "train").boxes.tolist() == [[0, 4, 5, 24, 15]]
    assert {path.name for path in reader.sources("train").shared["boxes"]} == {"images.txt", "bounding_boxes.txt"}
    assert check_dataset(reader, "train", progress=False).errors == []


def test_cub_mistakes(cub):
    write_text(cub / "image_class_labels.txt", "1 1\n")
    with pytest.raises(DataError, match=r"image '002.Wren/Wren_0001': no label in .*classes\.txt|image_class_labels"):
        check_dataset(make(cub, layout="cub"), "train", progress=False)
    write_text(cub / "images.txt", "one 001.Owl/x.jpg\n")
    with pytest.raises(DataError, match=r"images\.txt: the line 'one 001.Owl/x.jpg' is not 'number value'"):
        make(cub, layout="cub").ids("train")


def test_wsol_metadata(birds):
    write_text(birds / "metadata/val/image_ids.txt", "val/wren/1.jpg\nval/owl/9.jpg")
    write_text(birds / "metadata/val/class_labels.txt", "val/wren/1.jpg,1\nval/owl/9.jpg,0")
    write_text(birds / "metadata/val/localization.txt", "val/wren/1.jpg,0,0,9,9\nval/wren/1.jpg,3,3,5,5")
    reader = make(birds, layout="wsol", classes=["owl", "wren"], box_format="xyxy_inclusive")
    assert labels_of(reader, "val") == {"val/wren/1.jpg": [0, 1], "val/owl/9.jpg": [1, 0]}
    assert reader.record("val/wren/1.jpg", "val").boxes.tolist() == [[1, 0, 0, 10, 10], [1, 3, 3, 6, 6]]
    write_text(birds / "metadata/val/class_labels.txt", "val/wren/1.jpg,7\nval/owl/9.jpg,0")
    with pytest.raises(DataError, match=r"class_labels\.txt: class 7 is not in 0\.\.1"):
        make(birds, layout="wsol", classes=["owl", "wren"]).ids("val")
