"""Methods of several steps and studies: what each file is made from, and exactly which setting makes it anew.

The tables are written by hand; what changed is read off the paths.
"""

import os
from pathlib import Path

import pytest

from camflow.errors import RecipeError
from camflow.plan.gc import unreachable
from camflow.plan.plan import parse_target
from camflow.plan.recipe import LEAVES

CONFIG = {
    "recipes": ["parts/plain/{cam,advcam,lpcam}/none"],
    "datasets": {"parts": {"format": "parts", "classes": 3}},
    "classifiers": {"plain": {"method": "plain", "backbone": "tiny", "weights": "none"}},
    "localizers": {
        "cam": {"method": "cam"},
        "advcam": {"method": "advcam"},
        "lpcam": {"method": "lpcam"},
        "lpcam_strict": {"method": "lpcam", "mu_f": 0.95},
    },
    "refiners": {"none": {"method": "none"}},
}
ADV, LP, CAM = "parts/plain/advcam", "parts/plain/lpcam", "parts/plain/cam"
FILES = {
    "prototypes step": f"{LP}/lpcam_prototypes.h5",
    "lpcam": f"{LP}/maps.val.h5",
    "advcam": f"{ADV}/maps.val.h5",
    "cam": f"{CAM}/maps.val.h5",
    "lpcam masks": f"{LP}/none/masks.val.h5",
    "advcam masks": f"{ADV}/none/masks.val.h5",
    "amplification": f"{ADV}/amplification.val.csv",
    "amplification figure": f"{ADV}/amplification.val.png",
    "loss_surface": f"{ADV}/loss_surface.val.csv",
    "climb": f"{ADV}/climb.val.csv",
    "successive": f"{ADV}/successive.val.csv",
    "successive maps": f"{ADV}/successive_maps.val.h5",
    "successive figure": f"{ADV}/successive.val.png",
    "tsne": f"{ADV}/tsne.val.csv",
    "sensitivity": f"{LP}/sensitivity.val.csv",
    "prototypes": f"{LP}/prototypes.csv",
    "prototypes figure": f"{LP}/prototypes.png",
    "comparison": "parts/plain/comparison.val.png",
}
SUCCESSIVE = {"successive", "successive maps", "successive figure"}
ADVCAM = {
    "advcam", "advcam masks", "amplification", "amplification figure", "loss_surface", "climb", *SUCCESSIVE, "tsne",
}  # fmt: skip
SELECTED = {"lpcam", "lpcam masks", "sensitivity", "prototypes", "prototypes figure"}
CLUSTERED = {"prototypes step", *SELECTED}
MASKS = {"lpcam masks", "advcam masks"}  # their threshold comes from the seed's score
CHANGES = [
    *((f"localizers.advcam.{key}", value, {*ADVCAM, "comparison"}) for key, value in {
        "steps": 3, "step_size": 0.1, "lambda": 0, "tau": 0.6, "other_classes": False, "pooled": "raw", "ascent": "raw",
        "clamp": "none", "region": "cam", "half_scale": "same", "last_map": True, "scales": [1.0],
    }.items()),
    *((f"localizers.lpcam.{key}", value, {*CLUSTERED, "comparison"}) for key, value in {
        "preset": "coco", "mask": "advcam", "split": "val", "clusters": 3, "tau": 0.4, "init": "kmeans++", "seed": 5,
        "tolerance": 0.1, "tolerance_rule": "unit", "max_iterations": 7, "images_per_class": 9, "max_points": 99,
        "long_side": 64,
    }.items()),
    *((f"localizers.lpcam.{key}", value, {*SELECTED, "comparison"}) for key, value in {
        "mu_f": 0.5, "context": [0.1, 0.5], "fallback": "error", "use_context": False, "scales": [1.0], "flip": False,
    }.items()),
    ("localizers.cam.scales", [1.0], {"cam", "comparison", *CLUSTERED}),  # the prototypes' mask
    ("localizers.lpcam_strict.clusters", 3, set()),
    ("studies.amplification.steps", 5, {"amplification", "amplification figure"}),
    ("studies.loss_surface.seed", 5, {"loss_surface"}),
    ("studies.climb.tau", [0.2], {"climb"}),
    ("studies.successive.at", [1, 2], SUCCESSIVE),
    ("studies.tsne.perplexity", 5, {"tsne"}),
    ("studies.sensitivity.tau", [0.2], {"sensitivity"}),
    ("evaluation.thresholds.step", 0.02, {"climb", "sensitivity", *MASKS}),
    ("evaluation.threshold_from", "val", MASKS),
    ("report.images", 3, {"comparison"}),
    ("report.studies", ["climb"], set()),
    ("runtime.pairs", 3, set()),
    ("runtime.shards", 7, set()),
]  # fmt: skip
EDITS = {
    "camflow.localize.files": set(FILES),
    "camflow.task": set(FILES),
    "camflow.localize.advcam": {*ADVCAM, "sensitivity", "comparison"},  # the studies' images are shown by its `frozen`
    "camflow.localize.lpcam": {*SELECTED, "comparison"},
    "camflow.localize.prototypes": {*CLUSTERED, "comparison"},
    "camflow.refine.files": MASKS,
    "camflow.studies.files": {"amplification", "amplification figure", "loss_surface", "climb", "tsne", "sensitivity"},
    "camflow.studies.images": {
        "amplification", "amplification figure", "loss_surface", "climb", *SUCCESSIVE, "tsne", "sensitivity",
    },
    "camflow.studies.scored": {"climb", "sensitivity"},
    "camflow.studies.climb": {"climb"},
    "camflow.studies.prototypes": {"prototypes"},
}  # fmt: skip


