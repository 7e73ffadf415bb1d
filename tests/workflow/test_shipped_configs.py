"""The overlays that ship with the project plan what they promise, without a network or the data they name."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from project import PROJECT, Project, copy_project


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    return copy_project(tmp_path_factory.mktemp("shipped") / "project")


@pytest.fixture(scope="module")
def embedded(tmp_path_factory) -> Project:
    """With the embedded default, which some overlays build upon."""
    made = copy_project(tmp_path_factory.mktemp("embedded") / "project")
    shutil.copy(PROJECT / "config.yaml", made.folder / "config.yaml")
    return made


def recipe_jobs(splits: int, *, shards: int, catalogs: int) -> dict[str, int]:
    """Jobs of DATASET/plain/cam/{none,crf}: per split, per shard of a split's maps, per catalog."""
    return {
        "check_dataset": catalogs, "train_plain": 1, "score_classifier": splits, "localize_cam": splits * shards,
        "join_maps": splits, "score_maps": splits, "refine_none": splits, "refine_crf": splits,
        "score_masks": 2 * splits, "make_tables": 1, "plot_pictures": 1, "plot_training": 1, "plot_curve": 1,
        "plot_seeds": 1, "plot_masks": 2, "study_errors": 1, "plot_errors": 1,
    }  # fmt: skip


def localizer_jobs(method: str, splits: int, *, shards: int, classes: int = 0) -> dict[str, int]:
    """Jobs of one more localizer of a classifier; ``classes`` of LPCAM's prototypes."""
    steps = {"cluster_lpcam": classes, "join_prototypes": 1} if method == "lpcam" else {}
    return {
        **steps, f"localize_{method}": splits * shards, "join_maps": splits, "score_maps": splits, "plot_curve": 1,
        "plot_seeds": 1,
    }  # fmt: skip


def together(*parts: dict[str, int]) -> dict[str, int]:
    return dict(sum((Counter(part) for part in parts), Counter()))


def test_voc12_trains_on_one_split_and_scores_two_others(project):
    planned = project.planned("--configfile", "config/voc12.yaml")
    assert planned == together(
        {"prepare_voc": 1, "plot_comparison": 1},
        recipe_jobs(2, shards=2, catalogs=3),
        {"train_plain": 1, "score_classifier": 2, "plot_training": 1},  # a second classifier, without IRN's detaching
        localizer_jobs("cam", 2, shards=2),
        localizer_jobs("advcam", 2, shards=2),
        localizer_jobs("lpcam", 2, shards=2, classes=20),
    )


@pytest.mark.long
def test_voc12_has_amn_and_lpcam_on_it(project):
    wanted = [f"results/voc12/amn/{name}/score.train_voc.json" for name in ("amn", "lpcam_amn")]
    planned = project.planned(*wanted, "--configfile", "config/voc12.yaml")
    assert planned == {
        "prepare_voc": 1, "check_dataset": 3, "train_plain": 1, "localize_cam": 4, "refine_confident": 2, "train_amn": 1,
        "localize_amn": 2, "cluster_lpcam": 20, "join_prototypes": 1, "localize_lpcam": 2, "join_maps": 4, "score_maps": 2,
    }  # fmt: skip


VOC12_MINI = together(
    recipe_jobs(2, shards=2, catalogs=2),
    localizer_jobs("advcam", 2, shards=2),
    localizer_jobs("lpcam", 2, shards=2, classes=6),
    {"plot_comparison": 1},
)


def test_voc12_mini_is_made_from_the_download(project):
    planned = project.planned("--configfile", "config/voc12_mini.yaml")
    assert planned == together({"prepare_voc": 1}, VOC12_MINI)


def test_voc12_mini_reads_a_copy_on_disk(project, tmp_path):
    """An empty copy is enough to plan: what is missing is named by the check."""
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / name).mkdir(parents=True)
    planned = project.planned("--configfile", "config/voc12_mini.yaml", "--config", f"voc_root={tmp_path}")
    assert planned == VOC12_MINI


def test_the_lists_of_voc12_mini_are_distinct():
    train, val = ((PROJECT / f"config/voc12_mini/{split}.txt").read_text().split() for split in ("train", "val"))
    assert (len(train), len(val)) == (300, 120)
    assert len({*train, *val}) == 420


def make_coco(root: Path) -> Path:
    """A COCO folder with two photos a split."""
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        (root / f"{split}2014").mkdir()
        images, shapes = [], []
        for number in (1, 2):
            name = f"COCO_{split}2014_{number:012d}.jpg"
            rng = np.random.default_rng([len(split), number])
            Image.fromarray(rng.integers(0, 256, (32, 40, 3), np.uint8)).save(root / f"{split}2014" / name)
            images.append({"id": number, "file_name": name, "height": 32, "width": 40})
            outline = [[4, 4, 20, 4, 20, 20, 4, 20]]
            shapes.append({"id": number, "image_id": number, "category_id": 1, "bbox": [4, 4, 16, 16],
                           "segmentation": outline, "iscrowd": 0})  # fmt: skip
        content = {"images": images, "categories": [{"id": 1, "name": "person"}], "annotations": shapes}
        (root / f"annotations/instances_{split}2014.json").write_text(json.dumps(content))
    return root


