"""The embedded dataset: same parameters, same bytes; and every file of an image tells the same story."""

from __future__ import annotations

import hashlib
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camflow.data.parts import NAMES, PartsParams, contact_sheet, draw_scene, generate_parts, species
from camflow.errors import ConfigError, DataError

PARAMS = PartsParams(seed=3, train=60, val=20)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file by its path inside the folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def split_ids(folder: Path, split: str) -> list[str]:
    return (folder / f"ImageSets/Segmentation/{split}.txt").read_text().split()


def read(folder: Path, kind: str, name: str) -> np.ndarray:
    return np.asarray(Image.open(folder / kind / f"{name}.png"))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "parts"
    generate_parts(folder, PARAMS)
    return folder


# --------------------------------------------------------------------------------------------------- same bytes


def test_same_parameters_give_the_same_bytes(parts: Path, tmp_path: Path):
    generate_parts(tmp_path / "again", PARAMS)
    assert digests(tmp_path / "again") == digests(parts)


def test_an_image_does_not_depend_on_how_many_there_are(parts: Path, tmp_path: Path):
    generate_parts(tmp_path / "few", PartsParams(seed=3, train=5, val=2))
    many, few = digests(parts), digests(tmp_path / "few")
    drawn = [path for path in few if path.count("/") == 1]  # the lists and labels are of course shorter
    assert len(drawn) == 7 * 4
    assert {path: few[path] for path in drawn} == {path: many[path] for path in drawn}


def test_another_seed_gives_other_images(parts: Path, tmp_path: Path):
    generate_parts(tmp_path / "other", PartsParams(seed=4, train=3, val=1))
    photos = {path: d for path, d in digests(tmp_path / "other").items() if path.startswith("JPEGImages")}
    assert not set(photos.values()) & set(digests(parts).values())


def test_train_and_val_share_no_id_and_no_photo(parts: Path):
    train, val = split_ids(parts, "train"), split_ids(parts, "val")
    assert (len(train), len(val)) == (60, 20)
    assert train[0] == "train_00001"
    assert val[0] == "val_00001"
    photos = [hashlib.sha256(read(parts, "JPEGImages", name).tobytes()).digest() for name in train + val]
    assert len(set(photos)) == 80


# ------------------------------------------------------------------------------------------------ one true story


def test_masks_boxes_and_labels_agree(parts: Path):
    names = (parts / "classes.txt").read_text().split()
    assert tuple(names) == NAMES[:6]
    labels = json.loads((parts / "labels.json").read_text())
    assert list(labels) == split_ids(parts, "train") + split_ids(parts, "val")
    for name, present in labels.items():
        photo, classes, objects = (
            read(parts, kind, name) for kind in ("JPEGImages", "SegmentationClass", "SegmentationObject")
        )
        assert (photo.shape, classes.shape, objects.shape) == ((96, 96, 3), (96, 96), (96, 96))
        assert photo.dtype == np.uint8
        assert np.array_equal(classes > 0, objects > 0)
        assert present == [names[c - 1] for c in np.unique(classes) if c]
        found = ElementTree.parse(parts / "Annotations" / f"{name}.xml").getroot().findall("object")
        assert len(found) == objects.max() >= 1
        for k, entry in enumerate(found, start=1):
            assert set(classes[objects == k]) == {names.index(entry.findtext("name")) + 1}
            y, x = np.nonzero(objects == k)
            box = [int(entry.find("bndbox").findtext(tag)) for tag in ("xmin", "ymin", "xmax", "ymax")]
            assert box == [x.min() + 1, y.min() + 1, x.max() + 1, y.max() + 1]
            head = [int(entry.find("part/bndbox").findtext(tag)) for tag in ("xmin", "ymin", "xmax", "ymax")]
            assert box[0] <= head[0] <= head[2] <= box[2]
            assert box[1] <= head[1] <= head[3] <= box[3]


def test_masks_carry_the_voc_colours(parts: Path):
    with Image.open(parts / "SegmentationClass/train_00001.png") as mask:
        assert mask.mode == "P"
        colours = np.array(mask.getpalette()).reshape(-1, 3)
    assert colours[:3].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]


