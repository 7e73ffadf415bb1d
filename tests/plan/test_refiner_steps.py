"""The steps of the refiners irn and psa: what each file is made from, and exactly which setting makes it anew.

The tables are written by hand; what changed is read off the paths.
"""

import json
import os
from pathlib import Path

import pytest

from camflow.errors import RecipeError
from camflow.plan.config import methods
from camflow.plan.gc import unreachable
from camflow.plan.plan import parse_target

CONFIG = {
    "recipes": ["parts/plain/cam/{irn,psa}"],
    "datasets": {"parts": {"format": "parts", "classes": 3}},
    "classifiers": {"plain": {"method": "plain", "backbone": "tiny", "weights": "none"}},
    "localizers": {"cam": {"method": "cam"}, "advcam": {"method": "advcam"}},
    "refiners": {
        "irn": {"method": "irn", "weights": "classifier"},
        "irn_far": {"method": "irn", "weights": "classifier", "exp_times": 9},
        "psa": {"method": "psa", "weights": "classifier"},
        "psa_far": {"method": "psa", "weights": "classifier", "logt": 9},
    },
}
CAM = "parts/plain/cam"
FILES = {
    "labels": f"{CAM}/irn/irn_labels.h5",
    "irn network": f"{CAM}/irn/irn_network.pt",
    "irn training": f"{CAM}/irn/irn_training.csv",
    "edges": f"{CAM}/irn/irn_edges.val.h5",
    "irn": f"{CAM}/irn/masks.val.h5",
    "instances": f"{CAM}/irn/instances.val.h5",
    "instances score": f"{CAM}/irn/score_instances.val.json",
    "irn score": f"{CAM}/irn/score.val.json",
    "walk": f"{CAM}/irn/walk.val.csv",
    "walk figure": f"{CAM}/irn/walk.val.png",
    "scores": f"{CAM}/psa/psa_scores.h5",
    "psa network": f"{CAM}/psa/psa_network.pt",
    "psa training": f"{CAM}/psa/psa_training.csv",
    "affinities": f"{CAM}/psa/psa_affinities.val.h5",
    "psa": f"{CAM}/psa/masks.val.h5",
    "psa score": f"{CAM}/psa/score.val.json",
    "maps": f"{CAM}/maps.val.h5",
    "advcam labels": "parts/plain/advcam/irn/irn_labels.h5",
}
WALKED = {"irn", "instances", "instances score", "irn score", "walk", "walk figure"}
SEEN = {"edges", *WALKED}
TRAINED = {"irn network", "irn training", *SEEN}
LABELLED = {"labels", *TRAINED}
PSA_WALKED = {"psa", "psa score"}
PSA_TRAINED = {"psa network", "psa training", "affinities", *PSA_WALKED}
SCORED = {"scores", *PSA_TRAINED}
TRAINING = {
    "batch_size": 3, "accumulate": 2, "lr": 0.3, "weight_decay": 0.5, "momentum": 0.5, "momentum_slot": "paper",
    "optimizer": "adamw", "schedule": "cosine", "power": 0.5, "warmup_epochs": 1, "precision": "tf32",
    "drop_last": False, "seed": 5, "threads": 2, "channels_last": True, "hflip": 0.1, "weights": "none", "epochs": 2,
}  # fmt: skip
CHANGES = [
    *((f"refiners.irn.{key}", value, {*LABELLED, "advcam labels"}) for key, value in {
        "conf_fg": 0.5, "conf_bg": 0.1, "preset": "advcam", "split": "val",
    }.items()),
    *((f"refiners.irn.{key}", value, TRAINED) for key, value in {
        **TRAINING, "radius": 5, "disp_lr_mult": 1, "crop": 96, "scale": [1, 1],
    }.items()),
    *((f"refiners.irn.{key}", value, WALKED) for key, value in {
        "beta": 5, "exp_times": 3, "gamma": 2, "threshold": 0.5, "instance_steps": 9, "instance_weak": 1,
        "instance_min_area": 0.1,
    }.items()),
    ("refiners.irn.canvas", 96, SEEN),
    *((f"refiners.psa.{key}", value, SCORED) for key, value in {
        "alpha_low": 2, "alpha_high": 24, "preset": "seam", "split": "val",
    }.items()),
    *((f"refiners.psa.{key}", value, PSA_TRAINED) for key, value in {
        **TRAINING, "backbone": "resnet18", "output_stride": 8, "dilate": True, "crop": 96, "augment": {},
    }.items()),
    *((f"refiners.psa.{key}", value, PSA_WALKED) for key, value in {"alpha": 5, "beta": 5, "logt": 3}.items()),
    ("refiners.irn_far.conf_fg", 0.5, set()),
    ("refiners.psa_far.epochs", 2, set()),
    ("localizers.cam.scales", [1.0], {*LABELLED, *SCORED, "maps"}),
    ("localizers.advcam.steps", 3, {"advcam labels"}),
    ("studies.walk.beta", [3], {"walk", "walk figure"}),
    ("evaluation.thresholds.step", 0.02, {"walk", "walk figure"}),
    ("evaluation.ignored_prediction", "error", {"irn score", "psa score"}),
    ("report.studies", ["walk"], set()),
    ("runtime.shards", 7, set()),
    ("runtime.jobs", 7, set()),
]  # fmt: skip
EDITS = {
    "camflow.task": set(FILES),
    "camflow.refine.driver": set(FILES) - {"maps"},
    "camflow.refine.photos": {*SEEN, *SCORED},
    "camflow.refine.confident": {*LABELLED, "advcam labels"},
    "camflow.refine.irn": SEEN,
    "camflow.refine.affinity": SCORED,
    "camflow.train.irn": {*TRAINED, *PSA_TRAINED},  # train/refiners.py reads the parameters of both
    "camflow.train.psa": {*TRAINED, *PSA_TRAINED},
    "camflow.studies.scored": {"walk", "walk figure"},
    "camflow.studies.walk": {"walk", "walk figure"},
}