def paths(plan):
    return {name: plan.path_of(path) for name, path in FILES.items()}


def test_exactly_what_a_setting_decides_is_made_anew(made_anew):
    for place, value, expected in CHANGES:
        assert made_anew(**{place: value}) == expected, place


def test_exactly_what_a_module_decides_is_made_anew(made_anew, edit):
    for module, expected in EDITS.items():
        edit(module)
        assert made_anew() == expected, module


def test_instances_that_agree_share_a_step(plan):
    made = plan()
    assert made.path_of(f"{LP}/lpcam_prototypes.h5") == made.path_of("parts/plain/lpcam_strict/lpcam_prototypes.h5")
    assert made.path_of(f"{LP}/maps.val.h5") != made.path_of("parts/plain/lpcam_strict/maps.val.h5")
    assert os.path.dirname(made.path_of(f"{LP}/lpcam_prototypes.h5")) == str(made.folder(("parts", "plain")))


def test_a_step_is_found_by_its_path(plan):
    made = plan(**{"localizers.lpcam_strict.clusters": 5})
    for name in ("lpcam", "lpcam_strict"):
        goal = parse_target(f"parts/plain/{name}/lpcam_prototypes.h5")
        shard = (2, made.shards(goal))
        wildcards = dict(zip(("dataset", "classifier"), made.segments(goal.steps[:2]), strict=True))
        wildcards |= {"shard": "2", "shards": "3", "token": made.token(goal, shard)}
        found, place = made.asked(wildcards, "lpcam_prototypes", None)
        assert found == goal and place == shard
    with pytest.raises(RecipeError, match="edited after planning"):
        made.asked({**wildcards, "token": "00000000"}, "lpcam_prototypes", None)


def test_a_step_has_a_shard_for_every_class(plan):
    goal = parse_target(f"{LP}/lpcam_prototypes.h5")
    assert plan().shards(goal) == 3
    assert plan(**{"datasets.parts.classes": 5}).shards(goal) == 5
    voc = plan(**{"datasets.parts": {"format": "voc"}})
    assert voc.shards(goal) == 20  # before anything is downloaded
    assert plan(**{"datasets.parts": {"format": "voc", "classes": ["cat", "dog"]}}).shards(goal) == 2


def test_a_step_is_told_only_what_decides_it(plan):
    import json

    made = plan()
    goal = parse_target(f"{LP}/lpcam_prototypes.h5")
    told = json.loads(made.job(goal, (0, 3)))
    assert set(told["parameters"]) == {"preset", "mask", "split", "long_side"}
    assert told["step"] and told["file"] == "lpcam_prototypes"
    assert told["segments"] == made.segments(("parts", "plain"))


