"""The localizer `import`: what its maps are keyed by, and which recipes it fits into."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camflow.errors import ConfigError, RecipeError
from camflow.localize.imported import CHOICES, ImportParams
from camflow.plan.config import methods
from camflow.plan.folders import owners
from camflow.plan.plan import parse_target
from camflow.store import shard_of

CONFIG = {
    "recipes": ["mine/none/imported/crf"],
    "datasets": {"mine": {"format": "voc", "root": "voc", "classes": ["cat", "dog"], "masks": []}},
    "classifiers": {"none": {"method": "none"}, "plain": {"method": "plain", "backbone": "tiny", "weights": "none"}},
    "localizers": {"imported": {"method": "import", "folder": "maps"}, "cam": {"method": "cam"}},
    "refiners": {
        "crf": {"method": "crf", "threshold": 0.3},
        "irn": {"method": "irn", "weights": "classifier"},
        "psa": {"method": "psa"},
        "gt": {"method": "gt"},
    },
    "segmenters": {"psl": {"method": "psl", "backbone": "tiny", "weights": "none", "freeze_bn": False}},
}
IDS = {"train": ["a_1", "a_2", "a_3", "a_4"], "val": ["b_1", "b_2"]}
MAPS = {split: f"mine/none/imported/maps.{split}.h5" for split in IDS}


@pytest.fixture
def made(plan):
    """The plan of a small dataset of one's own, with maps for each image."""

    def make(**changes):
        if not Path("voc").exists():
            for folder in ("voc/JPEGImages", "voc/ImageSets/Segmentation", "maps"):
                Path(folder).mkdir(parents=True)
            for split, ids in IDS.items():
                Path(f"voc/ImageSets/Segmentation/{split}.txt").write_text("".join(f"{name}\n" for name in ids))
                for name in ids:
                    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(f"voc/JPEGImages/{name}.jpg")
                    np.save(f"maps/{name}.npy", {0: np.zeros((8, 8))})
            Path("voc/labels.csv").write_text(
                "id,labels\n" + "".join(f"{n},cat\n" for ids in IDS.values() for n in ids)
            )
        return plan(**{"datasets.mine.labels": "labels.csv", **changes})

    return make


def paths(plan):
    return {split: plan.path_of(path) for split, path in MAPS.items()}


def test_the_content_of_a_split_decides_its_maps(made):
    before = paths(made())
    np.save("maps/b_1.npy", {0: np.ones((8, 8))})
    after = paths(made())
    assert after["val"] != before["val"] and after["train"] == before["train"]
    Path("maps/stray.npy").write_text("no image has this name")
    assert paths(made()) == after
    Path("maps/b_2.npy").unlink()
    assert paths(made())["val"] not in (before["val"], after["val"])


def test_only_the_shard_of_a_changed_file_is_made_anew(made):
    goal = parse_target(MAPS["train"])
    before = [made().path(goal, (k, 2)) for k in range(2)]
    np.save("maps/a_3.npy", {0: np.ones((8, 8))})
    after = [made().path(goal, (k, 2)) for k in range(2)]
    changed = {k for k in range(2) if before[k] != after[k]}
    assert changed == {shard_of("a_3", 2)}


def test_where_the_folder_lies_decides_nothing(made):
    before = paths(made())
    shutil.move("maps", "elsewhere")
    assert paths(made(**{"localizers.imported.folder": "elsewhere"})) == before
    assert paths(made(**{"localizers.imported.folder": str(Path("elsewhere").absolute())})) == before
    with pytest.raises(ConfigError, match=r"localizers\.imported\.folder: there is no folder maps; correct the path"):
        paths(made())


OTHERS = {
    "format": "npz", "classes": "name", "array": "cam", "normalise": "max", "missing": "zeros", "extra": "drop",
    "stretch": True,
}  # fmt: skip


@pytest.mark.parametrize(("key", "value"), OTHERS.items())
def test_every_other_parameter_decides(made, key, value):
    before = paths(made())
    after = paths(made(**{f"localizers.imported.{key}": value}))
    assert after["train"] != before["train"] and after["val"] != before["val"]


def test_what_is_made_of_imported_maps_follows_them(made):
    masks = "mine/none/imported/crf/masks.val.h5"
    before = made().path_of(masks)
    np.save("maps/b_1.npy", {0: np.ones((8, 8))})
    assert made().path_of(masks) != before


def test_a_made_dataset_plans_the_same_before_and_after_it_is_there(plan):
    """Its ids are not known before, so all files of the folder count."""
    Path("maps").mkdir()
    np.save("maps/train_1.npy", {0: np.zeros((8, 8))})
    parts = {"datasets.parts": {"format": "parts", "train": 4, "val": 2}, "recipes": ["parts/none/imported"]}
    made = plan(**parts)
    before = made.path_of("parts/none/imported/maps.val.h5")
    np.save("maps/train_1.npy", {0: np.ones((8, 8))})
    assert plan(**parts).path_of("parts/none/imported/maps.val.h5") != before


def test_refiners_that_need_a_classifier_say_so(made):
    plan = made()
    plan.check(("mine", "none", "imported", "crf"))
    plan.check(("mine", "plain", "imported", "irn"))
    for name in ("irn", "psa"):
        with pytest.raises(RecipeError, match=rf"refiner '{name}' .*method {name}. needs [a-z, ]+, which mine and none and "
                           r"imported does not provide\. What fits here: crf\."):  # fmt: skip
            plan.check(("mine", "none", "imported", name))
    with pytest.raises(RecipeError, match=r"method cam. needs class maps, which mine and none does not provide"):
        plan.check(("mine", "none", "cam"))
    with pytest.raises(
        RecipeError, match=r"mine/none/confidence.val.h5: classifier 'none' has no files|needs a classifier"
    ):
        plan.inputs(parse_target("mine/none/imported/crf/psl/predictions.val.h5"))
        for goal in plan.reads(parse_target("mine/none/imported/crf/psl/psl_network.pt")).values():
            plan.path(goal)


def test_nothing_but_the_catalog_is_read(made):
    reads = made().reads(parse_target("mine/plain/imported/maps.val.h5"))
    assert {name: goal.path for name, goal in reads.items()} == {"catalog": "mine/catalog.val.h5"}
    reads = made().reads(parse_target("mine/none/imported/score.val.json"))
    assert set(reads) == {"catalog", "maps", "threshold"}


def test_whose_a_file_may_be():
    assert set(owners("a/b_c_1.png")) == {"a/b_c_1", "a/b_c", "a/b", "b_c_1"}


def test_the_schema_is_that_of_the_parameters():
    rules = methods("localizers")["import"]["properties"]
    fields = {field.name: field.default for field in dataclasses.fields(ImportParams)}
    assert set(rules) == set(fields)
    assert {key: rule["default"] for key, rule in rules.items() if "default" in rule} == {
        key: value for key, value in fields.items() if value is not dataclasses.MISSING
    }
    assert {key: tuple(rule["enum"]) for key, rule in rules.items() if "enum" in rule} == CHOICES