# ------------------------------------------------------------------------------------- what the methods need


def test_a_head_is_small_and_a_creature_stays_recognisable():
    share, counts, repeated, hidden = [], [], 0, 0
    for index in range(120):
        scene = draw_scene(PartsParams(), "train", index)[1]
        pixels, head_pixels = scene.visible()[1:].T
        whole, whole_head = np.array(scene.areas).T
        share += (head_pixels / pixels).tolist()
        assert (pixels >= 0.5 * whole).all()
        assert (head_pixels >= 0.5 * whole_head).all()
        counts.append(len(scene.classes))
        repeated += len(set(scene.classes)) < len(scene.classes)
        hidden += bool((pixels < 0.95 * whole).any())
    assert 0.05 < np.mean(share) < 0.15
    assert set(counts) == {1, 2, 3}
    assert repeated > 5
    assert hidden > 20


def test_the_water_comes_with_its_class_and_every_class_occurs(monkeypatch: pytest.MonkeyPatch):
    from camflow.data import parts as module

    grounds = []
    monkeypatch.setattr(module, "illuminate", lambda photo, rng: photo)  # nothing below looks at the photo
    plain = module.draw_background
    monkeypatch.setattr(
        module, "draw_background", lambda size, kind, rng: grounds.append(kind) or plain(size, kind, rng)
    )
    present = [set(draw_scene(PartsParams(), "train", index)[1].classes) for index in range(300)]
    wet = np.array([kind == "water" for kind in grounds])
    with_class = np.array([0 in classes for classes in present])
    assert 0.7 < wet[with_class].mean() < 0.9
    assert wet[~with_class].mean() < 0.12
    occurrences = np.array([sum(k in classes for classes in present) for k in range(6)])
    assert occurrences.min() > 45  # about 300 * 0.27 expected of each


def test_bodies_are_shared_by_pairs_and_heads_by_none():
    kinds = [species(k) for k in range(len(NAMES))]
    for a in range(0, len(kinds), 2):
        assert kinds[a].texture == kinds[a + 1].texture
    assert len({(kind.head_shape, kind.head_hue, kind.head_marking) for kind in kinds}) == len(kinds)
    assert len({kind.head_hue for kind in kinds[:6]}) == len({kind.head_shape for kind in kinds[:6]}) == 6


@pytest.mark.parametrize("size", [48, 60, 150])
def test_any_size_has_a_creature_in_every_image(size: int):
    for index in range(15):
        photo, scene = draw_scene(PartsParams(size=size, classes=12), "val", index)
        assert photo.shape == (size, size, 3)
        assert scene.visible()[1:, 1].min() > 0  # and its head shows


# --------------------------------------------------------------------------------------------- whole or not at all


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("train", 0),
        ("val", 2.5),
        ("val", True),
        ("size", 32),
        ("classes", 1),
        ("classes", 13),
        ("context", 1.2),
        ("context", "often"),
    ],
)
def test_bad_parameters_are_named(key: str, value: object):
    with pytest.raises(ConfigError, match=f"parts.{key} must be"):
        PartsParams(**{key: value})


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("camflow.data.parts.annotation_xml", fail)
    with pytest.raises(OSError, match="disk full"):
        generate_parts(tmp_path / "parts", PartsParams(train=1, val=1))
    assert list(tmp_path.iterdir()) == []


def test_only_an_earlier_dataset_is_replaced(tmp_path: Path):
    generate_parts(tmp_path / "parts", PartsParams(train=3, val=1))
    generate_parts(tmp_path / "parts", PartsParams(train=2, val=1))
    assert split_ids(tmp_path / "parts", "train") == ["train_00001", "train_00002"]
    assert not (tmp_path / "parts/JPEGImages/train_00003.png").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="mine holds files"):
        generate_parts(tmp_path / "mine", PartsParams(train=1, val=1))
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"


def test_the_contact_sheet_draws(parts: Path, tmp_path: Path):
    contact_sheet(parts, 4).savefig(tmp_path / "sheet.png", dpi=40)
    assert (tmp_path / "sheet.png").stat().st_size > 5000
