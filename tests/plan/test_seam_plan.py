"""SEAM in the plan: what fits with what, what its network starts from, and whose key its code is in."""

import json

import pytest

from camflow.errors import RecipeError
from camflow.models.classifier import HOSTS
from camflow.plan.config import methods
from camflow.plan.plan import parse_target

CONFIG = {
    "recipes": ["parts/{plain,seam}/cam/none"],
    "datasets": {"parts": {"format": "parts", "classes": 3}},
    "classifiers": {
        "plain": {"method": "plain", "backbone": "tiny", "weights": "none"},
        "other": {"method": "plain", "backbone": "tiny", "weights": "none", "epochs": 3},
        "seam": {"method": "seam", "backbone": "tiny", "warm_start": "plain"},
        "scratch": {"method": "seam", "backbone": "tiny"},
    },
    "localizers": {
        "cam": {"method": "cam"},
        "seam": {"method": "seam"},
        "advcam": {"method": "advcam"},
        "refined": {"method": "advcam", "accumulate": "refined"},
        "lpcam": {"method": "lpcam"},
    },
    "refiners": {"none": {"method": "none"}},
}
# Files of a recipe below a classifier: its own, a score, shared steps, a study, maps, masks.
BELOW = (
    "score.val.json", "training.png", "cam/maps.val.h5", "cam/none/masks.val.h5", "lpcam/maps.val.h5",
    "lpcam/lpcam_prototypes.h5", "advcam/climb.val.csv",
)  # fmt: skip


def paths(made, classifier):
    return {name: made.path_of(f"parts/{classifier}/{name}") for name in BELOW}


# --- what fits -------------------------------------------------------------------------------------------------------


def test_refined_maps_are_needed(plan):
    made = plan()
    with pytest.raises(RecipeError) as caught:
        made.check(("parts", "plain", "seam"))
    assert str(caught.value) == (
        "parts/plain/seam: localizer 'seam' (method seam) needs pixel correlation, which parts and plain does not provide. "
        "What fits here: advcam, cam, lpcam."
    )
    with pytest.raises(RecipeError, match=r"localizer 'refined' \(accumulate: refined\) needs refined maps"):
        made.check(("parts", "plain", "refined"))
    for name in CONFIG["localizers"]:
        made.check(("parts", "seam", name))


def test_a_wildcard_takes_what_fits(plan):
    made = plan(recipes=["parts/{plain,seam}/*"])
    found = {(steps[1], steps[2]) for steps in made.recipes}
    everything = {(c, n) for c in ("plain", "seam") for n in CONFIG["localizers"]}
    assert found == everything - {("plain", "seam"), ("plain", "refined")}


# --- what a network starts from --------------------------------------------------------------------------------------


def test_a_warm_start_is_an_input_and_part_of_the_key(plan):
    made = plan()
    goal = parse_target("parts/seam/classifier.pt")
    assert made.inputs(goal)["warm_start"] == made.path_of("parts/plain/classifier.pt")
    assert json.loads(made.job(goal))["parameters"]["warm_start"] == "plain"
    assert made.parts(("parts", "seam"))["sources"] == {"warm_start": "/".join(made.segments(("parts", "plain")))}
    assert "warm_start" not in made.inputs(parse_target("parts/scratch/classifier.pt"))
    assert made.parts(("parts", "scratch"))["sources"] == {}


def test_what_the_warm_start_is_made_from_counts(plan):
    before, after = plan(), plan(**{"classifiers.plain.epochs": 9})
    assert not set(paths(before, "seam").values()) & set(paths(after, "seam").values())
    assert paths(before, "scratch") == paths(after, "scratch")
    other = plan(**{"classifiers.seam.warm_start": "other"})
    assert before.path_of("parts/seam/classifier.pt") != other.path_of("parts/seam/classifier.pt")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seam.warm_start": "seam"}, "classifier 'seam' names 'seam' as its warm_start, which leads back to itself"),
        (
            {"seam.warm_start": "scratch", "scratch.warm_start": "seam"},
            "classifier 'seam' names 'scratch' as its warm_start, which leads back to itself",
        ),
        (
            {"seam.warm_start": "plian"},
            "classifiers.seam.warm_start: there is no classifier 'plian' in classifiers of the config; did you mean "
            "'plain'?",
        ),
        (
            {"seam.warm_start": "scratch"},
            "classifiers.seam.warm_start: classifier 'scratch' is of method seam; name one of method plain",
        ),
        (
            {"plain.backbone": "resnet18"},
            "classifiers.seam.warm_start: classifier 'plain' has backbone: resnet18, 'seam' tiny; give both the same",
        ),
        (
            {"plain.width": 7},
            "classifiers.seam.warm_start: classifier 'plain' has width: 7, 'seam' ",
        ),
    ],
    ids=["itself", "in a circle", "unknown", "another method", "another backbone", "another width"],
)
def test_a_warm_start_that_cannot_be(plan, changes, words):
    made = plan(**{f"classifiers.{place}": value for place, value in changes.items()}, recipes=["parts/plain"])
    with pytest.raises(RecipeError) as caught:
        made.path_of("parts/seam/classifier.pt")
    assert str(caught.value).startswith(words)


