"""AMN in the plan: where its labels come from, what they decide, what it has no file of, and whose key its code is in."""

import json

import pytest

from camflow.errors import CamflowError, ConfigError, RecipeError
from camflow.plan.plan import parse_target

CONFIG = {
    "recipes": ["parts/amn/{cam,amn}/none"],
    "datasets": {"parts": {"format": "parts", "classes": 3}},
    "classifiers": {
        "plain": {"method": "plain", "backbone": "tiny", "weights": "none"},
        "amn": {"method": "amn", "backbone": "tiny", "weights": "none", "labels": "plain/cam/confident"},
        "warm": {
            "method": "amn", "backbone": "tiny", "weights": "none", "labels": "none/none/gt", "warm_start": "plain",
        },
        "none": {"method": "none"},
    },
    "localizers": {
        "cam": {"method": "cam"},
        "amn": {"method": "amn"},
        "advcam": {"method": "advcam"},
        "lpcam": {"method": "lpcam"},
        "lpcam_amn": {"method": "lpcam", "mask": "amn"},
        "none": {"method": "none"},
    },
    "refiners": {"none": {"method": "none"}, "confident": {"method": "confident"}, "gt": {"method": "gt"}},
    "segmenters": {"psl": {"method": "psl"}},
}  # fmt: skip
FILES = {
    "labels": "parts/plain/cam/confident/masks.train.h5",
    "labels of val": "parts/plain/cam/confident/masks.val.h5",
    "network": "parts/amn/classifier.pt",
    "own": "parts/amn/amn/maps.val.h5",
    "cam": "parts/amn/cam/maps.val.h5",
    "prototypes": "parts/amn/lpcam_amn/lpcam_prototypes.h5",
    "lpcam": "parts/amn/lpcam_amn/maps.val.h5",
    "warm": "parts/warm/classifier.pt",
    "plain": "parts/plain/advcam/maps.val.h5",
}
OF_AMN = {"network", "own", "cam", "prototypes", "lpcam"}


# --- labels ----------------------------------------------------------------------------------------------------------


def test_labels_are_inputs_of_the_network_and_of_its_maps(plan):
    made = plan()
    goal = parse_target(FILES["network"])
    assert made.inputs(goal)["labels"] == made.path_of(FILES["labels"])
    assert made.inputs(parse_target(FILES["own"]))["labels"] == made.path_of(FILES["labels of val"])
    assert "labels" not in made.inputs(parse_target(FILES["cam"]))
    assert json.loads(made.job(goal))["parameters"]["labels"] == "plain/cam/confident"
    assert made.inputs(parse_target(FILES["warm"]))["labels"] == made.path_of("parts/none/none/gt/masks.train.h5")
    assert made.inputs(parse_target(FILES["warm"]))["warm_start"] == made.path_of("parts/plain/classifier.pt")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"refiners.confident.conf_fg": 0.5}, {"labels", "labels of val", *OF_AMN}),
        ({"refiners.confident.preset": "lpcam"}, {"labels", "labels of val", *OF_AMN}),
        ({"localizers.cam.scales": [1.0]}, {"labels", "labels of val", *OF_AMN}),
        ({"classifiers.plain.epochs": 2}, {*FILES}),
        ({"classifiers.amn.labels": "plain/cam/none"}, OF_AMN),
        ({"classifiers.amn.smoothing": 0.1}, OF_AMN),
        ({"classifiers.amn.dropout": 0.2}, OF_AMN),
        ({"localizers.amn.dropout_at_test": True}, {"own", "prototypes", "lpcam"}),
        ({"localizers.amn.grid": "stride4"}, {"own", "prototypes", "lpcam"}),
        ({"localizers.lpcam_amn.scorer": "centre"}, {"prototypes", "lpcam"}),
        ({"localizers.advcam.steps": 3}, {"plain"}),
    ],
    ids=lambda value: next(iter(value.items())).__repr__() if isinstance(value, dict) else "",
)
def test_what_a_setting_makes_anew(made_anew, changes, expected):
    assert made_anew(**changes) == expected


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("camflow.models.amn", OF_AMN | {"warm"}),
        ("camflow.train.amn_loss", OF_AMN | {"warm"}),
        ("camflow.localize.amn", {"own", "prototypes", "lpcam"}),
        ("camflow.refine.confident", {"labels", "labels of val", *OF_AMN}),
    ],
)
def test_what_an_edit_makes_anew(made_anew, edit, module, expected):
    edit(module)
    assert made_anew() == expected


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (
            "plain/cam",
            "classifiers.amn.labels: 'plain/cam' is no recipe down to a refiner, such as plain/cam/confident",
        ),
        (
            "plain/cam/confidnt",
            "classifiers.amn.labels: there is no refiner 'confidnt' in refiners of the config; did you",
        ),
        (
            "plain/amn/none",
            "classifiers.amn.labels: parts/plain/amn/none: localizer 'amn' (method amn) needs label-conditioned",
        ),
        ("amn/cam/confident", "classifier 'amn' names 'amn/cam/confident' as its labels, which leads back to itself"),
    ],
    ids=["too short", "unknown", "impossible", "itself"],
)
def test_labels_that_cannot_be(plan, labels, words):
    made = plan(**{"classifiers.amn.labels": labels}, recipes=["parts/plain"])
    with pytest.raises(RecipeError) as caught:
        made.inputs(parse_target(FILES["network"]))
    assert str(caught.value).startswith(words)


