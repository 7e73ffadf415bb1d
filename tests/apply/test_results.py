"""Boxes of label maps against a flood fill, and what a stopped run leaves."""

import json

import numpy as np
import pytest
from PIL import Image

from camflow.apply import results
from camflow.apply.results import boxes_of, overlay_picture, paths_of, write_results

NAMES = ["cat", "dog", "cow"]


def flood(labels):
    """(class, box, pixels) of every part of pixels that touch, corners included."""
    found, left = [], {(y, x) for y, x in np.argwhere((labels > 0) & (labels < 255)).tolist()}
    while left:
        start = left.pop()
        part, front = {start}, [start]
        while front:
            y, x = front.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            near = {place for place in near if labels[place] == labels[start]}
            left -= near
            part |= near
            front += near
        ys, xs = zip(*part, strict=True)
        found.append((NAMES[labels[start] - 1], [min(xs), min(ys), max(xs) + 1, max(ys) + 1], part))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_boxes_are_those_of_the_connected_parts(seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.array([0, 0, 0, 1, 2, 3, 255], np.uint8), (12, 17))
    maps = rng.random((2, 12, 17)).astype(np.float32)
    found = boxes_of(labels, NAMES, maps, [0, 2])
    wanted = [
        (name, box, len(part), max(maps[0 if name == "cat" else 1][place] for place in part) if name != "dog" else None)
        for name, box, part in flood(labels)
    ]
    given = [(item["class"], item["box"], item["pixels"], item["score"]) for item in found]
    assert len(given) == len(wanted)
    for one, other in zip(sorted(given, key=str), sorted(((*w[:3], w[3]) for w in wanted), key=str), strict=True):
        assert one[:3] == other[:3]
        assert one[3] == (None if other[3] is None else pytest.approx(float(other[3]), abs=1e-6))
    for name in NAMES:  # the largest part first
        pixels = [item["pixels"] for item in found if item["class"] == name]
        assert pixels == sorted(pixels, reverse=True)


def test_an_overlay_shows_the_mask_and_the_box():
    photo = np.full((60, 80, 3), 100, np.uint8)
    labels = np.zeros((60, 80), np.uint8)
    labels[20:50, 10:70] = 2
    boxes = boxes_of(labels, NAMES, np.zeros((0, 60, 80)), [])
    picture = np.asarray(overlay_picture(photo, labels, boxes, NAMES))
    assert (picture[:20] == 100).all() and (picture[:, 70:] == 100).all()
    assert picture[20, 10].tolist() == [0, 128, 0]  # VOC's second colour
    assert picture[45, 40].tolist() == [40, 116, 40]  # .4 photo + .6 colour
    # A name that does not fit into its box would hide what is beside it.
    small = np.where(np.add.outer(np.arange(60), np.arange(80)) < 4, 2, 0).astype(np.uint8)
    picture = np.asarray(overlay_picture(photo, small, boxes_of(small, NAMES, np.zeros((0, 60, 80)), []), NAMES))
    assert (picture[4:] == 100).all() and (picture[:, 4:] == 100).all()
    assert overlay_picture(photo[:1, :1], labels[:1, :1], [], NAMES).size == (1, 1)


def test_a_stop_between_two_files_leaves_no_facts_and_no_part_of_a_file(tmp_path, monkeypatch):
    photo, labels = np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.uint8)
    arguments = (photo, labels, np.zeros((1, 4, 5), np.float32), [0], NAMES, {})

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(results, "overlay_picture", stopped)
        with pytest.raises(KeyboardInterrupt):
            write_results(tmp_path, "b/a", *arguments)
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"a.npy", "a.mask.png"}
    write_results(tmp_path, "b/a", *arguments)
    paths = paths_of(tmp_path, "b/a")
    assert all(path.is_file() for path in paths.values()) and len(list((tmp_path / "b").iterdir())) == 4
    assert json.loads(paths["facts"].read_text()) == {"boxes": [], "height": 4, "maps": ["cat"], "width": 5}
    with Image.open(paths["mask"]) as mask:
        assert mask.mode == "P" and mask.size == (5, 4)