def paths(plan):
    return {name: plan.path_of(path) for name, path in FILES.items()}


def test_exactly_what_a_setting_decides_is_made_anew(made_anew):
    for place, value, expected in CHANGES:
        assert made_anew(**{place: value}) == expected, place


def test_the_table_has_every_parameter():
    for method in ("irn", "psa"):
        changed = {place.split(".")[2] for place, _, _ in CHANGES if place.startswith(f"refiners.{method}.")}
        assert changed == set(methods("refiners")[method]["properties"])


def test_instances_that_agree_share_their_steps(plan):
    made = plan()
    for method, names in {"irn": ("labels", "irn network", "edges"), "psa": ("scores", "psa network")}.items():
        for name in names:
            path = FILES[name]
            assert made.path_of(path) == made.path_of(path.replace(f"/{method}/", f"/{method}_far/"))
            assert os.path.dirname(made.path_of(path)) == str(made.folder(("parts", "plain", "cam")))
    assert made.path_of(f"{CAM}/irn/masks.val.h5") != made.path_of(f"{CAM}/irn_far/masks.val.h5")


def test_the_network_and_its_training_are_made_by_one_job(plan):
    """They are outputs of one rule, so they must agree in their token."""
    made = plan()
    for method in ("irn", "psa"):
        tokens = {
            made.token(parse_target(f"{CAM}/{method}/{method}_{name}")) for name in ("network.pt", "training.csv")
        }
        assert len(tokens) == 1


def test_what_each_step_reads(plan):
    made = plan()

    def read(path):
        goal = parse_target(path)
        return {name: item.path for name, item in made.reads(goal).items()}

    train = {"catalog": "parts/catalog.train.h5"}
    val = {"catalog": "parts/catalog.val.h5"}
    assert read(FILES["labels"]) == {**train, "maps": f"{CAM}/maps.train.h5"}
    classifier = {"classifier": "parts/plain/classifier.pt"}
    assert read(FILES["irn network"]) == {**train, **classifier, "irn_labels": FILES["labels"]}
    assert read(FILES["edges"]) == {**val, "irn_network": FILES["irn network"]}
    walked = {**val, "maps": FILES["maps"], "irn_edges": FILES["edges"]}
    assert read(FILES["irn"]) == read(FILES["instances"]) == read(FILES["walk"]) == walked
    assert read(FILES["psa"]) == {**val, "maps": FILES["maps"], "psa_affinities": FILES["affinities"]}
    of_val = plan(**{"refiners.irn.split": "val"})
    goal = parse_target(FILES["irn network"])
    assert of_val.reads(goal)["catalog"].path == "parts/catalog.val.h5"


