"""COCO instances, against pycocotools' own COCO class."""

import contextlib
import hashlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from handmade import write_photo, write_text
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from camflow.data.check import check_dataset
from camflow.data.readers.base import make_reader
from camflow.data.readers.coco import COCO_CLASSES, load_instances
from camflow.errors import DataError

H, W = 40, 60
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]


def annotation(number, image, category, outline, box=(0, 0, 1, 1), crowd=0):
    return {
        "id": number, "image_id": image, "category_id": category, "segmentation": outline, "bbox": list(box),
        "iscrowd": crowd, "area": 1,
    }  # fmt: skip


def run_length(y, x, height, width):
    drawn = np.zeros((H, W), np.uint8)
    drawn[y : y + height, x : x + width] = 1
    code = coco_mask.encode(np.asfortranarray(drawn))
    flat, counts, value = drawn.ravel(order="F"), [], 0
    while flat.size:  # the uncompressed code: alternating run lengths, zeros first
        run = int(np.argmax(flat != value)) if (flat != value).any() else flat.size
        counts.append(run)
        flat, value = flat[run:], 1 - value
    return {"size": [H, W], "counts": counts}, {"size": [H, W], "counts": code["counts"].decode()}


@pytest.fixture
def coco(tmp_path):
    """Four photos: two with overlapping annotations of every kind, one with a crowd only, one with nothing."""
    for number in range(1, 5):
        write_photo(tmp_path / f"train2014/COCO_train2014_{number:012d}.jpg", H, W, seed=number)
    plain, packed = run_length(5, 20, 20, 15)
    annotations = [
        annotation(101, 1, 17, [[5.5, 4.2, 40.1, 6.0, 33.3, 30.7, 8.0, 28.0]], (5.5, 4.2, 34.6, 26.5)),
        annotation(102, 1, 1, [[20, 2, 50, 2, 50, 25, 20, 25], [2, 30, 12, 30, 7, 39]], (2, 2, 48, 37)),
        annotation(103, 2, 18, packed, (20, 5, 15, 20)),
        annotation(100, 2, 17, [[25.0, 8, 55, 8, 55, 38, 25, 38]], (25, 8, 35.4, 30)),
        annotation(104, 2, 1, plain, (20, 5, 15, 20), crowd=1),
        annotation(105, 3, 1, plain, (20, 5, 15, 20), crowd=1),
    ]
    images = [{"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg", "height": H, "width": W} for n in (3, 1, 4, 2)]
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    write_text(tmp_path / "annotations/instances_train2014.json", json.dumps(content))
    return tmp_path


def params(root, **more):
    return {"format": "coco", "root": str(root), "classes": ["person", "cat", "dog"], **more}


def image_id(number):
    return f"COCO_train2014_{number:012d}"


def expected_mask(root, number, values, size=(H, W)):
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(str(root / "annotations/instances_train2014.json"))
    drawn = np.zeros(size, np.uint8)
    for item in reference.imgToAnns[number]:
        if not item["iscrowd"]:
            drawn[reference.annToMask(item) == 1] = values[item["category_id"]]
    return drawn


def test_official_class_list():
    assert len(COCO_CLASSES) == len(set(COCO_CLASSES)) == 80
    # Positions in the contiguous numbering (category ids 1, 17, 62, 72, 90), from the published 91 -> 80 table.
    assert [COCO_CLASSES[i] for i in (0, 15, 56, 62, 79)] == ["person", "cat", "chair", "tv", "toothbrush"]


def test_planning_keeps_the_json_closed(coco):
    (coco / "annotations/instances_train2014.json").write_text("not json")
    reader = make_reader(params(coco), "coco")
    assert reader.ids("train") == [image_id(n) for n in (1, 2, 3, 4)]
    assert reader.splits == ("train",)
    sources = reader.sources("train")
    assert sources.images[image_id(2)] == (coco / f"train2014/{image_id(2)}.jpg",)
    annotations = (coco / "annotations/instances_train2014.json",)
    assert sources.shared == {"labels": annotations, "boxes": annotations, "masks": annotations}


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_masks_are_those_of_ann_to_mask(coco, number):
    record = make_reader(params(coco), "coco").record(image_id(number), "train")
    np.testing.assert_array_equal(record.mask, expected_mask(coco, number, {1: 1, 17: 2, 18: 3}))
    assert record.mask.dtype == np.uint8


