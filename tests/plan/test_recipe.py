"""The grammar of paths and of ``recipes:``: what is understood, what is left out, and what is refused how."""

import copy

import pytest

from camflow.errors import ConfigError, RecipeError
from camflow.plan.config import methods
from camflow.plan.plan import Plan, parse_target
from camflow.plan.recipe import KINDS, LEAVES, target

CONFIG = {
    "datasets": {"a": {"format": "parts"}, "b": {"format": "parts"}},
    "classifiers": {"plain": {"method": "plain"}, "wide": {"method": "plain", "width": 8}},
    "localizers": {"cam": {"method": "cam"}, "cam_flat": {"method": "cam"}},
    "refiners": {"none": {"method": "none"}, "crf": {"method": "crf"}, "crf_soft": {"method": "crf"}},
}


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """A plan with some recipes and changes of CONFIG."""
    import yaml

    monkeypatch.chdir(tmp_path)

    def make(*recipes, **changes):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **changes, "recipes": list(recipes)}))
        return Plan.load(["config.yaml"])

    return make


def expanded(plan, *recipes, **changes):
    return ["/".join(steps) for steps in plan(*recipes, **changes).recipes]


# --- recipes ---------------------------------------------------------------------------------------------------------


def test_a_plain_path_is_one_recipe(plan):
    assert expanded(plan, "a/plain/cam/crf", "/b/plain/") == ["a/plain/cam/crf", "b/plain"]


def test_braces_write_several(plan):
    assert expanded(plan, "{a,b}/plain/cam/{none, crf}") == [
        "a/plain/cam/none", "a/plain/cam/crf", "b/plain/cam/none", "b/plain/cam/crf",
    ]  # fmt: skip


def test_braces_may_hold_pieces_of_names_and_further_braces(plan):
    assert expanded(plan, "a/plain/cam/crf{,_soft}") == ["a/plain/cam/crf", "a/plain/cam/crf_soft"]
    assert expanded(plan, "a/plain/cam/{none,crf{,_soft}}") == [
        "a/plain/cam/none", "a/plain/cam/crf", "a/plain/cam/crf_soft",
    ]  # fmt: skip


def test_a_star_stands_for_every_instance(plan):
    assert set(expanded(plan, "a/*/cam/crf*")) == {
        "a/plain/cam/crf", "a/plain/cam/crf_soft", "a/wide/cam/crf", "a/wide/cam/crf_soft",
    }  # fmt: skip


def test_a_recipe_named_twice_is_built_once(plan):
    assert expanded(plan, "a/plain/cam/crf", "a/plain/{cam,cam}/crf", "a/plain/cam/cr*") == [
        "a/plain/cam/crf", "a/plain/cam/crf_soft",
    ]  # fmt: skip


def test_a_star_leaves_out_what_does_not_fit(plan, tmp_path):
    (tmp_path / "photos").mkdir()
    blind = {"format": "voc", "root": "photos", "masks": [], "labels": "labels.csv"}
    refiners = {**CONFIG["refiners"], "fixed": {"method": "none", "threshold": 0.3}}
    changes = {"datasets": {**CONFIG["datasets"], "blind": blind}, "refiners": refiners}
    # Every other refiner takes the best threshold, which needs masks.
    assert expanded(plan, "blind/plain/cam/*", **changes) == ["blind/plain/cam/fixed"]
    assert len(expanded(plan, "*/plain/cam/*", **changes)) == 2 * 4 + 1
    with pytest.raises(RecipeError, match=r"refiners\.crf\.threshold to a number"):
        expanded(plan, "blind/plain/cam/crf", **changes)
    with pytest.raises(RecipeError, match=r"nothing fits 'blind/plain/cam/crf\*'.*to a number"):
        expanded(plan, "blind/plain/cam/crf*", **changes)