def test_a_mask_that_leads_back_to_itself_is_refused(plan):
    with pytest.raises(RecipeError, match="'lpcam' names 'lpcam' as its mask, which leads back to itself"):
        paths(plan(**{"localizers.lpcam.mask": "lpcam"}))
    with pytest.raises(RecipeError, match="leads back to itself"):
        paths(plan(**{"localizers.lpcam.mask": "lpcam_strict", "localizers.lpcam_strict.mask": "lpcam"}))
    with pytest.raises(
        RecipeError,
        match=r"localizers\.lpcam\.mask: there is no localizer 'cma' in localizers of the config; did you mean 'cam'",
    ):
        paths(plan(**{"localizers.lpcam.mask": "cma"}))


def test_a_file_of_another_method_is_refused(plan):
    with pytest.raises(RecipeError, match=r"only advcam has climb\.val\.csv, 'cam' is cam"):
        plan().path_of(f"{CAM}/climb.val.csv")
    with pytest.raises(RecipeError, match=r"only lpcam has lpcam_prototypes\.h5, 'advcam' is advcam"):
        plan().path_of(f"{ADV}/lpcam_prototypes.h5")


def test_studies_that_fit_are_built_on_request(plan):
    def studied(*names):
        found = plan(**{"report.studies": list(names)}).readable()
        return sorted(path.removeprefix("results/") for path in found if Path(path).name.split(".")[0] in names)

    assert studied() == []
    assert studied("climb", "prototypes") == [
        f"{ADV}/climb.val.csv", f"{ADV}/climb.val.png", f"{LP}/prototypes.csv", f"{LP}/prototypes.png",
    ]  # fmt: skip


def test_no_score_is_studied_without_masks(plan):
    made = plan(**{
        "datasets.parts": {"format": "voc", "masks": [], "labels": "labels.csv", "root": "."},
        "refiners.none.threshold": 0.3,
    })  # fmt: skip
    names = ["climb", "amplification", "sensitivity", "prototypes"]
    found = {goal.leaf.stem for steps in made.prefixes for goal in made.studies(steps, names)}
    assert found == {"amplification", "prototypes"}


def test_stems_of_steps_are_their_own(plan):
    steps = [item.stem for item in LEAVES if item.step]
    assert len(set(steps)) == len(steps)
    assert not set(steps) & {item.stem for item in LEAVES if not item.step}


def test_gc_keeps_steps_and_removes_old_ones(plan):
    made = plan()
    goal = parse_target(f"{LP}/lpcam_prototypes.h5")
    kept = [made.path(goal), *(made.path(goal, (k, 3)) for k in range(3)), made.path_of(f"{ADV}/climb.val.csv")]
    folder = Path(made.path(goal)).parent
    old = [folder / "lpcam_prototypes-00000000.h5", folder / "lpcam_prototypes.shards" / "1of3-00000000.h5"]
    for path in (*kept, *old):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    assert sorted(unreachable(made)) == sorted(old)


# --- tables ----------------------------------------------------------------------------------------------------------


def test_scores_are_grouped_over_the_seeds_of_their_classifiers(plan):
    plain = {"method": "plain", "backbone": "tiny", "weights": "none", "sweep": {"seed": [2, 0, 1]}}
    made = plan(**{
        "classifiers": {
            "plain": plain,
            "wide": {**plain, "width": 4, "sweep": {"seed": [0, 3]}},
            "one": {**plain, "width": 5, "sweep": {"seed": [1]}},
        },
        "recipes": ["parts/{plain,wide}_seed_*/cam", "parts/one_seed_1/cam"],
        "evaluation.splits": ["val"],
    })  # fmt: skip
    assert made.seed_groups() == {
        "parts/plain_seed_{0,1,2}/score.val.json": [f"parts/plain_seed_{k}/score.val.json" for k in range(3)],
        "parts/plain_seed_{0,1,2}/cam/score.val.json": [f"parts/plain_seed_{k}/cam/score.val.json" for k in range(3)],
        "parts/wide_seed_{0,3}/score.val.json": [f"parts/wide_seed_{k}/score.val.json" for k in (0, 3)],
        "parts/wide_seed_{0,3}/cam/score.val.json": [f"parts/wide_seed_{k}/cam/score.val.json" for k in (0, 3)],
    }
    assert made.tables == ["scores", "seeds"]
    assert "results/tables/seeds.md" in made.readable()


def test_no_table_of_seeds_without_several(plan):
    made = plan()
    assert made.tables == ["scores"]
    with pytest.raises(RecipeError, match="no table 'seeds' for this config; there is scores"):
        made.path_of("tables/seeds.csv")
