"""The check names everything that is wrong, at once."""

import json
import shutil

import numpy as np
import pytest
from handmade import label_map, write_mask, write_photo, write_text, write_xml
from PIL import Image

from camflow.data.catalog import Catalog
from camflow.data.check import check_dataset, in_order, write_catalog
from camflow.data.readers.base import make_reader
from camflow.errors import ConfigError, DataError


def check(params, split="train", **options):
    return check_dataset(make_reader(params, "mine"), split, progress=False, **options)


def failure(params, split="train", **options) -> str:
    with pytest.raises(DataError) as caught:
        check(params, split, **options)
    return str(caught.value)


def add(root, name, mask, split="train", seed=None, size=(24, 32)):
    seed = sum(name.encode()) if seed is None else seed
    write_photo(root / f"JPEGImages/{name}.jpg", *size, seed=seed)
    if mask is not None:
        write_mask(root / f"SegmentationClass/{name}.png", mask)
    with open(root / f"ImageSets/Segmentation/{split}.txt", "a") as handle:
        handle.write(f"{name}\n")


def test_good_dataset(voc_params):
    result = check(voc_params)
    assert result.ids == ["a", "b", "c"]
    assert result.problems == []
    assert result.images_per_class() == {"cat": 2, "dog": 2}
    assert [image.size for image in result.images] == [(24, 32)] * 3


def test_everything_at_once(voc_params, voc_root, tmp_path):
    """Fourteen faults in one dataset; the one message names every one of them."""
    write_text(voc_root / "JPEGImages/a.jpg", "<html>")
    add(voc_root, "nomask", None)
    add(voc_root, "shape", label_map(8, height=20))
    add(voc_root, "range", label_map(8, 77))
    add(voc_root, "plain", label_map(15))
    (voc_root / "SegmentationClass/c.png").write_bytes(b"\x89PNG")
    add(voc_root, "twin1", label_map(8), seed=91)
    add(voc_root, "twin2", label_map(8), seed=91)
    add(voc_root, "leak", label_map(8), seed=3)  # the bytes of val's d
    painted = voc_root / "SegmentationClass/painted.png"
    add(voc_root, "painted", None, seed=92)
    Image.new("RGB", (32, 24)).save(painted)
    with open(voc_root / "ImageSets/Segmentation/train.txt", "a") as handle:
        handle.write("b\ngone\n")
    write_text(voc_root / "boxes.json", json.dumps({"b": [["dog", 20, 2, 50, 10]], "twin1": [["cat", 9, 9, 9, 12]]}))
    params = {**voc_params, "boxes": "boxes.json", "classes": ["cat", "dog", "cow"]}
    text = failure(params, report=tmp_path / "report.json")
    for message in [
        "a.jpg: cannot be decoded as an image (not an image)",
        "image 'nomask': no label map in",
        "shape.png: the label map is 20x32 (height x width) but the photo",
        "range.png: mask value 77 is out of range (known: 0..20 and 255)",
        "image 'plain': shows none of the classes",
        "c.png: cannot be decoded as a label map",
        "image 'twin2': is the same file, byte for byte, as 'twin1'",
        "image 'leak': its photo is also in split 'val'",
        "painted.png: a label map stores one class index per pixel",
        "image 'b': is listed 2 times",
        "image 'gone': no image file under",
        "image 'b': the box (20, 2, 50, 10) of class 'dog' leaves the image (width 32, height 24)",
        "image 'twin1': the box (9, 9, 9, 12) of class 'cat' has no area",
        "class 'cow' has no image",
    ]:
        assert text.count(message) == 1, message
    assert text.startswith("dataset 'mine', split 'train': 14 problems:")
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["problems"]) == 14
    assert {p["image_id"] for p in report["problems"]} >= {"a", "nomask", "shape", "range", "gone", None}


def test_skip_leaves_bad_images_out(voc_params, voc_root, tmp_path):
    write_text(voc_root / "JPEGImages/a.jpg", "")
    add(voc_root, "shape", label_map(8, height=20))
    result = check(voc_params, on_bad_image="skip", report=tmp_path / "r.json")
    assert result.ids == ["b", "c"]
    assert result.dropped == ["a", "shape"]
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["dropped"] == ["a", "shape"]
    assert report["images"] == 2
    write_catalog(result, tmp_path / "c.h5")
    assert Catalog(tmp_path / "c.h5").ids == ["b", "c"]
    assert check({**voc_params, "on_bad_image": "skip"}).dropped == ["a", "shape"]  # the config's own word


def test_skip_with_nothing_left(voc_params, voc_root):
    for name in "abc":
        write_text(voc_root / f"JPEGImages/{name}.jpg", "")
    assert "no image is usable" in failure(voc_params, on_bad_image="skip")


def test_empty_list(voc_params, voc_root):
    write_text(voc_root / "ImageSets/Segmentation/train.txt", "\n")
    assert "the split lists no image; check its list or folder" in failure(voc_params)


def test_broken_label_table_is_reported_once(voc_params, voc_root):
    write_text(voc_root / "l.csv", "id,labels\na,cat,dog\n")
    text = failure({**voc_params, "labels": "l.csv"}, on_bad_image="skip")
    assert "1 problem:" in text
    assert "l.csv: row 2 has 3 fields" in text


def test_missing_label_row_and_xml(voc_params, voc_root):
    write_text(voc_root / "l.csv", "id,labels\na,cat\nb,dog\n")
    assert "image 'c': no row in the label table" in failure({**voc_params, "labels": "l.csv"})
    write_xml(voc_root / "Annotations/a.xml", [("cat", 0, 1, 1, 2, 2)])
    text = failure({**voc_params, "labels": "xml"})
    assert "b.xml: does not exist" in text
    assert "c.xml: does not exist" in text