def test_a_pair_that_cannot_work_is_refused_with_what_would(plan, monkeypatch):
    entry = copy.deepcopy(methods("localizers")["cam"])
    monkeypatch.setitem(methods("localizers"), "deep", {**entry, "x-needs": ["attention"]})
    changes = {"localizers": {**CONFIG["localizers"], "deep": {"method": "deep"}}}
    with pytest.raises(RecipeError, match=r"needs attention, which a and plain does not.*fits here: cam, cam_flat"):
        expanded(plan, "a/plain/deep", **changes)
    assert expanded(plan, "a/plain/*", **changes) == ["a/plain/cam", "a/plain/cam_flat"]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("a", "should be dataset/classifier"),
        ("", "should be dataset/classifier"),
        ("a/plain/cam/crf/x/y", "should be dataset/classifier"),
        ("a/plian", "no classifier 'plian' in classifiers of the config; did you mean 'plain'"),
        ("z/plain", "no dataset 'z' in datasets"),
        ("z/plain/*", "no dataset 'z' in datasets"),
        ("a/plain//crf", "no localizer '' in localizers"),
        ("a/plain/cam/x*", "nothing in refiners matches 'x*'"),
        ("a/plain/cam/{none,crv}", "no refiner 'crv' in refiners of the config; did you mean 'crf'"),
        ("a/plain/cam/crf/seg", "no segmenter 'seg' in segmenters"),
        ("a/plain/cam/{none,crf", "has a brace without its partner"),
        ("a/plain/cam/none}", "has a brace without its partner"),
        ("a/plain/cam/{none,{crf}", "has a brace without its partner"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(plan, recipe, message):
    with pytest.raises((RecipeError, ConfigError)) as caught:
        expanded(plan, recipe)
    assert message in str(caught.value)


# --- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("item", LEAVES, ids=lambda item: f"{item.kind}/{item.filename('val')}")
def test_every_file_of_a_recipe_can_be_read_from_its_path(item):
    steps = ("a", "plain", "cam", "crf", "net")[: KINDS.index(item.kind) + 1]
    goal = target(steps, item.stem, "val", item.suffix)
    assert parse_target(goal.path) == goal
    assert goal.leaf == item
    assert goal.split == ("val" if item.split else None)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("score.val.json", "is not a result: expected dataset/"),
        ("", "is not a result: expected dataset/"),
        ("a/b/c/d/e/f/score.val.json", "is not a result: expected dataset/"),
        ("a/plain/cam/scor.val.json", "a localizer has no file 'scor.json'; did you mean 'score.{split}.json'"),
        ("a/plain/cam/score.val.csv", "a localizer has no file 'score.csv'"),
        ("a/plain/cam/masks.val.h5", "a localizer has no file 'masks.h5'; did you mean 'maps.{split}.h5'"),
        ("a/plain/cam/score", "a localizer has no file 'score'"),
        ("a/plain/cam/score.v-l.json", "a localizer has no file 'score.v-l.json'"),
        ("a/plain/cam/", "a classifier has no file 'cam'"),
        ("a/plain/cam/score.json", "names no split; write score.train.json or score.val.json"),
        ("a/plain/classifier.val.pt", "a classifier has one classifier.pt, not one a split"),
    ],
)
def test_a_path_that_is_no_result_is_refused(path, message):
    with pytest.raises(RecipeError) as caught:
        parse_target(path)
    assert message in str(caught.value)


def test_a_published_value_names_a_score_that_is_made(plan):
    published = {"a/plain/cam/score.val.json": {"value": 50, "source": "x"}}
    assert plan("a/plain/cam", tables={"published": published}).table_path("scores", ".csv")
    for path, message in {
        "a/plain/cam/crv/score.val.json": "did you mean 'crf'",
        "a/plain/cam/maps.val.h5": "is no score",
    }.items():
        wrong = {path: {"value": 50, "source": "x"}}
        with pytest.raises(ConfigError, match=rf"tables\.published: '{path}'.*{message}"):
            plan("a/plain/cam", tables={"published": wrong})