def test_the_published_checksums(tmp_path):
    """The annotation file and digests of docs/coco.md: whoever builds true masks of COCO can compare theirs."""
    page = (Path(__file__).parents[2] / "docs" / "coco.md").read_text()
    text = re.search(r"```json\n(.*?)```", page, re.DOTALL)[1]
    content = json.loads(text)
    write_text(tmp_path / "annotations/instances_train2014.json", text)
    digests = {}
    for image in content["images"]:
        write_photo(tmp_path / "train2014" / image["file_name"], image["height"], image["width"], seed=image["id"])
        mask = (
            make_reader({"format": "coco", "root": str(tmp_path)}, "coco").record(image_id(image["id"]), "train").mask
        )
        digests[str(image["id"])] = hashlib.sha256(mask.tobytes()).hexdigest()
        ids = {category["id"]: COCO_CLASSES.index(category["name"]) + 1 for category in content["categories"]}
        np.testing.assert_array_equal(mask, expected_mask(tmp_path, image["id"], ids, mask.shape))
    assert digests == dict(re.findall(r"^\| (\d+) \| .* \| `([0-9a-f]{64})` \|$", page, re.MULTILINE))


def test_labels_and_boxes_leave_crowds_out(coco):
    reader = make_reader(params(coco), "coco")
    records = {n: reader.record(image_id(n), "train") for n in (1, 2, 3, 4)}
    assert {n: r.labels.tolist() for n, r in records.items()} == {
        1: [1, 1, 0],
        2: [0, 1, 1],
        3: [0, 0, 0],
        4: [0, 0, 0],
    }
    assert records[1].boxes.tolist() == [[1, 5, 4, 41, 31], [0, 2, 2, 50, 39]]
    assert records[2].boxes.tolist() == [[2, 20, 5, 35, 25], [1, 25, 8, W, 38]]
    assert len(records[3].boxes) == 0


def test_subset_other_classes_and_crowd(coco):
    cat_only = make_reader(params(coco, classes=["cat"]), "coco")
    np.testing.assert_array_equal(
        cat_only.record(image_id(1), "train").mask, expected_mask(coco, 1, {17: 1, 1: 255, 18: 255})
    )
    background = make_reader(params(coco, classes=["cat"], other_classes="background"), "coco")
    np.testing.assert_array_equal(
        background.record(image_id(1), "train").mask, expected_mask(coco, 1, {17: 1, 1: 0, 18: 0})
    )
    crowd = make_reader(params(coco, crowd="ignore"), "coco").record(image_id(3), "train").mask
    assert (crowd == 255).sum() == 20 * 15


def test_images_without_labels_stay(coco):
    result = check_dataset(make_reader(params(coco), "coco"), "train", progress=False)
    assert result.ids == [image_id(n) for n in (1, 2, 3, 4)]
    assert result.errors == []


def test_list_and_explicit_paths(coco):
    write_text(coco / "few.txt", f"{image_id(2)}.jpg\n{image_id(1)}\n")
    reader = make_reader(
        params(
            coco, images={"mini": "train2014"}, annotations={"mini": "annotations/instances_train2014.json"},
            lists={"mini": "few.txt"},
        ), "coco"
    )  # fmt: skip
    assert reader.splits == ("mini",)
    assert reader.ids("mini") == [image_id(2), image_id(1)]
    with pytest.raises(DataError, match="split 'train' not found"):
        reader.ids("train")


def test_labels_and_boxes_only(coco):
    reader = make_reader(params(coco, masks=False), "coco")
    assert reader.record(image_id(1), "train").mask is None
    assert not reader.renders_masks
    assert "masks" not in reader.sources("train").shared


def test_json_is_parsed_once(coco):
    load_instances.cache_clear()
    check_dataset(make_reader(params(coco), "coco"), "train", progress=False, jobs=2)
    assert load_instances.cache_info().misses == 1


def edit(root, change):
    path = root / "annotations/instances_train2014.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.pop("categories"),
            r"instances_train2014\.json: is not a COCO instances file \(trouble at 'categories'",
        ),
        (lambda c: c["categories"].pop(1), "has no category 'cat'"),
        (lambda c: c["annotations"][0].update(image_id=77), "annotation 101 is of the unknown image 77"),
        (lambda c: c["images"].pop(0), f"image '{image_id(3)}': not in .*json"),
        (
            lambda c: c["annotations"][0].update(segmentation=[]),
            "annotation 101 has no segmentation; add it, or set masks",
        ),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2]]), "annotation 101 has a malformed segmentation"),
        (
            lambda c: c["annotations"][2]["segmentation"].update(size=[W, H]),
            "annotation 103 is 60x40 but its image is 40x60",
        ),
        (lambda c: c["images"][1].update(height=41), r"label map is 41x60 .* but the photo .*000001\.jpg is 40x60"),
    ],
)
def test_bad_annotations_are_named(coco, change, message):
    def harmless(content):
        change(content)
        # Image 3 loses its crowd, so that removing it from the list is the only trouble.
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 3]

    edit(coco, harmless)
    with pytest.raises(DataError, match=message):
        check_dataset(make_reader(params(coco), "coco"), "train", progress=False)
