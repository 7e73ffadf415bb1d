"""Hide-and-Seek, CASM, ensembles and scores against boxes in the plan: what makes what anew, and what is refused.

The tables are written by hand; what changed is read off the paths.
"""

import functools
import json

import pytest
import yaml

from camflow.errors import ConfigError, RecipeError
from camflow.plan import keys
from camflow.plan.config import methods, schema
from camflow.plan.plan import PROJECT, parse_target

TINY = {"backbone": "tiny", "weights": "none", "freeze_bn": False}
CONFIG = {
    "recipes": ["parts/{plain,has,casm}/cam", "parts/casm/masker", "parts/plain/{ensemble,dropped}"],
    "datasets": {"parts": {"format": "parts", "classes": 3}},
    "classifiers": {
        "plain": {"method": "plain", **TINY},
        "has": {"method": "plain", **TINY, "augment": {"hide_and_seek": {"sizes": [0, 8]}}},
        "casm": {"method": "casm", "backbone": "tiny", "warm_start": "plain"},
    },
    "localizers": {
        "cam": {"method": "cam"},
        "dropped": {"method": "cam", "pixel_dropout": 0.5},
        "masker": {"method": "masker"},
        "ensemble": {"method": "ensemble", "members": ["plain/cam", "has/cam"]},
    },
    "localization": {"splits": ["val"], "scores": ["localization", "pxap", "saliency"]},
}
SCORED = {
    "curves": "box_curves.val.h5",
    "localization": "localization.val.json",
    "pxap": "pxap.val.json",
    "saliency": "saliency.val.json",
    "boxes": "boxes.val.png",
}
SHOWN = {
    "masked": "masked_images.val.h5",
    "rows": "masked_images.val.png",
    "own": "masked_classifier.val.json",
    "resnet18": "masked_resnet18.val.json",
    "vgg11": "masked_vgg11.val.json",
}
FILES = {
    "plain": "parts/plain/classifier.pt",
    "has": "parts/has/classifier.pt",
    "casm": "parts/casm/classifier.pt",
    "plain maps": "parts/plain/cam/maps.val.h5",
    "dropped maps": "parts/plain/dropped/maps.val.h5",
    "has maps": "parts/has/cam/maps.val.h5",
    "has localization": "parts/has/cam/localization.val.json",
    "casm maps": "parts/casm/cam/maps.val.h5",
    "ensemble maps": "parts/plain/ensemble/maps.val.h5",
    "ensemble localization": "parts/plain/ensemble/localization.val.json",
    "masker maps": "parts/casm/masker/maps.val.h5",
    **{name: f"parts/casm/masker/{file}" for name, file in {**SCORED, **SHOWN}.items()},
}
MASKED = {"masked", "own", "resnet18", "vgg11"}
MASKER = {"masker maps", *SCORED, *SHOWN}
ENSEMBLE = {"ensemble maps", "ensemble localization"}
LOCALIZATION = {"localization", "has localization", "ensemble localization"}
CURVES = {"curves", "boxes", *LOCALIZATION}
CASM = {"casm", "casm maps", *MASKER}
HAS = {"has", "has maps", "has localization", *ENSEMBLE}
CHANGES = [
    # Networks. What they start from, and what they are averaged with, counts.
    ({"classifiers.plain.epochs": 3}, set(FILES) - {"has", "has maps", "has localization"}),
    *(
        ({"classifiers.has.augment": {"hide_and_seek": hidden}}, HAS)
        for hidden in ({"sizes": [8]}, {"sizes": [0, 8], "p": 0.3}, {"sizes": [0, 8], "fill": 0.1})
    ),
    ({"classifiers.has.augment": {"pixel_dropout": {"p": 0.3}}}, HAS),
    *(({f"classifiers.casm.{key}": value}, CASM) for key, value in {
        "preset": "CA", "score": "adversarial", "hp": 0.3, "lambda_r": 3, "save_every": 7, "f_size": 3, "taps": [1, 2],
        "upsample": "bilinear", "gumbel_tau": 0.1, "tv_weight": 0.1, "mask_in": True, "epoch_share": 1,
        "masker_lr": 0.01, "clip": 1, "crop_area": None, "warm_start": None,
    }.items()),
    # Maps.
    (
        {"localizers.cam.scales": [1.0]},
        {"plain maps", "has maps", "has localization", "casm maps", *ENSEMBLE},
    ),
    ({"localizers.cam.pixel_dropout": 0.5}, {"plain maps", "has maps", "has localization", "casm maps", *ENSEMBLE}),
    ({"localizers.dropped.pixel_dropout": 0.4}, {"dropped maps"}),
    ({"localizers.masker.classes": "cam"}, MASKER),
    ({"localizers.masker.flip": True}, MASKER),
    ({"localizers.ensemble.grid": "first"}, ENSEMBLE),
    ({"localizers.ensemble.members": ["has/cam", "plain/cam"]}, ENSEMBLE),
    ({"localizers.ensemble.members": ["has/cam"]}, ENSEMBLE),
    ({"localizers.ensemble.members": ["plain/cam", "has/cam", "casm/masker"]}, ENSEMBLE),
    # Curves once, from which the scores are read.
    *(({f"localization.curves.{key}": value}, CURVES) for key, value in {
        "frame": "crop", "size": 96, "clip": True, "resize": "bilinear", "normalise": "max", "connectivity": 4,
        "inclusive": False, "fractions": [0.2],
    }.items()),
    *(({f"localization.reductions.{key}": value}, LOCALIZATION) for key, value in {
        "interval": 0.01, "iou_thresholds": [0.5], "fixed_fractions": [0.2], "topk": [1],
    }.items()),
    *(({f"localization.pxap.{key}": value}, {"pxap"}) for key, value in {
        "frame": "image", "size": 96, "resize": "bilinear", "normalise": "max", "interval": 0.01,
    }.items()),
    *(({f"localization.saliency.{key}": value}, {"saliency"}) for key, value in {
        "frame": 96, "resize": 256, "normalise": "max", "interpolation": "nearest", "binarise": "mean", "clip": True,
        "box": "short", "tolerance": 15, "recogniser": True,
    }.items()),
    # Masked photos once, which every network is shown.
    *(({f"localization.masked.{key}": value}, {*MASKED, "rows"}) for key, value in {
        "frame": 96, "resize": None, "normalise": "max", "interpolation": "nearest", "binarise": "mean", "fill": "mean",
    }.items()),
    ({"localization.masked.classes": {"disc": "baseball"}}, {"resnet18", "vgg11"}),
    ({"localization.masked.weights": {"resnet18": "IMAGENET1K_V2"}}, {"resnet18"}),
    ({"localization.masked.weights": {"resnet34": "IMAGENET1K_V2"}}, set()),
    ({"localization.splits": ["train"]}, set()),
    ({"localization.scores": ["pxap"]}, set()),
    ({"report.images": 3}, {"boxes", "rows"}),
    ({"evaluation.thresholds.step": 0.02}, set()),
    ({"runtime.shards": 7}, set()),
]  # fmt: skip
EDITS = {
    "camflow.train.hiding": set(FILES),  # the augmentation of every classifier
    "camflow.train.casm": CASM,
    "camflow.train.casm_losses": CASM,
    "camflow.models.masker": CASM,
    "camflow.localize.masker": MASKER,
    "camflow.localize.ensemble": ENSEMBLE,
    "camflow.data.dropped": set(FILES) - {"plain", "has", "casm"},
    "camflow.evaluate.box_curves": CURVES,
    "camflow.evaluate.cam_boxes": CURVES,
    "camflow.evaluate.localization": CURVES,
    "camflow.evaluate.frames": {*CURVES, "pxap"},
    "camflow.evaluate.pxap": {"pxap"},
    "camflow.evaluate.saliency": {"saliency", *MASKED, "rows"},
    "camflow.evaluate.masked_accuracy": {"saliency", *MASKED, "rows"},
    "camflow.plots.boxes": {"boxes"},
    "camflow.plots.masked_images": {"rows"},
    # Confidences, which Top-k Loc and OM are read from.
    "camflow.evaluate.classification": {"saliency", *LOCALIZATION},
}