def test_exactly_what_a_module_decides_is_made_anew(made_anew, edit):
    for module, expected in EDITS.items():
        edit(module)
        assert made_anew() == expected, module


def test_steps_and_shards_are_found_by_their_paths(plan):
    made = plan(**{"refiners.irn_far.canvas": 96})
    for name in ("irn", "irn_far"):
        goal = parse_target(f"{CAM}/{name}/irn_edges.val.h5")
        shard = (1, made.shards(goal))
        assert shard[1] == 2
        wildcards = dict(zip(("dataset", "classifier", "localizer"), made.segments(goal.steps[:3]), strict=True))
        wildcards |= {"split": "val", "shard": "1", "shards": "2", "token": made.token(goal, shard)}
        found, place = made.asked(wildcards, "irn_edges", None)
        assert found == goal and place == shard


def test_a_step_is_told_only_what_decides_it(plan):
    told = json.loads(plan().job(parse_target(FILES["labels"]), (0, 2)))
    assert told["parameters"] == {"preset": "irn", "split": "train"}
    told = json.loads(plan().job(parse_target(FILES["irn network"])))
    assert "gamma" not in told["parameters"]  # the walk's; the training has a field of this name
    assert told["parameters"]["threads"] == 1 and told["token"] and told["step"]


def test_a_file_of_another_method_is_refused(plan):
    with pytest.raises(RecipeError, match=r"only irn has instances\.val\.h5, 'psa' is psa"):
        plan().path_of(f"{CAM}/psa/instances.val.h5")
    with pytest.raises(RecipeError, match=r"only psa has psa_network\.pt, 'irn' is irn"):
        plan().path_of(f"{CAM}/irn/psa_network.pt")


def test_the_study_of_the_walk_is_built_on_request(plan):
    def studied(**changes):
        found = plan(**changes).readable()
        return sorted(path.removeprefix("results/") for path in found if Path(path).name.startswith("walk."))

    assert studied() == []
    assert studied(**{"report.studies": ["walk", "climb"]}) == [f"{CAM}/irn/walk.val.csv", f"{CAM}/irn/walk.val.png"]
    without = {
        "datasets.parts": {"format": "voc", "masks": [], "labels": "labels.csv", "root": "."},
        "report.studies": ["walk"],
    }
    made = plan(**without)
    assert [goal for steps in made.prefixes for goal in made.studies(steps, ["walk"])] == []


def test_gc_keeps_steps_and_removes_old_ones(plan):
    made = plan()
    kept = [Path(made.path_of(path)) for path in FILES.values()]
    for name in ("labels", "edges", "scores", "affinities"):
        goal = parse_target(FILES[name])
        kept += [Path(made.path(goal, (k, 2))) for k in range(2)]
    folder = Path(made.path_of(FILES["labels"])).parent
    old = [
        folder / "irn_labels-00000000.h5", folder / "irn_training-00000000.csv",
        folder / "irn_edges.val.shards" / "1of2-00000000.h5",
    ]  # fmt: skip
    for path in (*kept, *old):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert sorted(unreachable(made)) == sorted(old)


def test_instance_masks_count_for_their_score_alone(plan, tmp_path):
    root = tmp_path / "voc"
    for file in ("JPEGImages/a.jpg", "SegmentationClass/a.png", "SegmentationObject/a.png"):
        (root / file).parent.mkdir(parents=True)
        (root / file).write_text(file)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for split in ("train", "val"):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("a\n")
    given = {"datasets.parts": {"format": "voc", "root": str(root), "masks": ["SegmentationClass"]}}
    before = paths(plan(**given))
    (root / "SegmentationObject/a.png").write_text("another object")
    after = paths(plan(**given))
    assert {name for name in FILES if before[name] != after[name]} == {"instances score"}