def test_networks_that_start_from_seeds_of_their_own_are_one_group(plan):
    networks = {
        f"{name}_seed_{seed}": {**CONFIG["classifiers"][name], "seed": seed}
        for name in ("plain", "seam")
        for seed in range(3)
    }
    for seed in range(3):
        networks[f"seam_seed_{seed}"]["warm_start"] = f"plain_seed_{seed}"
    made = plan(classifiers=networks, recipes=["parts/{plain_seed_*,seam_seed_*}"])
    assert set(made.seed_groups()) == {
        f"parts/{name}_seed_{{0,1,2}}/score.{split}.json" for name in ("plain", "seam") for split in ("train", "val")
    }
    networks["seam_seed_2"]["warm_start"] = "plain_seed_1"  # still the same network but for seeds
    made = plan(classifiers=networks, recipes=["parts/seam_seed_*"])
    assert set(made.seed_groups()) == {f"parts/seam_seed_{{0,1,2}}/score.{split}.json" for split in ("train", "val")}
    networks["seam_seed_2"]["warm_start"] = None
    made = plan(classifiers=networks, recipes=["parts/seam_seed_*"])
    assert set(made.seed_groups()) == {f"parts/seam_seed_{{0,1}}/score.{split}.json" for split in ("train", "val")}


# --- whose key the code is in ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["camflow.models.seam", "camflow.train.seam", "camflow.train.seam_files"])
def test_seam_code_makes_anew_what_comes_from_seam_and_nothing_else(plan, edit, module):
    before = plan()
    plain, seam = paths(before, "plain"), paths(before, "seam")
    edit(module)
    after = plan()
    assert paths(after, "plain") == plain
    assert not set(paths(after, "seam").values()) & set(seam.values())


@pytest.mark.parametrize("module", ["camflow.models.files", "camflow.train.inputs", "camflow.train.tofile"])
def test_code_that_all_classifiers_share_makes_all_anew(plan, edit, module):
    before = plan()
    old = {*paths(before, "plain").values(), *paths(before, "seam").values()}
    edit(module)
    after = plan()
    assert not {*paths(after, "plain").values(), *paths(after, "seam").values()} & old


def test_code_of_the_localizer_belongs_to_its_own_maps(plan, edit):
    before = plan()
    found = [before.path_of(f"parts/seam/{name}/maps.val.h5") for name in ("cam", "seam")]
    edit("camflow.localize.seam")
    after = [plan().path_of(f"parts/seam/{name}/maps.val.h5") for name in ("cam", "seam")]
    assert found[0] == after[0] and found[1] != after[1]


def test_every_loader_is_in_the_key_of_a_classifier(plan):
    """``load_classifier`` imports it by name, so only the classifier's own key covers it."""
    names = ("adversarial_erasing", "casm", "mctformer")
    more = {name: {"method": name, "backbone": "tiny", "weights": "none"} for name in names}
    more["amn"] = {"method": "amn", "labels": "plain/cam/none"}
    made = plan(**{f"classifiers.{name}": item for name, item in more.items()})
    names = {made.method("classifier", name): name for name in [*CONFIG["classifiers"], *more]}
    assert set(names) == {name for name, entry in methods("classifiers").items() if "images" in entry["x-needs"]}
    covered = {module for name in names.values() for module in made.parts(("parts", name))["code"]}
    assert {module for module, _ in HOSTS.values()} <= covered