@pytest.fixture
def same_code(monkeypatch):
    """Digest each closure of imports once: no setting changes code, and many plans are made."""
    once = functools.cache(keys.code_digests)
    monkeypatch.setattr(keys, "code_digests", lambda roots: once(tuple(roots)))


def test_exactly_what_a_setting_decides_is_made_anew(same_code, made_anew):
    for changes, expected in CHANGES:
        assert made_anew(**changes) == expected, changes


@pytest.mark.parametrize("module", EDITS)
def test_exactly_what_a_module_decides_is_made_anew(made_anew, edit, module):
    edit(module)
    assert made_anew() == EDITS[module]


def test_every_setting_is_in_the_table():
    """A setting that is added must be put above, beside what it makes anew."""

    def places(rules, where):
        for key, rule in rules["properties"].items():
            deeper = rule.get("properties")
            yield from places(rule, f"{where}.{key}") if deeper else [f"{where}.{key}"]

    known = set(places(schema()["properties"]["localization"], "localization"))
    assert known == {place for changes, _ in CHANGES for place in changes if place.startswith("localization.")}


# --- weights of networks that masked photos are shown to -------------------------------------------------------------


def test_the_weights_in_a_file_decide_that_networks_score_alone(plan, made_anew, tmp_path):
    weights = tmp_path / "resnet18.pth"
    weights.write_bytes(b"one")
    places = {"localization.masked.weights": {"resnet18": str(weights)}}
    assert made_anew(**places) == {"resnet18"}
    before = plan(**places).path_of(FILES["resnet18"])
    weights.write_bytes(b"three")
    assert made_anew(**places) == {"resnet18"}
    assert plan(**places).path_of(FILES["resnet18"]) != before
    # What is in the file counts, not where it lies.
    moved = weights.rename(tmp_path / "moved.pth")
    after = plan(**places | {"localization.masked.weights": {"resnet18": str(moved)}}).path_of(FILES["resnet18"])
    moved.rename(weights)
    assert after == plan(**places).path_of(FILES["resnet18"])