def test_rounds_of_amn_on_amn(plan):
    second = {**CONFIG["classifiers"]["amn"], "labels": "amn/amn/confident"}
    made = plan(**{"classifiers.second": second})
    read = made.inputs(parse_target("parts/second/amn/maps.val.h5"))["labels"]
    assert read == made.path_of("parts/amn/amn/confident/masks.val.h5")


def test_labels_are_required_and_a_start_is_one(plan):
    with pytest.raises(ConfigError, match=r"classifiers\.bare: .*labels"):
        plan(**{"classifiers.bare": {"method": "amn"}})
    with pytest.raises(ConfigError, match="weights: IMAGENET1K_V1 and warm_start are two initial states"):
        plan(**{"classifiers.amn.warm_start": "plain", "classifiers.amn.weights": "IMAGENET1K_V1"})


# --- what it has no file of ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["amn/score.val.json", "amn/confidence.val.h5", "amn/cam/masked_classifier.val.json"]
)  # fmt: skip
def test_it_is_not_scored_on_what_it_is_told(plan, path):
    with pytest.raises(RecipeError) as caught:
        plan().path_of(f"parts/{path}")
    assert "classifier 'amn' is told which classes a photo shows" in str(caught.value)


def test_it_is_built_and_scored_without(plan):
    made = plan(**{"localization.scores": ["localization", "saliency"], "localization.saliency.recogniser": True})
    scores = {goal.path for goal in made.mask_scores()}
    assert "parts/amn/amn/score.val.json" in scores and "parts/amn/score.val.json" not in scores
    for stem in ("localization", "saliency"):
        read = made.inputs(parse_target(f"parts/amn/amn/{stem}.val.json"))
        assert "maps" in read or "box_curves" in read
        assert not {"confidence", "classifier"} & set(read)
    assert "confidence" in made.inputs(parse_target("parts/plain/cam/localization.val.json"))


def test_a_segmenter_that_filters_by_confidence_asks_for_another_classifier(plan):
    made = plan()
    with pytest.raises(CamflowError, match="is told which classes a photo shows"):
        made.inputs(parse_target("parts/amn/amn/none/psl/psl_network.pt"))
    made = plan(**{"segmenters.psl.confidence": "plain"})
    assert "confidence" in made.inputs(parse_target("parts/amn/amn/none/psl/psl_network.pt"))


# --- seeds -----------------------------------------------------------------------------------------------------------


def test_networks_on_labels_of_seeds_of_their_own_are_one_group(plan):
    networks = {f"plain_{seed}": {**CONFIG["classifiers"]["plain"], "seed": seed} for seed in range(3)}
    networks |= {
        f"amn_{seed}": {**CONFIG["classifiers"]["amn"], "labels": f"plain_{seed}/cam/confident", "seed": seed}
        for seed in range(3)
    }
    made = plan(classifiers=networks, recipes=["parts/amn_*/amn"])
    assert set(made.seed_groups()) == {f"parts/amn_{{0,1,2}}/amn/score.{split}.json" for split in ("train", "val")}
    networks["amn_2"]["labels"] = "plain_2/advcam/confident"
    made = plan(classifiers=networks, recipes=["parts/amn_*/amn"])
    assert set(made.seed_groups()) == {f"parts/amn_{{0,1}}/amn/score.{split}.json" for split in ("train", "val")}