def test_coco14_plans_from_its_folder(project, tmp_path):
    root = make_coco(tmp_path)
    planned = project.planned("--configfile", "config/coco14.yaml", "--config", f"coco_root={root}")
    extra = localizer_jobs("lpcam", 2, shards=64, classes=80)
    assert planned == together(recipe_jobs(2, shards=64, catalogs=2), extra, {"plot_comparison": 1})


@pytest.mark.long
def test_coco14_plans_every_method(project, tmp_path):
    """Down to the segmentation networks, and with true masks as the upper bound."""
    root = make_coco(tmp_path)
    recipes = ["plain_whole/cam/irn", "plain_whole/advcam/irn_advcam", "plain_whole/lpcam/irn_lpcam", "amn/amn/irn_amn",
               "amn/lpcam_amn/irn_amn", "mctformer/mctformer/crf", "mctformer/lpcam_attention/crf", "none/none/gt"]  # fmt: skip
    weights = tmp_path / "deit.pth"
    weights.write_bytes(b"stands in for a checkpoint: a plan only takes its digest")
    given = [f"coco_root={root}", f"classifiers={{mctformer: {{weights: {weights}}}}}"]
    targets = [f"results/coco14/{recipe}/deeplab/score_crf.val.json" for recipe in recipes]
    planned = project.planned(*targets, "--configfile", "config/coco14.yaml", "--config", *given)
    assert planned["train_deeplab"] == planned["score_crf_predictions"] == len(recipes)
    assert (planned["train_plain"], planned["train_amn"], planned["train_mctformer"]) == (2, 1, 1)
    assert planned["train_irn"] == 5
    assert planned["cluster_lpcam"] == 3 * 80  # a job a class on each host


@pytest.mark.long
def test_parts_seeds_compares_every_localizer_on_three_classifiers(project):
    planned = project.planned("--configfile", "config/parts_seeds.yaml")
    assert (planned["train_plain"], planned["score_maps"], planned["make_tables"]) == (3, 3 * 6 * 2, 2)
    assert planned["localize_lpcam"] == 3 * 2 * 2 * 2
    assert planned["cluster_lpcam"] == 3 * 2  # both variants share the clusters of each classifier


@pytest.mark.long
def test_parts_refiners_refines_four_kinds_of_maps_on_three_classifiers(embedded):
    planned = embedded.planned("--configfile", "config/parts_refiners.yaml")
    assert (planned["train_plain"], planned["train_seam"]) == (3, 3)
    for name in ("crf", "irn", "psa"):
        assert planned[f"refine_{name}"] == 3 * 4 * 2
    assert planned["train_irn"] == planned["train_psa"] == 3 * 4  # every kind of maps has labels of its own
    assert (planned["study_errors"], planned["make_tables"]) == (3 * 4, 2)


@pytest.mark.long
def test_parts_hosts_runs_the_same_localizers_on_every_host(embedded):
    planned = embedded.planned("--configfile", "config/parts_hosts.yaml")
    assert (planned["train_plain"], planned["train_seam"], planned["train_amn"]) == (3, 3, 6)
    assert planned["train_mctformer"] == 3
    # Hosts, seeds, splits, shards; on MCTformer both go twice, with and without its attention.
    assert planned["localize_advcam"] == 5 * 3 * 2 * 2 and planned["localize_amn"] == 6 * 2 * 2
    assert planned["cluster_lpcam"] == 5 * 3 * 6  # hosts, seeds, classes
    assert planned["score_classifier"] == 3 * 3 * 2  # AMN is told the labels


@pytest.mark.long
def test_parts_segmenters_trains_every_network_and_scores_where_it_did_not_train(embedded):
    planned = embedded.planned("--configfile", "config/parts_segmenters.yaml")
    trained = {name: planned[f"train_{name}"] for name in ("deeplab", "psl", "cct", "adversarial_erasing", "plain")}
    assert trained == {"deeplab": 8, "psl": 2, "cct": 1, "adversarial_erasing": 3, "plain": 1}
    assert planned["score_predictions"] == planned["score_crf_predictions"] == 11
    # PSL++ learns from what PSL predicts with a CRF on the training split; nothing else is predicted there.
    assert (planned["predict_psl"], planned["crf_predictions"]) == (2 * 2 + 2, 11 + 1)
    assert planned["refine_gt"] == 2 and "localize_none" not in planned


# --- boxes -----------------------------------------------------------------------------------------------------------


def write_photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 32)).save(path)