def test_a_missing_file_of_weights_is_named(plan):
    made = plan(**{"localization.masked.weights": {"resnet18": "gone/weights.pth"}})
    made.path_of(FILES["vgg11"])
    with pytest.raises(ConfigError, match=r"localization\.masked\.weights\.resnet18: there is no file gone/weights"):
        made.path_of(FILES["resnet18"])


# --- what files are made from ----------------------------------------------------------------------------------------


def reads(made, path):
    return {name: goal.path for name, goal in made.reads(parse_target(path)).items()}


def test_what_the_scores_read(plan):
    made, recipe = plan(), "parts/casm/masker"
    own = {"catalog": "parts/catalog.val.h5"}
    confidence = {"confidence": "parts/casm/confidence.val.h5"}
    maps = {"maps": f"{recipe}/maps.val.h5"}
    assert reads(made, f"{recipe}/box_curves.val.h5") == {**own, **maps}
    assert reads(made, f"{recipe}/localization.val.json") == {
        **own, **confidence, "box_curves": f"{recipe}/box_curves.val.h5",
    }  # fmt: skip
    assert reads(made, f"{recipe}/pxap.val.json") == {**own, **maps}
    assert reads(made, f"{recipe}/saliency.val.json") == {**own, **maps, **confidence}
    with_metric = plan(**{"localization.saliency.recogniser": True})
    network = {"classifier": "parts/casm/classifier.pt"}
    assert reads(with_metric, f"{recipe}/saliency.val.json") == {**own, **maps, **confidence, **network}
    masked = {"masked_images": f"{recipe}/masked_images.val.h5"}
    assert reads(made, f"{recipe}/masked_classifier.val.json") == {**own, **masked, **network}
    assert reads(made, f"{recipe}/masked_resnet18.val.json") == {**own, **masked}


