"""Every config key and every library module -> the exact set of stages that is computed anew.

The tables below are written by hand. What changed is read off the plan (a stage is recomputed exactly when its path in
the store changes); that Snakemake then does just that is tested with real dry runs at the end.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml
from project import PROJECT, TINY, copy_project, plan_of, plans_after

from tests.places import with_places

# What is made from what: stage -> stages that read it.
READ_BY = {
    "data": ["catalog"],
    "catalog": ["pictures", "classifier"],
    "classifier": ["classifier score", "training figure", "maps"],
    "classifier score": ["tables"],
    "maps": ["seed score", "seed overlays", "masks none", "masks crf", "errors"],
    "seed score": ["curve", "seed overlays", "masks none", "masks crf", "tables", "errors"],
    "masks none": ["mask score none", "mask overlays none", "errors"],
    "masks crf": ["mask score crf", "mask overlays crf", "errors"],
    "errors": ["errors figure"],
    "mask score none": ["tables"],
    "mask score crf": ["tables"],
}
FIGURES = {"pictures", "training figure", "curve", "seed overlays", "mask overlays none", "mask overlays crf"}
EVERYTHING = {*READ_BY, *(item for items in READ_BY.values() for item in items)}


def with_below(*stages: str) -> set[str]:
    """Stages and everything made from them."""
    found, queue = set(), list(stages)
    while queue:
        stage = queue.pop()
        if stage not in found:
            found.add(stage)
            queue += READ_BY.get(stage, [])
    return found


def stage_of(path: str) -> str:
    """Stage of a readable path."""
    *steps, name = path.split("/")
    stem, suffix = name.split(".")[0], name.rsplit(".", 1)[-1]
    match len(steps), stem:
        case 1, _ if steps == ["data"]:
            return "data"
        case 1, _ if steps == ["tables"]:
            return "tables"
        case 1, "catalog" | "check":
            return "catalog"
        case 1, _:
            return stem
        case 2, "training" if suffix == "png":
            return "training figure"
        case 2, "classifier" | "training":
            return "classifier"
        case 2, "score":
            return "classifier score"
        case 3, "errors" if suffix == "png":
            return "errors figure"
        case 3, "maps" | "curve" | "errors":
            return stem
        case 3, _:
            return {"score": "seed score", "overlays": "seed overlays"}[stem]
        case _:
            return {"masks": "masks", "score": "mask score", "overlays": "mask overlays"}[stem] + f" {steps[3]}"


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    assert set(before) == set(after)
    return {stage_of(path) for path in before if before[path] != after[path]}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return copy_project(tmp_path_factory.mktemp("plan") / "project")


@pytest.fixture(scope="module")
def base(project):
    return plan_of(project)


def test_the_stages_are_all_there(base):
    assert {stage_of(path) for path in base} == EVERYTHING


# --- config keys -----------------------------------------------------------------------------------------------------

MASKS = {"none": with_below("masks none"), "crf": with_below("masks crf")}
BY_SECTION = {
    "datasets.parts": EVERYTHING,
    "classifiers.plain": with_below("classifier"),
    "localizers.cam": with_below("maps"),
    "refiners.none": MASKS["none"],
    "refiners.crf": MASKS["crf"],
}
SEEDS = with_below("seed score")  # and the refiners, which take their threshold from it
MASK = with_below("mask score none", "mask score crf")
TOP = {
    "voc_root": ("/somewhere", set()),
    "coco_root": ("/somewhere", set()),
    "folder_root": ("/somewhere", set()),
    "videos_root": ("/somewhere", set()),
    "evaluation.thresholds.start": (0.1, SEEDS),
    "evaluation.thresholds.stop": (0.5, SEEDS),
    "evaluation.thresholds.step": (0.05, SEEDS),
    "evaluation.threshold": (0.3, SEEDS),
    "evaluation.miou": ("seam", SEEDS | MASK),
    "evaluation.ignored_prediction": ("error", MASK),
    "evaluation.threshold_from": ("val", SEEDS),
    "report.images": (3, FIGURES - {"training figure", "curve"}),
    "tables.published": (
        {"parts/plain/score.val.json": {"value": 50.0, "source": "x"}},
        {"tables"},
    ),
    "runtime.device": ("cuda", set()),
    "runtime.shards": (3, set()),
    "runtime.batch_size": (1, set()),
    "runtime.pairs": (3, set()),
    "runtime.workers": (3, set()),
    "runtime.jobs": (1, set()),
    "runtime.records": (["elsewhere.jsonl"], set()),
}
# Keys that choose what is built instead of how: they change the list of results, not the results.
# runtime.compression is among them because its other value needs a package that is not always there.
CHOICES = {
    "runtime.compression",
    "recipes",
    "datasets",
    "classifiers",
    "localizers",
    "refiners",
    "segmenters",
    "evaluation.splits",
    "report.split",
    "report.studies",
}
# Values for keys whose type does not say what else would be valid.
VALUES = {
    "backbone": "resnet18",
    "weights": "IMAGENET1K_V1",
    "output_stride": 4,
    "scale": [40, 60],
    "augment": {"hide_and_seek": {"sizes": [0, 8], "p": 0.5}},
    "eval_size": 40,
    "scales": [1.0, 2.0],
    "long_side": 40,
    "threshold": 0.25,
    "alpha": 2.0,
    "monitor": "val",
    "hide_layer": {"sizes": [3]},
    "pixel_dropout": 0.3,
}


def other(name: str, rule: dict, value):
    """A valid value of a parameter other than the present one."""
    if name in VALUES:
        return VALUES[name]
    if "enum" in rule:
        return next(choice for choice in rule["enum"] if choice != value)
    if rule["type"] == "boolean":
        return not value
    if rule["type"] == "integer":
        return 1 + (value or 0) if name != "classes" else 3
    if rule["type"] == "number":
        return 0.5 * (value or 1)
    raise AssertionError(f"give a value for {name} in VALUES")


def method_keys():
    found = []
    for section in ("datasets", "classifiers", "localizers", "refiners"):
        schemas = yaml.safe_load((PROJECT / "workflow/schemas" / f"{section}.schema.yaml").read_text())["methods"]
        for name, entry in TINY[section].items():
            rules = schemas[entry.get("method", entry.get("format"))]["properties"]
            for key, rule in rules.items():
                found.append(pytest.param(section, name, key, rule, id=f"{section}.{name}.{key}"))
    return found


@pytest.fixture
def plan_with(project, base):
    """Stages that a change of the config recomputes, and none when it is taken back."""
    from camflow.plan.plan import Plan

    def run(changes: dict) -> set[str]:
        found = changed(base, in_process(project, with_places(TINY, changes)))
        return found

    def in_process(project, config) -> dict[str, str]:
        path = project.folder / "changed.yaml"
        path.write_text(yaml.safe_dump(config))
        here = os.getcwd()
        os.chdir(project.folder)
        try:
            plan = Plan.load([path])
            return {readable: path_of(plan, readable) for readable in base}
        finally:
            os.chdir(here)

    def path_of(plan, readable):
        return str(plan.made_folder("parts")) if readable == "data/parts" else plan.path_of(readable)

    return run


@pytest.mark.parametrize(("section", "name", "key", "rule"), method_keys())
def test_a_parameter_recomputes_its_stage_and_below(plan_with, section, name, key, rule):
    value = other(key, rule, TINY[section][name].get(key, rule.get("default")))
    expected = BY_SECTION[f"{section}.{name}"]
    if (section, key) == ("refiners", "threshold"):
        expected = expected & MASKS[name]
    assert plan_with({f"{section}.{name}.{key}": value}) == expected


@pytest.mark.parametrize("key", TOP)
def test_a_setting_recomputes_what_it_decides(plan_with, key):
    value, expected = TOP[key]
    assert plan_with({key: value}) == expected


def test_every_setting_is_in_the_table():
    def keys(rules, where=""):
        for name, rule in rules.get("properties", {}).items():
            place = f"{where}{name}"
            if rule.get("properties"):
                yield from keys(rule, f"{place}.")
            else:
                yield place

    schema = yaml.safe_load((PROJECT / "workflow/schemas/config.schema.yaml").read_text())
    # What the others decide: test_steps.py, test_localization_plan.py, test_temporal_plan.py and test_papers.py in tests/plan,
    # tests/gallery/test_gallery_plan.py.
    elsewhere = ("studies.", "localization.", "evaluation.temporal.", "papers.", "gallery.")
    assert {key for key in keys(schema) if not key.startswith(elsewhere)} == set(TOP) | CHOICES


def test_order_and_spelling_of_values_change_nothing(plan_with):
    shuffled = {name: dict(reversed(item.items())) for name, item in TINY["classifiers"].items()}
    assert plan_with({"classifiers": shuffled}) == set()
    assert plan_with({"classifiers.plain.lr": 5e-2, "classifiers.plain.epochs": 2}) == set()
    assert plan_with({"localizers.cam.scales": [1]}) == set()


def test_two_values_swapped_are_seen(plan_with):
    below = with_below("classifier")
    assert plan_with({"classifiers.plain.epochs": 4, "classifiers.plain.batch_size": 2}) == below
    once = plan_with({"datasets.parts.train": 6, "datasets.parts.val": 10})
    assert once == EVERYTHING


def test_an_unused_instance_changes_nothing(plan_with):
    assert plan_with({"refiners.crf_soft": {"method": "crf", "preset": "psa"}}) == set()


# --- library modules -------------------------------------------------------------------------------------------------

MAPS, SEED, NONE, CRF = "maps", "seed score", "masks none", "masks crf"
MASK_SCORES = ("mask score none", "mask score crf")
OVERLAYS = ("seed overlays", "mask overlays none", "mask overlays crf")
READS_PHOTOS = ("catalog", "pictures", "classifier", "classifier score", MAPS, SEED, NONE, CRF, *MASK_SCORES, *OVERLAYS)
TRAINING = ("classifier",)
# Module -> the stages whose scripts reach it by import. `plan` decides what runs, not what is computed.
MODULES = {
    "camflow/__init__.py": ("data", *READS_PHOTOS, "training figure", "curve", "tables"),
    "camflow/errors.py": ("data", *READS_PHOTOS, "training figure", "curve", "tables"),
    "camflow/store.py": (*READS_PHOTOS, "training figure", "curve", "tables"),
    "camflow/params.py": ("classifier", MAPS, SEED, *MASK_SCORES),
    "camflow/task.py": (MAPS, NONE, CRF),
    "camflow/cli.py": (),
    "camflow/show.py": (),
    "camflow/bench/__init__.py": (),
    "camflow/data/__init__.py": ("data", *READS_PHOTOS),
    "camflow/data/parts.py": ("data",),
    "camflow/data/download.py": (),
    "camflow/data/check.py": ("catalog",),
    "camflow/data/catalog.py": READS_PHOTOS[1:],
    "camflow/data/images.py": READS_PHOTOS,
    "camflow/data/sample.py": ("pictures", *OVERLAYS, "errors"),
    "camflow/data/readers/voc.py": ("catalog",),
    "camflow/data/readers/parts.py": ("catalog",),
    "camflow/data/readers/coco.py": (),
    "camflow/data/readers/folder.py": (),
    "camflow/models/backbones.py": ("classifier", "classifier score", MAPS),
    "camflow/models/classifier.py": ("classifier", "classifier score", MAPS),
    "camflow/train/loop.py": TRAINING,
    "camflow/train/optim.py": TRAINING,
    "camflow/train/augment.py": TRAINING,
    "camflow/train/classify.py": TRAINING,
    "camflow/train/plain.py": TRAINING,
    "camflow/train/launch.py": TRAINING,
    "camflow/train/checkpoint.py": TRAINING,
    "camflow/localize/cam.py": (MAPS,),
    "camflow/localize/advcam.py": (),
    "camflow/localize/lpcam.py": (),
    "camflow/localize/extract.py": (MAPS,),
    "camflow/localize/files.py": (MAPS,),
    "camflow/localize/maps.py": (MAPS, SEED, NONE, CRF, *MASK_SCORES, *OVERLAYS, "pictures"),
    "camflow/refine/crf.py": (CRF,),
    "camflow/refine/threshold.py": (NONE, CRF, "pictures", *OVERLAYS),
    "camflow/refine/driver.py": (NONE, CRF, "pictures", *OVERLAYS),
    "camflow/refine/files.py": (NONE, CRF),
    "camflow/refine/photos.py": (),
    "camflow/evaluate/confusion.py": (SEED, *MASK_SCORES),
    "camflow/evaluate/sweep.py": (SEED, *MASK_SCORES),
    "camflow/evaluate/scores.py": (SEED, *MASK_SCORES),
    "camflow/evaluate/classification.py": ("classifier score",),
    "camflow/plots/style.py": (*FIGURES, "errors figure"),
    "camflow/plots/errors.py": ("errors figure",),
    "camflow/studies/errors.py": ("errors",),
    "camflow/evaluate/boundary.py": ("errors",),
    "camflow/segment/selection.py": MASK_SCORES,
    "camflow/plots/overlays.py": ("pictures", *OVERLAYS),
    "camflow/plots/curves.py": ("training figure", "curve"),
    "camflow/plots/studies.py": (),
    "camflow/studies/climb.py": (),
    "camflow/studies/files.py": (),
    "camflow/studies/scored.py": (),
    "camflow/tables/scores.py": ("tables",),
    "camflow/tables/seeds.py": ("tables",),
    "camflow/plan/plan.py": (),
    "camflow/plan/keys.py": (),
    "camflow/plan/config.py": (),
    "camflow/plan/job.py": (),
    "camflow/plan/content.py": (),
    "workflow/scripts/localize_cam.py": (MAPS,),
    "workflow/scripts/join_shards.py": (MAPS,),
    "workflow/scripts/train_plain.py": TRAINING,
    "workflow/scripts/refine_crf.py": (CRF,),
    "workflow/scripts/score_masks.py": MASK_SCORES,
    "workflow/scripts/prepare_parts.py": ("data",),
    "workflow/scripts/prepare_voc.py": (),
    "workflow/rules/localize.smk": (),
}


def test_every_module_of_a_stage_is_in_the_table():
    """A new module must say here what it decides (small shared helpers are named with their room)."""
    named = {str(Path(name).parent) for name in MODULES}
    missing = [str(path.relative_to(PROJECT)) for path in (PROJECT / "camflow").rglob("*.py")]
    # tests/plan/test_temporal_plan.py, tests/gallery/test_gallery_plan.py; what applies a recipe decides no result.
    others = {"camflow/temporal", "camflow/gallery", "camflow/apply"}
    assert {str(Path(name).parent) for name in missing} - named <= others
    assert [name for name in MODULES if not (PROJECT / name).exists()] == []


def test_a_module_recomputes_what_imports_it(project, base):
    edits = {module: "\n# a remark\n" + "_edited = 1\n" * module.endswith(".py") for module in MODULES}
    found = {module: changed(base, plan) for module, plan in plans_after(project, edits).items()}
    assert found == {module: with_below(*stages) for module, stages in MODULES.items()}


def test_remarks_and_touches_change_nothing(project, base):
    touched = copy_project(project.folder.parent / "touched")
    for path in touched.folder.rglob("*.py"):
        path.write_text(path.read_text() + "\n\n# a remark\n")
    assert changed(base, plan_of(touched)) == set()
    shutil.rmtree(touched.folder)


# --- real Snakemake --------------------------------------------------------------------------------------------------


def test_nothing_runs_twice(finished):
    assert finished.planned() == {}


def test_touched_inputs_run_nothing(copy):
    for path in copy.folder.rglob("*"):
        if path.is_file():
            os.utime(path)
    assert copy.planned() == {}


def test_a_lost_snakemake_folder_loses_nothing(copy):
    shutil.rmtree(copy.folder / ".snakemake")
    assert copy.planned() == {}


def test_a_lost_snakemake_folder_and_a_changed_config_are_seen(copy):
    shutil.rmtree(copy.folder / ".snakemake")
    copy.edit("config.yaml", "iterations: 2", "iterations: 3")
    assert copy.planned() == {
        "refine_crf": 2, "score_masks": 2, "plot_masks": 1, "make_tables": 1, "study_errors": 1, "plot_errors": 1,
    }  # fmt: skip


def test_speed_keys_run_nothing(copy):
    runtime = "runtime={shards: 5, batch_size: 1, workers: 1, jobs: 1}"
    assert copy.planned("--config", runtime) == {}


@pytest.mark.long
def test_a_localizer_runs_alone_and_going_back_costs_nothing(copy):
    before = copy.scores()
    copy.edit("config.yaml", "scales:\n    - 1.0", "scales:\n    - 0.5")
    assert copy.planned() == {
        "localize_cam": 4, "join_maps": 2, "score_maps": 2, "plot_curve": 1, "plot_seeds": 1, "refine_none": 2,
        "refine_crf": 2, "score_masks": 4, "plot_masks": 2, "make_tables": 1, "study_errors": 1, "plot_errors": 1,
    }  # fmt: skip
    copy.snakemake("results/parts/plain/cam/score.train.json")
    assert copy.scores()["parts/plain/cam/score.train.json"] != before["parts/plain/cam/score.train.json"]
    copy.edit("config.yaml", "scales:\n    - 0.5", "scales:\n    - 1.0")
    assert copy.planned() == {}
    copy.snakemake()
    assert copy.scores() == before


def photo(project, split: str, number: int = 1) -> Path:
    folder = next(path for path in (project.results / "data").iterdir() if path.is_dir())
    return sorted((folder / "JPEGImages").glob(f"{split}_*.png"))[number]


def test_a_changed_photo_runs_what_it_touches_and_putting_it_back_nothing(copy):
    path, spare = photo(copy, "val"), photo(copy, "val", 2)
    original = path.read_bytes()
    path.write_bytes(spare.read_bytes()[:-12] + spare.read_bytes()[-12:])
    planned = copy.planned()
    assert "train_plain" not in planned
    assert planned["check_dataset"] == 2  # the training split's too: it must share no photo with this one
    assert planned["localize_cam"] == 1 and planned["refine_crf"] == 1 and planned["score_maps"] == 1
    path.write_bytes(original)
    assert copy.planned() == {}


def test_a_changed_training_photo_trains_anew(copy):
    photo(copy, "train").write_bytes(photo(copy, "train", 2).read_bytes())
    assert copy.planned()["train_plain"] == 1


def test_config_edited_after_planning_is_refused(copy):
    copy.edit("config.yaml", "iterations: 2", "iterations: 3")
    # The edit comes while the first job runs: the log of that job is the sign that planning is over.
    copy.edit(
        "workflow/scripts/refine_crf.py",
        "from camflow.plan import job",
        "import pathlib\n\nfrom camflow.plan import job\n\nconfig = pathlib.Path('config.yaml')\n"
        "config.write_text(config.read_text().replace('iterations: 3', 'iterations: 4'))",
    )
    run = copy.snakemake("results/parts/plain/cam/crf/score.val.json", check=False)
    assert run.returncode != 0
    assert "edited after planning" in run.stdout + run.stderr
    assert not (copy.results / "parts/plain/cam/crf/score.val.json").exists()
