"""What is in a dataset decides what is computed anew; where it lies does not."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camflow.errors import RecipeError
from camflow.plan import content, views
from camflow.plan.content import FileDigests, changed_since
from camflow.plan.plan import Plan, parse_target

CONFIG = """
recipes: [mine/plain/cam/crf]
datasets:
  mine: {{format: voc, root: {root}, classes: [a, b], labels: labels.json, on_bad_image: {bad}}}
classifiers:
  plain: {{method: plain, backbone: tiny, weights: {weights}}}
localizers:
  cam: {{method: cam}}
refiners:
  crf: {{method: crf}}
  none: {{method: none}}
"""
PATHS = {
    "catalog": "mine/catalog.{split}.h5",
    "classifier": "mine/plain/classifier.pt",
    "maps": "mine/plain/cam/maps.{split}.h5",
    "seed score": "mine/plain/cam/score.{split}.json",
    "masks": "mine/plain/cam/crf/masks.{split}.h5",
}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A VOC folder of four training and four validation photos, and a function that plans with it."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "voc"
    rng = np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    ids = {split: [f"{split}{number}" for number in range(4)] for split in ("train", "val")}
    for split, names in ids.items():
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names))
        for name in names:
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(root / f"JPEGImages/{name}.png")
            Image.fromarray(rng.integers(0, 3, (8, 8), np.uint8)).save(root / f"SegmentationClass/{name}.png")
    labels = ", ".join(f'"{name}": ["a", "b"]' for names in ids.values() for name in names)
    (root / "labels.json").write_text(f"{{{labels}}}")

    def plan(root="voc", bad="error", weights="none"):
        (tmp_path / "config.yaml").write_text(CONFIG.format(root=root, bad=bad, weights=weights))
        return Plan.load(["config.yaml"])

    return root, plan


def paths(plan):
    return {
        (name, split): plan.path_of(path.format(split=split))
        for name, path in PATHS.items()
        for split in (("train", "val") if "{split}" in path else ("train",))
    }


def changed(before, after):
    return {key for key in before if before[key] != after[key]}


def repaint(path):
    Image.fromarray(np.random.default_rng(9).integers(0, 3, (8, 8), np.uint8)).save(path)


def test_a_mask_decides_scores_and_what_takes_its_threshold_from_them(mine):
    root, plan = mine
    before = paths(plan())
    repaint(root / "SegmentationClass/val1.png")
    assert changed(before, paths(plan())) == {("catalog", "val"), ("seed score", "val")}
    repaint(root / "SegmentationClass/train1.png")
    assert changed(before, paths(plan())) >= {("masks", "train"), ("masks", "val"), ("seed score", "train")}
    assert ("classifier", "train") not in changed(before, paths(plan()))


def test_with_skip_everything_the_check_looks_at_decides_which_images_are_kept(mine):
    root, plan = mine
    before = paths(plan(bad="skip"))
    repaint(root / "SegmentationClass/train1.png")
    assert {("classifier", "train"), ("maps", "train"), ("maps", "val")} <= changed(before, paths(plan(bad="skip")))


@pytest.mark.parametrize("bad", ["error", "skip"])
def test_a_photo_copied_into_the_other_split_makes_both_checks_look_again(mine, bad):
    root, plan = mine
    before = paths(plan(bad=bad))
    shutil.copy(root / "JPEGImages/train0.png", root / "JPEGImages/val0.png")
    after = changed(before, paths(plan(bad=bad)))
    assert {("catalog", "train"), ("catalog", "val")} <= after
    assert (("classifier", "train") in after) == (bad == "skip")


def test_another_folder_with_the_same_content_only_needs_a_new_catalog(mine):
    root, plan = mine
    before = paths(plan())
    shutil.copytree(root, root.parent / "copy")
    assert changed(before, paths(plan(root="copy"))) == {("catalog", "train"), ("catalog", "val")}


def test_a_renamed_file_only_needs_a_new_catalog(mine):
    root, plan = mine
    before = paths(plan())
    image = root / "JPEGImages/val1.png"
    image.rename(image.with_suffix(".bmp"))
    assert changed(before, paths(plan())) == {("catalog", "val")}


def test_weights_count_by_content(mine, tmp_path):
    _, plan = mine
    first, second = tmp_path / "a.pth", tmp_path / "b.pth"
    first.write_bytes(b"1")
    second.write_bytes(b"1")
    before = paths(plan(weights="a.pth"))
    assert changed(before, paths(plan(weights="b.pth"))) == set()
    first.write_bytes(b"2")
    assert ("classifier", "train") in changed(before, paths(plan(weights="a.pth")))


def test_a_touch_changes_nothing_and_the_cache_is_only_a_cache(mine):
    root, plan = mine
    before = paths(plan())
    for path in root.rglob("*.*"):
        os.utime(path, (1, 1))
    assert changed(before, paths(plan())) == set()
    shutil.rmtree("results", ignore_errors=True)
    assert changed(before, paths(plan())) == set()


def test_a_rewrite_of_the_same_size_and_time_is_seen(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"aa")
    files = FileDigests(tmp_path / "cache.json")
    first = files.of([path])
    marks = files.marks()
    files.save()
    state = path.stat()
    path.write_bytes(b"bb")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert FileDigests(tmp_path / "cache.json").of([path]) != first
    assert changed_since(marks) == [str(path)]


def test_a_link_of_a_gone_instance_stays_only_while_what_is_above_it_is_current(mine):
    _, make = mine
    plan = make()
    readable = "mine/plain/cam/none/masks.val.h5"
    link = plan.results / readable
    link.parent.mkdir(parents=True)
    link.symlink_to(views.source(plan, readable))
    text = Path("config.yaml").read_text().replace("  none: {method: none}\n", "")
    Path("config.yaml").write_text(text)
    assert views.remove_stale(Plan.load(["config.yaml"])) == []
    Path("config.yaml").write_text(text.replace("{method: cam}", "{method: cam, flip: false}"))
    assert views.remove_stale(Plan.load(["config.yaml"])) == [link]


def test_best_needs_masks_and_says_so(mine):
    _, make = mine
    make()
    text = Path("config.yaml").read_text().replace("labels: labels.json", "labels: labels.json, masks: []")
    Path("config.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"refiners\.crf\.threshold to a number"):
        Plan.load(["config.yaml"]).path(parse_target("mine/plain/cam/crf/masks.val.h5"))


def test_many_digests_are_kept_as_soon_as_they_are_known(tmp_path, monkeypatch):
    for name in range(1001):
        (tmp_path / f"{name}.x").write_bytes(b"x")
        os.utime(tmp_path / f"{name}.x", (1, 1))
    paths = sorted(tmp_path.glob("*.x"))
    found = FileDigests(tmp_path / "cache.json").of(paths)  # nobody saves
    monkeypatch.setattr(content, "_SETTLED_NS", -(10**18))  # as if all that was long ago
    monkeypatch.setattr(content, "_digest_file", lambda path: pytest.fail(f"{path} was read again"))
    assert FileDigests(tmp_path / "cache.json").of(paths) == found


def test_a_split_is_listed_once_for_all_that_is_in_it(mine):
    _, make = mine
    plan = make()
    reader = plan.content("mine")._reader
    listed, sources = [], reader.sources
    reader.sources = lambda split: listed.append(split) or sources(split)
    plan.path(parse_target("mine/plain/cam/none/score.train.json"))
    assert sorted(listed) == sorted(set(listed))