def test_an_ensemble_reads_its_members_in_their_order_and_no_network(plan):
    made = plan(**{"localizers.ensemble.members": ["has/cam", "casm/masker", "plain/cam"]})
    assert reads(made, "parts/plain/ensemble/maps.train.h5") == {
        "catalog": "parts/catalog.train.h5",
        "member_0": "parts/has/cam/maps.train.h5",
        "member_1": "parts/casm/masker/maps.train.h5",
        "member_2": "parts/plain/cam/maps.train.h5",
    }
    # Its path's classifier gives the classification of Top-k scores.
    assert reads(made, "parts/plain/ensemble/localization.val.json")["confidence"] == "parts/plain/confidence.val.h5"


def test_casm_starts_from_another_classifier(plan):
    made, goal = plan(), parse_target("parts/casm/classifier.pt")
    assert made.inputs(goal)["warm_start"] == made.path_of("parts/plain/classifier.pt")
    # A parameter without value takes the preset's, so none may be filled in here.
    told = json.loads(made.job(goal))["parameters"]
    assert not {"hp", "lambda_r", "save_every", "fixed", "batch_size"} & set(told)
    assert "warm_start" not in plan(**{"classifiers.casm.warm_start": None}).inputs(goal)


def test_a_masker_is_a_source_of_saliency_for_erasing(plan):
    refiner = {"refiners.assemble": {"method": "assemble", "threshold": 0.5, "saliency": "casm/masker"}}
    erasing = {
        "classifiers.ae": {"method": "adversarial_erasing", "rounds": 1, **TINY},
        "localizers.erasing": {"method": "erasing"},
    }
    path = "parts/ae_round_1/erasing/assemble/masks.val.h5"
    made = plan(**refiner, **erasing)
    assert reads(made, path)["saliency"] == "parts/casm/masker/maps.val.h5"
    other = plan(**refiner, **erasing, **{"classifiers.casm.lambda_r": 3})
    assert made.path_of(path) != other.path_of(path)


# --- what is made by default -----------------------------------------------------------------------------------------


def made_by_default(made):
    return {path.removeprefix("results/") for path in made.readable()}


def test_localizers_are_scored_where_it_is_asked_for(plan):
    recipes = {"/".join(steps) for steps in plan().recipes}
    wanted = {
        f"{recipe}/{SCORED[name]}" for recipe in recipes for name in ("localization", "pxap", "saliency", "boxes")
    }
    wanted |= {"parts/casm/masker/masked_images.val.png", "tables/localization.md"}
    assert wanted <= made_by_default(plan())
    without = made_by_default(plan(**{"localization.splits": []}))
    assert not without & (wanted - {"parts/casm/masker/masked_images.val.png"})
    assert plan(**{"localization.splits": []}).tables == ["scores"]


def test_a_dataset_without_boxes_has_no_scores_against_them(plan):
    """And one without masks no average precision of pixels."""
    changes = {
        "recipes": ["photos/plain/cam"],
        "datasets": {"photos": {"format": "folder", "root": ".", "masks": "masks"}},
    }
    assert {goal.leaf.stem for goal in plan(**changes).box_scores()} == {"pxap"}
    changes["datasets"]["photos"] = {"format": "folder", "root": ".", "layout": "cub"}
    assert {goal.leaf.stem for goal in plan(**changes).box_scores()} == {"localization", "saliency"}


