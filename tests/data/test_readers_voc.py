"""VOC layout: lists, masks, labels and boxes of every form."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from handmade import label_map, write_mask, write_photo, write_text, write_xml

from camflow.data.readers.base import make_reader
from camflow.data.readers.codes import VOC_CLASSES, mask_code
from camflow.data.readers.voc import VocReader
from camflow.errors import ConfigError, DataError


def labels_of(reader, split="train"):
    return {i: reader.record(i, split).labels.tolist() for i in reader.ids(split)}


def test_voc_class_list():
    assert len(VOC_CLASSES) == 20
    assert list(VOC_CLASSES) == sorted(VOC_CLASSES)
    assert [VOC_CLASSES[i - 1] for i in (1, 8, 12, 15, 20)] == ["aeroplane", "cat", "dog", "person", "tvmonitor"]


def test_planning_imports_nothing_heavy():
    code = (
        "import sys; import camflow.data.readers.voc, camflow.data.readers.coco, camflow.data.readers.folder;"
        "print(sorted({'torch', 'PIL', 'pycocotools', 'pandas', 'h5py', 'scipy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_defaults_on_official_layout(voc_root):
    reader = make_reader({"format": "voc", "root": str(voc_root)}, "voc")
    assert reader.class_names == VOC_CLASSES
    assert reader.splits == ("train", "val")
    assert reader.ids("train") == ["a", "b", "c"]
    record = reader.record("b", "train")
    np.testing.assert_array_equal(record.mask, label_map(12, 15, 255))
    assert np.flatnonzero(record.labels).tolist() == [11, 14]
    assert record.boxes.shape == (0, 5)


def test_subset_of_classes_renumbers_and_ignores_the_others(voc_params):
    reader = make_reader({**voc_params, "classes": ["dog", "cat"]}, "voc")
    np.testing.assert_array_equal(reader.record("b", "train").mask, label_map(1, 255, 255))
    np.testing.assert_array_equal(reader.record("c", "train").mask, label_map(2, 1))
    assert labels_of(reader) == {"a": [0, 1], "b": [1, 0], "c": [1, 1]}


def test_other_classes_can_be_background(voc_params):
    reader = make_reader({**voc_params, "other_classes": "background"}, "voc")
    np.testing.assert_array_equal(reader.record("b", "train").mask, label_map(2, 0, 255))


def test_custom_classes_use_positions(voc_root):
    write_mask(voc_root / "SegmentationClass/a.png", label_map(1, 2))
    reader = make_reader({"format": "voc", "root": str(voc_root), "classes": ["rust", "crack"]}, "metal")
    np.testing.assert_array_equal(reader.record("a", "train").mask, label_map(1, 2))
    with pytest.raises(DataError, match=r"b\.png: mask value 12, 15 is out of range \(known: 0\.\.2 and 255\)"):
        _ = reader.record("b", "train").mask


def test_explicit_mask_values(voc_params):
    reader = make_reader({**voc_params, "classes": ["wolf"], "mask_values": {"wolf": 12, "man": 15}}, "x")
    np.testing.assert_array_equal(reader.record("b", "train").mask, label_map(1, 255, 255))


@pytest.mark.parametrize(
    ("values", "classes", "message"),
    [
        ({"cat": 1}, ["cat", "dgo"], "no value for class 'dgo'"),
        ({"cat": 0}, ["cat"], "integers in 1..254"),
        ({"cat": 3, "dog": 3}, ["cat", "dog"], "the same value"),
        ("vco", ["cat"], "'vco' is neither voc, index"),
        ("index", [str(i) for i in range(255)], "255 classes do not fit"),
    ],
)
def test_bad_mask_values(values, classes, message):
    with pytest.raises(ConfigError, match=f"dataset 'x': .*{message}"):
        mask_code(values, classes, "ignore", "x")


def test_masks_of_several_folders_in_order(voc_params, voc_root):
    write_mask(voc_root / "SegmentationClassAug/a.png", label_map(12))
    reader = make_reader(voc_params, "voc")
    assert labels_of(reader) == {"a": [0, 1], "b": [0, 1], "c": [1, 1]}
    assert reader.record("a", "train").mask_path.parent.name == "SegmentationClassAug"


def test_list_forms(voc_params, voc_root):
    other = write_mask(voc_root / "Other/a.png", label_map(12))
    write_text(voc_root / "psa.txt", "﻿/JPEGImages/a.jpg /Other/a.png\r\n\r\nb.jpg\nc\n")
    reader = make_reader({**voc_params, "lists": {"psa": "psa.txt"}}, "voc")
    assert reader.ids("psa") == ["a", "b", "c"]
    assert reader.sources("psa").masks["a"] == (other,)
    assert labels_of(reader, "psa") == {"a": [0, 1], "b": [0, 1], "c": [1, 1]}
    assert "psa" in reader.splits


def test_any_extension_case_spaces_and_slashes(voc_params, voc_root):
    names = {"sub/x": "sub/x.PNG", "my photo 1": "my photo 1.tif", "v1.2": "v1.2.jpeg"}
    for seed, (name, file) in enumerate(names.items(), start=20):
        write_photo(voc_root / "JPEGImages" / file, seed=seed)
        write_mask(voc_root / "SegmentationClass" / f"{name}.png", label_map(8))
    write_text(voc_root / "ImageSets/Segmentation/odd.txt", "\n".join(names))
    reader = make_reader(voc_params, "voc")
    assert {i: reader.record(i, "odd").image.name for i in reader.ids("odd")} == {
        "sub/x": "x.PNG",
        "my photo 1": "my photo 1.tif",
        "v1.2": "v1.2.jpeg",
    }
    assert set(labels_of(reader, "odd")) == set(names)


def test_labels_from_xml_and_difficult(voc_params, voc_root):
    write_xml(voc_root / "Annotations/a.xml", [("cat", 0, 1, 1, 10, 12), ("dog", 1, 3, 4, 32, 24)])
    write_text(voc_root / "ImageSets/Segmentation/one.txt", "a")
    params = {**voc_params, "labels": "xml", "boxes": "xml", "masks": []}
    record = make_reader(params, "voc").record("a", "one")
    assert record.labels.tolist() == [1, 1]
    assert record.boxes.tolist() == [[0, 0, 0, 10, 12], [1, 2, 3, 32, 24]]  # 1-based inclusive -> 0-based half-open
    assert record.boxes.dtype == np.int32
    assert record.mask is None
    strict = make_reader({**params, "difficult": "exclude"}, "voc").record("a", "one")
    assert strict.labels.tolist() == [1, 0]
    assert len(strict.boxes) == 1
    zero = make_reader({**params, "xml_origin": 0}, "voc").record("a", "one")
    assert zero.boxes[0].tolist() == [0, 1, 1, 11, 13]


TABLES = {
    "names.json": json.dumps({"a": ["cat"], "b": ["dog", "person"], "c": ["cat", "dog"], "zz": ["cat"]}),
    "names.csv": "id,labels\na,cat\nb,dog person\nc,cat;dog\n",
    "onehot.csv": "id,cat,dog,person\na,1,0,0\nb,0,1,1\nc,1.0,1,0\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_labels_without_any_mask(voc_params, voc_root, name):
    shutil.rmtree(voc_root / "SegmentationClass")
    table = write_text(voc_root / name, TABLES[name])
    reader = make_reader({**voc_params, "labels": name}, "voc")
    assert labels_of(reader) == {"a": [1, 0], "b": [0, 1], "c": [1, 1]}
    assert reader.record("a", "train").mask is None
    assert reader.sources("train").shared["labels"] == (table,)
    assert reader.sources("train").masks == {"a": (), "b": (), "c": ()}


def test_names_with_spaces_in_a_csv(voc_params, voc_root):
    write_text(voc_root / "l.csv", "id,labels\na,red fox\nb,red fox;elk\nc,elk\n")
    reader = make_reader({**voc_params, "classes": ["elk", "red fox"], "labels": "l.csv", "masks": []}, "voc")
    assert labels_of(reader) == {"a": [0, 1], "b": [1, 1], "c": [1, 0]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,labels\na,cta\n", r"image 'a' in .*: unknown class 'cta'; did you mean 'cat'"),
        ("id,labels\na,cat\na,dog\n", r"row 3: id 'a' has a second row"),
        ("id,cat,dog\na,1,2\n", r"row 2: column 'dog' holds '2', not 0 or 1"),
        ("id,labels\nb,cat\n", r"image 'a': no row in the label table .*l\.csv"),
    ],
)
def test_bad_label_rows(voc_params, voc_root, text, message):
    write_text(voc_root / "l.csv", text)
    with pytest.raises(DataError, match=message):
        _ = make_reader({**voc_params, "labels": "l.csv"}, "voc").record("a", "train").labels


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.csv", "name,labels\na,cat\n", r"l\.csv: the header lacks the column 'id'"),
        ("l.csv", "id,size\na,3\n", r"l\.csv: has neither a column 'labels' nor one per class"),
        ("l.csv", "id,labels\na,cat,dog\n", r"l\.csv: row 2 has 3 fields, the header has 2"),
        ("l.json", '{"a": ["cat"],', r"l\.json: is not valid JSON"),
        ("l.json", '["a"]', r"l\.json: holds a list, not an object"),
        ("l.json", '{"a": ["cat"], "a": ["dog"]}', r"l\.json: the key 'a' occurs twice"),
        ("gone.csv", None, r"gone\.csv: does not exist"),
    ],
)
def test_bad_label_files_are_found_on_preparing(voc_params, voc_root, name, text, message):
    if text is not None:
        write_text(voc_root / name, text)
    (problem,) = make_reader({**voc_params, "labels": name}, "voc").prepare("train")
    with pytest.raises(DataError, match=message):
        raise DataError(problem)


def test_box_tables(voc_params, voc_root):
    write_text(voc_root / "b.json", json.dumps({"a": [["cat", 1, 2, 11, 12], ["person", 0, 0, 5, 5]]}))
    write_text(voc_root / "b.csv", "id,x1,y1,x2,y2\na,1,2,11,12\na,3,3,4,4\n")
    write_text(voc_root / "wh.csv", "id,x,y,w,h,class\na,1,2,10,10,cat\n")
    boxes = {}
    for name, box_format in (("b.json", "xyxy"), ("b.csv", "xyxy_inclusive"), ("wh.csv", "xywh")):
        reader = make_reader({**voc_params, "boxes": name, "box_format": box_format}, "voc")
        boxes[name] = reader.record("a", "train").boxes.tolist()
        assert reader.record("b", "train").boxes.shape == (0, 5)
        assert reader.sources("train").shared["boxes"] == (voc_root / name,)
    assert boxes["b.json"] == [[0, 1, 2, 11, 12]]  # the person is another class of the dataset
    assert boxes["b.csv"] == [[0, 1, 2, 12, 13], [0, 3, 3, 5, 5]]  # the image's only class
    assert boxes["wh.csv"] == [[0, 1, 2, 11, 12]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": [["cat", 1, 2, 3]]}', r"'a' must be a list of \[class, x1, y1, x2, y2\]"),
        ('{"a": [["cat", 1, 2, 3, "x"]]}', r"'a': box \[1, 2, 3, 'x'\] is not four numbers"),
        ('{"a": [["cat", 1, 2, 3, NaN]]}', r"not four finite numbers"),
    ],
)
def test_bad_boxes(voc_params, voc_root, text, message):
    write_text(voc_root / "b.json", text)
    with pytest.raises(DataError, match=message):
        _ = make_reader({**voc_params, "boxes": "b.json"}, "voc").record("a", "train").boxes


def test_box_without_class_in_an_image_of_two(voc_params, voc_root):
    write_text(voc_root / "b.csv", "id,x1,y1,x2,y2\nc,1,2,11,12\n")
    with pytest.raises(DataError, match=r"image 'c' in .*: a box has no class and the image has 2"):
        _ = make_reader({**voc_params, "boxes": "b.csv"}, "voc").record("c", "train").boxes


def test_sources_of_every_facet(voc_params, voc_root):
    write_xml(voc_root / "Annotations/a.xml", [("cat", 0, 1, 1, 10, 12)])
    (voc_root / "JPEGImages/b.jpg").unlink()
    sources = make_reader({**voc_params, "boxes": "xml"}, "voc").sources("train")
    assert sources.images == {
        "a": (voc_root / "JPEGImages/a.jpg",),
        "b": (),
        "c": (voc_root / "JPEGImages/c.jpg",),
    }
    assert sources.masks == sources.labels
    assert sources.masks["a"] == (voc_root / "SegmentationClass/a.png",)
    assert sources.boxes == {"a": (voc_root / "Annotations/a.xml",), "b": (), "c": ()}
    assert sources.shared == {}


def test_class_file_gives_names_and_counts_as_source(voc_root):
    write_text(voc_root / "classes.txt", "".join(f"c{i}\n" for i in range(15)))
    reader = make_reader({"format": "voc", "root": str(voc_root)}, "voc")
    assert reader.class_names[14] == "c14"
    assert np.flatnonzero(reader.record("b", "train").labels).tolist() == [11, 14]
    assert reader.sources("train").shared["labels"] == (voc_root / "classes.txt",)


def test_missing_or_ambiguous_photo(voc_params, voc_root):
    write_photo(voc_root / "JPEGImages/a.png")
    (voc_root / "JPEGImages/b.jpg").unlink()
    reader = make_reader(voc_params, "voc")
    with pytest.raises(DataError, match=r"image 'a': several image files \(a\.jpg, a\.png\)"):
        reader.record("a", "train")
    with pytest.raises(DataError, match=r"image 'b': no image file under .*JPEGImages"):
        reader.record("b", "train")


def test_missing_and_broken_xml(voc_params, voc_root):
    write_text(voc_root / "Annotations/b.xml", "<annotation><object>")
    write_xml(voc_root / "Annotations/c.xml", [("cat", 0, "left", 1, 10, 12)])
    reader = make_reader({**voc_params, "labels": "xml"}, "voc")
    for name, message in (
        ("a", r"a\.xml: does not exist"),
        ("b", r"b\.xml: is not readable XML"),
        ("c", "four numbers"),
    ):
        with pytest.raises(DataError, match=message):
            _ = reader.record(name, "train").labels


def test_config_mistakes(voc_params, voc_root):
    with pytest.raises(ConfigError, match="unknown key 'mask_vales'; did you mean 'mask_values'"):
        VocReader({"root": str(voc_root), "mask_vales": "voc"}, "v")
    with pytest.raises(ConfigError, match="dataset 'v': other_classes: 'void' is not one of ignore, background"):
        make_reader({**voc_params, "other_classes": "void"}, "v")
    with pytest.raises(ConfigError, match="`root` is missing"):
        make_reader({"format": "voc"}, "v")
    with pytest.raises(ConfigError, match="unknown format 'vco'; did you mean 'voc'"):
        make_reader({**voc_params, "format": "vco"}, "v")
    with pytest.raises(ConfigError, match="class 'cat' is listed twice"):
        _ = make_reader({**voc_params, "classes": ["cat", "cat"]}, "v").class_names
    with pytest.raises(ConfigError, match="labels: masks needs label maps"):
        make_reader({**voc_params, "masks": []}, "v")
    with pytest.raises(DataError, match=r"dataset 'v': the folder .*nowhere does not exist"):
        make_reader({**voc_params, "root": str(voc_root / "nowhere")}, "v")
    with pytest.raises(DataError, match=r"split 'trian' not found: .*trian\.txt does not exist; did you mean 'train'"):
        make_reader(voc_params, "v").ids("trian")


def test_keys_of_the_workflow_pass(voc_params):
    assert make_reader({**voc_params, "has_masks": True, "url": "x"}, "v").ids("val") == ["d"]


def test_variables_in_the_root(voc_params, voc_root, monkeypatch):
    monkeypatch.setenv("PHOTOS", str(voc_root.parent))
    assert make_reader({**voc_params, "root": "$PHOTOS/voc"}, "v").ids("val") == ["d"]


def test_parts_folder_reads_itself(tmp_path):
    from camflow.data.parts import PartsParams, generate_parts

    generate_parts(tmp_path / "parts", PartsParams(train=8, val=4, classes=3))
    reader = make_reader({"format": "parts", "root": str(tmp_path / "parts"), "classes": 3, "seed": 0}, "parts")
    assert len(reader.class_names) == 3
    for image_id in reader.ids("train"):
        record = reader.record(image_id, "train")
        drawn = np.unique(record.mask)
        assert set(drawn[(drawn > 0) & (drawn < 255)] - 1) == set(np.flatnonzero(record.labels))
        for index, x1, y1, x2, y2 in record.boxes:
            assert (record.mask[y1:y2, x1:x2] == index + 1).any()