def make_cub(root: Path) -> None:
    """CUB's file set: two classes, a photo of each in either split."""
    photos = [f"{folder}/{n}.jpg" for folder in ("001.Owl", "002.Wren") for n in (1, 2)]
    columns = {
        "images.txt": photos,
        "classes.txt": ["001.Owl", "002.Wren"],
        "image_class_labels.txt": [1, 1, 2, 2],
        "train_test_split.txt": [1, 0, 1, 0],
        "bounding_boxes.txt": ["2.0 3.0 20.0 10.0"] * 4,
    }
    for name, values in columns.items():
        (root / name).write_text("".join(f"{n} {value}\n" for n, value in enumerate(values, 1)))
    for photo in photos:
        write_photo(root / "images" / photo)


def make_wsol(root: Path, name: str, *, localization: str) -> None:
    """The benchmark's metadata: two classes, a photo of each in every split; {0} of a localization is a photo's path."""
    for split in ("train", "val", "test"):
        photos = [f"{split}/{folder}/1.jpg" for folder in ("owl", "wren")]
        folder = root / "metadata" / name / split
        folder.mkdir(parents=True)
        (folder / "image_ids.txt").write_text("\n".join(photos))
        (folder / "class_labels.txt").write_text("\n".join(f"{photo},{n}" for n, photo in enumerate(photos)))
        if split != "train":
            (folder / "localization.txt").write_text("\n".join(localization.format(photo) for photo in photos))
        (folder / "image_sizes.txt").write_text("\n".join(f"{photo},40,32" for photo in photos))
        for photo in photos:
            write_photo(root / photo)
            Image.new("1", (40, 32), 1).save(root / f"{photo}_mask.png")


BOX, MASK = "{0},2,3,20,10", "{0},{0}_mask.png,"
# Overlay -> how its folder is made, catalogs, shards, and what is asked for. A photo decides the shard it is in, but the
# number of shards is the config's.
SCORED_BY_BOX = {
    "cub": (make_cub, 2, 2, "localization"),
    "ilsvrc": (lambda root: make_wsol(root, "ILSVRC", localization=BOX), 2, 128, "localization"),
    "openimages": (lambda root: make_wsol(root, "OpenImages", localization=MASK), 3, 16, "pxap"),
}


@pytest.mark.parametrize("name", ["cub", "openimages", pytest.param("ilsvrc", marks=pytest.mark.long)])
def test_benchmarks_of_localisation_plan_from_their_folder(project, tmp_path, name):
    make, catalogs, shards, score = SCORED_BY_BOX[name]
    make(tmp_path)
    planned = project.planned(
        "--configfile", f"config/{name}.yaml", "--config", f"folder_root={tmp_path}", "--",
        f"results/{name}/plain/cam/{score}.test.json",
    )  # fmt: skip
    boxes = {"confide_classifier": 1, "trace_boxes": 1} if score == "localization" else {}
    assert planned == {
        "check_dataset": catalogs, "train_plain": 1, "localize_cam": shards, "join_maps": 1, f"score_{score}": 1, **boxes,
    }  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", ["cub", "openimages"])
def test_benchmarks_of_localisation_plan_their_default(project, tmp_path, name):
    SCORED_BY_BOX[name][0](tmp_path)
    planned = project.planned("--configfile", f"config/{name}.yaml", "--config", f"folder_root={tmp_path}")
    trained = {"cub": 2, "openimages": 1}[name]
    assert planned["train_plain"] == planned["plot_training"] == trained
    assert planned["make_tables"] >= 1


@pytest.mark.long
def test_parts_localization_compares_hiding_and_casm_on_three_seeds(embedded):
    overlay = "config/parts_localization.yaml"
    if not (PROJECT / overlay).exists():
        pytest.skip("it does not ship yet")
    planned = embedded.planned(
        "--configfile", overlay, "--", "results/tables/localization.md", "results/tables/seeds.md"
    )
    # Seven classifiers of method plain and the five published presets, three seeds each; CASM has two kinds of maps.
    assert (planned["train_plain"], planned["train_casm"]) == (3 * 7, 3 * 5)
    assert planned["localize_masker"] == 3 * 5 * 2 * 2  # two splits in two shards
    for name in ("trace_boxes", "score_localization", "score_pxap", "score_saliency"):
        assert planned[name] == 3 * (7 + 2 * 5), name
    assert planned["confide_classifier"] == 3 * (7 + 5)


@pytest.mark.long
def test_voc12_mini_refiners_learn_from_their_own_split(project):
    planned = project.planned("--configfile", "config/voc12_mini.yaml", "config/voc12_mini_refiners.yaml")
    assert (planned["train_plain"], planned["train_seam"], planned["train_irn"], planned["train_psa"]) == (1, 1, 4, 4)
    lists = [
        set((PROJECT / f"config/voc12_mini/{name}.txt").read_text().split()) for name in ("train", "val", "refine")
    ]
    assert len(lists[2]) == 100 and lists[2] <= lists[0] and not lists[2] & lists[1]


@pytest.mark.long
def test_coco14_asks_for_its_folder(project):
    run = project.snakemake("-n", "--configfile", "config/coco14.yaml", check=False)
    text = run.stdout + run.stderr
    assert run.returncode != 0 and "Traceback" not in text
    assert "datasets.coco14.root: give the folder of the dataset, here or as --config coco_root=FOLDER" in text