def test_every_kind_of_score_has_its_own_group_of_seeds(plan):
    made = plan(**{
        "classifiers.plain.sweep": {"seed": [0, 1]}, "recipes": ["parts/plain_seed_*/cam"], "classifiers.casm": None,
        "evaluation.splits": ["val"],
    })  # fmt: skip
    folder = "parts/plain_seed_{0,1}"
    assert made.seed_groups() == {
        f"{folder}/{name}": [f"parts/plain_seed_{k}/{name}" for k in (0, 1)]
        for name in (
            "score.val.json", "cam/score.val.json", "cam/localization.val.json", "cam/pxap.val.json",
            "cam/saliency.val.json",
        )
    }  # fmt: skip


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (["plain/cam", "plain/ensemble"], "'plain/ensemble' has no maps of its own; name what it is made of"),
        (["nowhere/cam"], "there is no classifier 'nowhere' in classifiers of the config"),
        (["plain/cma"], "there is no localizer 'cma' in localizers of the config; did you mean 'cam'"),
        (["plain"], "'plain' is no classifier/localizer, such as plain/cam"),
        (["plain/cam/none"], "'plain/cam/none' is no classifier/localizer, such as plain/cam"),
        (["plain/masker"], "needs masks of saliency, which parts and plain does not provide"),
    ],
    ids=["itself", "no such classifier", "no such localizer", "too short", "too long", "does not fit"],
)
def test_an_ensemble_of_what_has_no_maps_is_refused(plan, members, words):
    made = plan(**{"localizers.ensemble.members": members})
    with pytest.raises(RecipeError) as caught:
        made.path_of(FILES["ensemble maps"])
    assert words in str(caught.value)


@pytest.mark.parametrize("members", [[], ["plain/cam", "plain/cam"], None])
def test_an_ensemble_names_different_members(plan, members):
    with pytest.raises(ConfigError, match=r"localizers\.ensemble\.members"):
        plan(**{"localizers.ensemble.members": members})


@pytest.mark.parametrize("classifier", ["plain", "has"])
def test_a_masker_needs_a_classifier_that_has_one(plan, classifier):
    with pytest.raises(RecipeError) as caught:
        plan().path_of(f"parts/{classifier}/masker/maps.val.h5")
    assert str(caught.value) == (
        f"parts/{classifier}/masker: localizer 'masker' (method masker) needs masks of saliency, which parts and "
        f"{classifier} does not provide. What fits here: cam, dropped, ensemble."
    )


def test_an_unknown_network_is_refused(plan):
    with pytest.raises(RecipeError, match=r"no file 'masked_resnet17\.json'; did you mean 'masked_resnet18\."):
        plan().path_of("parts/casm/masker/masked_resnet17.val.json")


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ({"preset": "F", "warm_start": None}, "warm_start: a fixed classifier does not learn"),
        ({"fixed": True, "hp": 0, "warm_start": None}, "warm_start: a fixed classifier does not learn"),
        ({"fixed": True}, "hp: a fixed classifier has no past"),
        ({"preset": "F", "hp": 0.5}, "hp: a fixed classifier has no past"),
        ({"weights": "IMAGENET1K_V1"}, "weights: IMAGENET1K_V1 and warm_start are two initial states"),
        ({"preset": "CA", "score": "adversarial"}, "lambda_r: preset CA has none for score: adversarial"),
        ({"scale": [32, 48]}, "crop_area: it and scale are two ways to crop"),
        ({"crop_area": [0.5, 0.2]}, "crop_area: 0.5 is above 0.2"),
    ],
)
def test_values_of_casm_that_do_not_go_together_are_refused_at_once(plan, places, words):
    """By the plan as by the training, which would say so only after what it starts from has been trained."""
    from camflow.train.casm import casm_from_config

    changes = {f"classifiers.casm.{key}": value for key, value in places.items()}
    with pytest.raises(ConfigError, match=words):
        plan(**changes)
    entry = {"preset": "L100", "weights": "none", **places}
    if "warm_start" not in places and "weights" not in places:
        with pytest.raises(ConfigError):
            casm_from_config(entry)


@pytest.mark.parametrize("places", [{"preset": "F"}, {"preset": "FIX"}, {"fixed": True, "hp": 0}, {"preset": "CA"}])
def test_published_combinations_pass(plan, places):
    from camflow.train.casm import casm_from_config

    made = plan(**{f"classifiers.casm.{key}": value for key, value in places.items()})
    casm_from_config(made.instance("classifier", "casm"))


def test_the_shipped_default_has_every_localizer():
    config = yaml.safe_load((PROJECT / "config.yaml").read_text())
    elsewhere = {"import"}  # has no meaning without a folder of the user's
    assert {item["method"] for item in config["localizers"].values()} == set(methods("localizers")) - elsewhere