def test_labels_without_masks_pass_with_a_note(voc_params, voc_root):
    shutil.rmtree(voc_root / "SegmentationClass")
    write_text(voc_root / "l.csv", "id,labels\na,cat\nb,dog\nc,cat\n")
    result = check({**voc_params, "labels": "l.csv"})
    assert result.errors == []
    assert [note.message for note in result.notes] == ["no image has a label map; segmentation scores need them"]


def test_single_missing_mask_is_a_note_when_labels_come_from_elsewhere(voc_params, voc_root, tmp_path):
    (voc_root / "SegmentationClass/b.png").unlink()
    write_text(voc_root / "l.csv", "id,labels\na,cat\nb,dog\nc,cat\n")
    result = check({**voc_params, "labels": "l.csv"})
    assert [note.message for note in result.notes] == ["image 'b': has no label map"]
    write_catalog(result, tmp_path / "c.h5")
    catalog = Catalog(tmp_path / "c.h5")
    assert catalog.mask("b") is None
    assert catalog.mask("a") is not None
    assert catalog.has_masks


def test_unlabelled_images_may_be_allowed(voc_params, voc_root):
    add(voc_root, "empty", label_map())
    assert "image 'empty': shows none of the classes" in failure(voc_params)
    assert check({**voc_params, "allow_unlabelled": True}).images[-1].labels == ()


def test_exif_rotated_photo(voc_params, voc_root, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways = np.random.default_rng(3).integers(0, 256, (32, 24, 3), dtype=np.uint8)
    Image.fromarray(sideways).save(voc_root / "JPEGImages/a.jpg", exif=exif)
    result = check(voc_params)
    assert result.images[0].size == (24, 32)
    write_mask(voc_root / "SegmentationClass/a.png", label_map(8, height=32, width=24))
    assert "turned by its EXIF tag, turn the label map too" in failure(voc_params)


def test_leak_by_id_from_both_sides(voc_params, voc_root):
    with open(voc_root / "ImageSets/Segmentation/train.txt", "a") as handle:
        handle.write("d\n")
    assert "image 'd': its photo is also in split 'val'" in failure(voc_params)
    assert "image 'd': its photo is also in split 'train'" in failure(voc_params, "val")
    assert check(voc_params, on_bad_image="skip").dropped == ["d"]
    assert check(voc_params, "val", on_bad_image="skip").ids == ["d"]  # the evaluation split stays whole
    assert check(voc_params, against=[]).ids == ["a", "b", "c", "d"]


def test_duplicates_as_notes(voc_params, voc_root):
    shutil.copy(voc_root / "JPEGImages/a.jpg", voc_root / "JPEGImages/b.jpg")
    assert "image 'b': is the same file" in failure(voc_params)
    result = check({**voc_params, "on_duplicate": "note"})
    assert [note.kind for note in result.notes] == ["duplicate image"]
    assert result.ids == ["a", "b", "c"]


def test_class_without_images_is_a_note_in_val(voc_params):
    result = check(voc_params, "val")
    assert [note.message for note in result.notes] == ["class 'cat' has no image; take it out of `classes`"]


def test_boxes_at_the_border(voc_params, voc_root):
    boxes = {"a": [["cat", -1, 0, 33, 24]], "c": [["dog", 40, 40, 50, 50], ["cat", 0, -9, 99, 9]]}
    write_text(voc_root / "b.json", json.dumps(boxes))
    params = {**voc_params, "boxes": "b.json"}
    assert "image 'c': the box (40, 40, 50, 50)" in failure(params)
    result = check({**params, "clip_boxes": True})
    assert result.images[0].boxes.tolist() == [[0, 0, 0, 32, 24]]
    assert result.images[2].boxes.tolist() == [[0, 0, 0, 32, 9]]


def test_long_lists_are_capped_in_the_message_only(voc_params, voc_root, tmp_path):
    names = [f"x{i:03d}" for i in range(70)]
    write_text(voc_root / "ImageSets/Segmentation/train.txt", "\n".join(["a", "b", *names]))
    text = failure(voc_params, report=tmp_path / "r.json")
    assert text.count("no image file") == 50
    assert f"and 20 more, all listed in {tmp_path / 'r.json'}" in text
    assert len(json.loads((tmp_path / "r.json").read_text())["problems"]) == 70


def test_threads_change_nothing(voc_params, voc_root, tmp_path):
    for number in range(30):
        add(voc_root, f"n{number:02d}", label_map(8 if number % 2 else 12), seed=100 + number)
    for jobs in (1, 3):
        write_catalog(check(voc_params, jobs=jobs), tmp_path / f"{jobs}.h5", jobs=jobs)
    assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "3.h5").read_bytes()


def test_in_order_holds_a_bounded_number_of_results():
    live, peak = set(), []

    def work(item):
        live.add(item)
        peak.append(len(live))
        return item

    for item in in_order(work, range(200), jobs=2):
        live.discard(item)
    assert max(peak) <= 10


def test_an_unexpected_failure_is_not_swallowed():
    def work(item):
        return 1 // (item - 3)

    with pytest.raises(ZeroDivisionError):
        list(in_order(work, range(50), jobs=2))


def test_unknown_choice(voc_params):
    with pytest.raises(ConfigError, match="on_bad_image: 'ignore' is neither error nor skip"):
        check(voc_params, on_bad_image="ignore")
