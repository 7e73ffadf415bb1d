"""What a configuration becomes: merged, typed, checked, filled, swept; and that the schemas say what the code does."""

import dataclasses
import importlib.util
import inspect
import re
from pathlib import Path

import pytest
import yaml
from torchvision import models

from camflow.data.parts import PartsParams
from camflow.data.readers.base import COMMON_DEFAULTS, FORMATS
from camflow.data.readers.coco import CocoReader
from camflow.data.readers.folder import FolderReader
from camflow.data.readers.parts import PartsReader
from camflow.data.readers.voc import VocReader
from camflow.errors import ConfigError
from camflow.evaluate import frames, masked_accuracy, saliency
from camflow.evaluate.localization import CurveParams, LocalizationParams
from camflow.evaluate.masked_accuracy import MaskedParams
from camflow.evaluate.pxap import PxapParams
from camflow.evaluate.saliency import SaliencyParams
from camflow.evaluate.scores import MIOU_RULES, ScoreParams
from camflow.localize import advcam, amn, ensemble, erasing, kmeans, lpcam, masker, prototypes
from camflow.localize.advcam import AdvCamParams
from camflow.localize.cam import CamParams
from camflow.localize.extract import PRECISIONS
from camflow.localize.mctformer import MctFormerMapParams
from camflow.localize.seam import SeamMapParams
from camflow.models.classifier import DETACHES, POOLINGS
from camflow.models.host import TAPS
from camflow.models.mctformer import ARCHITECTURES as TRANSFORMERS
from camflow.models.mctformer import MAPS
from camflow.models.segmenter import ARCHITECTURES
from camflow.params import from_config
from camflow.plan import config as configs
from camflow.plan.config import SECTIONS, load_config, methods, schema
from camflow.plan.recipe import MASKED, NETWORKS, STUDIES
from camflow.refine import affinity, assemble, confident, irn, psa, walk
from camflow.refine.crf import PUBLISHED, UNARIES, CrfParams, crf_params, params_from_config
from camflow.segment.files import QUANTISE
from camflow.segment.label_tasks import crf_name
from camflow.segment.labels import CRF_IMAGES
from camflow.segment.predict import TestParams
from camflow.segment.tasks import test_params as shown_as
from camflow.train import casm, casm_losses, settings
from camflow.train.amn import AmnParams
from camflow.train.augment import AUGMENTATIONS
from camflow.train.casm import CasmParams
from camflow.train.cct import CctParams
from camflow.train.classify import LOSSES, PlainParams
from camflow.train.irn import IrnTrainParams
from camflow.train.mctformer import MctFormerParams
from camflow.train.psa import AffinityParams
from camflow.train.psl import PslParams
from camflow.train.refiners import AFFINITY_LR, affinity_from_config, irn_from_config
from camflow.train.seam import SeamParams
from camflow.train.segment import LOSSES as SEGMENT_LOSSES
from camflow.train.segment import PRESETS, SegmentParams

PROJECT = Path(__file__).resolve().parents[2]
BASE = {
    "recipes": ["parts/plain/cam/{none,crf}"],
    "datasets": {"parts": {"format": "parts", "train": 10}},
    "classifiers": {"plain": {"method": "plain", "backbone": "tiny", "weights": "none", "lr": 0.5}},
    "localizers": {"cam": {"method": "cam", "scales": [1.0]}},
    "refiners": {"none": {"method": "none"}, "crf": {"method": "crf", "preset": "psa"}},
}


@pytest.fixture
def load(tmp_path):
    """The effective configuration of BASE, overlays (mappings or YAML text) and overrides."""

    def run(*overlays, overrides=None, base=BASE):
        files = []
        for number, layer in enumerate((base, *overlays)):
            path = tmp_path / f"{number}.yaml"
            path.write_text(layer if isinstance(layer, str) else yaml.safe_dump(layer))
            files.append(path)
        return load_config(files, overrides)

    return run


# --- merging ---------------------------------------------------------------------------------------------------------


def test_an_overlay_replaces_whole_instances(load):
    found = load({"classifiers": {"plain": {"method": "plain", "backbone": "resnet18"}}})
    assert found["classifiers"]["plain"]["backbone"] == "resnet18"
    assert found["classifiers"]["plain"]["lr"] == 0.1  # the default of the method, not the 0.5 of the file below


def test_an_overlay_adds_instances_and_leaves_the_others(load):
    found = load({"refiners": {"soft": {"method": "crf", "preset": "deeplab_v2"}}})
    assert set(found["refiners"]) == {"none", "crf", "soft"}
    assert found["refiners"]["crf"]["preset"] == "psa"


def test_an_overlay_merges_everything_else_and_replaces_lists(load):
    base = {**BASE, "evaluation": {"threshold": 0.3, "thresholds": {"start": 0.1}}}
    found = load({"evaluation": {"thresholds": {"stop": 0.5}}, "recipes": ["parts/plain"]}, base=base)
    assert found["evaluation"]["threshold"] == 0.3
    assert found["evaluation"]["thresholds"] == {"start": 0.1, "stop": 0.5, "step": 0.01}
    assert found["recipes"] == ["parts/plain"]


def test_null_removes_an_instance(load):
    assert set(load({"refiners": {"crf": None}})["refiners"]) == {"none"}


def test_the_command_line_merges_deep(load):
    found = load(overrides={"classifiers": {"plain": {"epochs": 3}}, "evaluation": {"thresholds": {"step": 0.1}}})
    plain = found["classifiers"]["plain"]
    assert (plain["epochs"], plain["lr"], plain["backbone"]) == (3, 0.5, "tiny")
    assert found["evaluation"]["thresholds"] == {"start": 0.0, "stop": 0.99, "step": 0.1}


@pytest.mark.parametrize(
    ("text", "value"), [("3", 3), ("1e-4", 1e-4), ("0.5", 0.5), ("0", 0)], ids=["integer", "exponent", "float", "zero"]
)
def test_text_of_the_command_line_becomes_the_type_it_looks_like(load, text, value):
    found = load(overrides={"classifiers": {"plain": {"lr": text}}})["classifiers"]["plain"]["lr"]
    assert found == value and isinstance(found, int | float)


def test_booleans_null_and_lists_of_the_command_line_are_typed(load):
    found = load(
        overrides={
            "classifiers": {"plain": {"hflip": "0.25", "dilate": "true", "output_stride": "null"}},
            "localizers": {"cam": {"scales": ["1", "0.5"]}},
        }
    )
    plain = found["classifiers"]["plain"]
    assert (plain["hflip"], plain["dilate"], plain["output_stride"]) == (0.25, True, None)
    assert found["localizers"]["cam"]["scales"] == [1, 0.5]


@pytest.mark.parametrize("text", ["*/plain/cam", "{parts,parts}/plain", "@here", "[open", "a: b: c", "!tag", "'half"])
def test_text_that_is_no_yaml_stays_text(load, text):
    found = load(overrides={"recipes": [text], "voc_root": text})
    assert (found["recipes"], found["voc_root"]) == ([text], text)


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", ".1e-3", "+1e-4"])
def test_an_exponent_without_a_point_is_a_number(load, text):
    found = load(f"classifiers: {{plain: {{method: plain, weight_decay: {text}}}}}")
    assert found["classifiers"]["plain"]["weight_decay"] == pytest.approx(1e-4)


# --- sweeps and defaults ---------------------------------------------------------------------------------------------


def test_a_sweep_makes_one_instance_a_value(load):
    found = load({"refiners": {"t": {"method": "crf", "preset": "psa", "sweep": {"threshold": [0.2, 0.3]}}}})
    assert set(found["refiners"]) == {"none", "crf", "t_threshold_0.2", "t_threshold_0.3"}
    assert found["refiners"]["t_threshold_0.3"] == {"method": "crf", "preset": "psa", "threshold": 0.3}


def test_a_sweep_over_two_parameters_makes_every_pair(load):
    axes = {"preset": ["irn", "psa"], "threshold": [0.2, "best"]}
    found = load({"refiners": {"t": {"method": "crf", "sweep": axes}}})["refiners"]
    names = {f"t_preset_{preset}_threshold_{threshold}" for preset in ("irn", "psa") for threshold in ("0.2", "best")}
    assert set(found) == {"none", "crf", *names}
    assert found["t_preset_psa_threshold_best"] == {"method": "crf", "preset": "psa", "threshold": "best"}


@pytest.mark.parametrize(
    ("axes", "names"),
    [
        ({"scales": [[1.0], [1.0, 0.5]]}, {"c_scales_1.0", "c_scales_1.0_0.5"}),
        ({"flip": [True, False]}, {"c_flip_true", "c_flip_false"}),
        ({"long_side": [None, 64]}, {"c_long_side_null", "c_long_side_64"}),
    ],
    ids=["lists", "booleans", "null"],
)
def test_swept_names_can_stand_in_a_path(load, axes, names):
    found = set(load({"localizers": {"c": {"method": "cam", "sweep": axes}}})["localizers"])
    assert found == {"cam", *names}
    assert all(configs.NAME.match(name) for name in found)


def test_defaults_are_filled_at_every_depth(load):
    found = load({"classifiers": {"plain": {"method": "plain", "augment": {"hide_and_seek": {"p": 0.1}}}}})
    plain = found["classifiers"]["plain"]
    assert plain["backbone"] == "resnet50" and plain["momentum"] == 0.9
    assert plain["augment"] == {"hide_and_seek": {"p": 0.1, "sizes": [0, 16, 32, 44, 56], "fill": "mean"}}
    assert found["runtime"]["shards"] == 2
    assert found["tables"] == {"published": {}}
    assert found["segmenters"] == {}


def test_filling_does_not_touch_the_schema(load):
    load()["evaluation"]["splits"].append("test")
    assert load()["evaluation"]["splits"] == ["train", "val"]


def test_all_problems_are_listed_at_once(load):
    with pytest.raises(ConfigError) as caught:
        load({"classifiers": {"plain": {"method": "plain", "epochs": 0, "lrr": 1}}, "runtime": {"jobs": "x"}, "zz": 1})
    for text in ("zz: unknown key", "runtime.jobs", "classifiers.plain.epochs", "classifiers.plain.lrr"):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("section", "item", "words"),
    [
        ("refiners", {"method": "confident", "conf_fg": 0.1, "conf_bg": 0.5}, "conf_bg: 0.5 is above conf_fg: 0.1"),
        ("refiners", {"method": "irn", "conf_fg": 0.1, "conf_bg": 0.5}, "conf_bg: 0.5 is above conf_fg: 0.1"),
        ("localizers", {"method": "lpcam", "context": [0.9, 0.1]}, "context: 0.9 is above 0.1; exchange them"),
        ("classifiers", {"method": "seam", "warm_start": "plain", "weights": "a.pth"}, "two initial states"),
    ],
)
def test_bounds_and_starts_that_cannot_be(load, section, item, words):
    with pytest.raises(ConfigError, match=words):
        load({section: {"mine": item}})


# --- schemas and code say the same -----------------------------------------------------------------------------------


def defaults(rules: dict) -> dict:
    return {key: rule["default"] for key, rule in rules.items() if "default" in rule}


def fields(kind) -> dict:
    """Field -> default, as YAML would write it."""
    made = kind()
    return {field.name: plain(getattr(made, field.name)) for field in dataclasses.fields(kind)}


def plain(value):
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def properties(section: str, method: str) -> dict:
    return methods(section)[method]["properties"]


def test_plain_has_the_parameters_of_its_schema():
    rules = properties("classifiers", "plain")
    launched = {"monitor", "processes"}  # what is read and how many processes run: not the training's own
    assert {key: value for key, value in defaults(rules).items() if key not in launched} == fields(PlainParams)
    assert set(rules) - launched == set(fields(PlainParams))
    enums = {"loss": LOSSES, "pooling": POOLINGS, "detach": DETACHES, **settings.CHOICES}
    for name, values in enums.items():
        assert set(rules[name]["enum"]) == set(values), name


def test_seam_has_the_parameters_of_its_schema():
    rules = properties("classifiers", "seam")
    launched = {"monitor", "processes", "warm_start"}
    assert {key: value for key, value in defaults(rules).items() if key not in launched} == fields(SeamParams)
    assert set(rules) - launched == set(fields(SeamParams))
    for name, values in settings.CHOICES.items():
        assert set(rules[name]["enum"]) == set(values), name


def test_amn_has_the_parameters_of_its_schema():
    rules = properties("classifiers", "amn")
    launched = {"labels", "processes", "warm_start"}
    assert {key: value for key, value in defaults(rules).items() if key not in launched} == fields(AmnParams)
    assert set(rules) - launched == set(fields(AmnParams))
    for name, values in {"detach": DETACHES, **settings.CHOICES}.items():
        assert set(rules[name]["enum"]) == set(values), name
    maps = properties("localizers", "amn")
    assert defaults(maps) == fields(amn.AmnMapParams) and set(maps["grid"]["enum"]) == set(amn.GRIDS)


def test_confident_labels_have_the_parameters_of_their_schema():
    rules = properties("refiners", "confident")
    # A default here would replace the preset's own value.
    assert set(rules) == {"preset", "conf_fg", "conf_bg"} and defaults(rules) == {"preset": "irn"}
    assert set(rules["preset"]["enum"]) == set(confident.PUBLISHED)


def test_seam_maps_have_the_parameters_of_their_schema():
    assert defaults(properties("localizers", "seam")) == fields(SeamMapParams)


def test_mctformer_has_the_parameters_of_its_schema():
    rules = properties("classifiers", "mctformer")
    launched = {"monitor", "processes"}
    assert {key: value for key, value in defaults(rules).items() if key not in launched} == fields(MctFormerParams)
    assert set(rules) - launched == set(fields(MctFormerParams))
    for name in ("schedule", "momentum_slot", "precision"):
        assert set(rules[name]["enum"]) == set(settings.CHOICES[name]), name
    for name in TRANSFORMERS:
        assert name in rules["backbone"]["description"], name


def test_mctformer_maps_have_the_parameters_of_their_schema():
    rules = properties("localizers", "mctformer")
    assert defaults(rules) == fields(MctFormerMapParams)
    assert set(rules["maps"]["enum"]) == set(MAPS)
    assert set(properties("localizers", "lpcam")["fusion"]["enum"]) == set(lpcam.FUSIONS)


def test_augmentations_have_the_parameters_of_their_schema():
    rules = properties("classifiers", "plain")["augment"]["properties"]
    assert set(rules) == set(AUGMENTATIONS)
    for name, (_, function) in AUGMENTATIONS.items():
        keywords = inspect.signature(function).parameters.values()
        found = {item.name: plain(item.default) for item in keywords if item.kind is item.KEYWORD_ONLY}
        assert found == defaults(rules[name]["properties"]), name


def test_cam_has_the_parameters_of_its_schema():
    rules = properties("localizers", "cam")
    # Photos with dropped pixels are shown so by what all localizers share, which knows no photo without.
    assert defaults(rules) == {**fields(CamParams), "pixel_dropout": None}
    assert set(rules["precision"]["enum"]) == set(PRECISIONS)


def test_advcam_has_the_parameters_of_its_schema():
    rules = properties("localizers", "advcam")
    named = {key.removesuffix("_"): value for key, value in fields(AdvCamParams).items()}
    assert defaults(rules) == named
    for name, values in advcam.CHOICES.items():
        assert set(rules[name]["enum"]) == set(values), name
    assert from_config(AdvCamParams, {"lambda": 3, "scales": [1]}) == AdvCamParams(lambda_=3, scales=(1.0,))


def test_lpcam_has_the_parameters_of_its_schema():
    rules = properties("localizers", "lpcam")
    clustering, maps = fields(prototypes.PrototypeParams), fields(lpcam.LpcamParams)
    assert set(rules) == {*clustering, *maps, "preset", "mask", "split"}
    assert set(rules["preset"]["enum"]) == set(prototypes.PRESETS)
    assert set(rules["init"]["enum"]) == set(kmeans.INITS)
    assert set(rules["tolerance_rule"]["enum"]) == set(kmeans.TOLERANCE_RULES)
    assert set(rules["fallback"]["enum"]) == set(prototypes.FALLBACKS)
    assert set(rules["scorer"]["enum"]) == set(TAPS)
    # A default here would replace the preset's own value.
    own = {key: maps[key] for key in ("scales", "flip", "long_side", "precision", "fusion")}
    assert defaults(rules) == {**own, "preset": "voc", "mask": "cam", "split": "train"}
    step = methods("localizers")["lpcam"]["x-steps"]["lpcam_prototypes"]
    assert set(step["parameters"]) == {*clustering, "preset", "mask", "split"}
    for name, preset in prototypes.PRESETS.items():
        assert prototypes.prototype_params_from_config({"method": "lpcam", "preset": name}) == preset.prototypes
        found = lpcam.params_from_config({"method": "lpcam", "preset": name})
        assert fields_of(found, prototypes.SelectionParams) == dataclasses.asdict(preset.selection)


def fields_of(item, kind) -> dict:
    return {field.name: getattr(item, field.name) for field in dataclasses.fields(kind)}


def test_casm_has_the_parameters_of_its_schema():
    rules = properties("classifiers", "casm")
    # A batch updates the classifier twice and cannot be taken in parts.
    training = {key: value for key, value in fields(CasmParams).items() if key != "accumulate"}
    launched = {"monitor", "processes", "warm_start", "preset"}
    assert set(rules) == {*training, *launched}
    presets = {key for preset in casm.PRESETS.values() for key in preset}
    # A default here would replace the preset's own value.
    assert set(rules) - set(defaults(rules)) == presets
    # Published from ImageNet's weights, which a warm start takes the place of.
    own = {key: value for key, value in training.items() if key not in presets}
    assert {key: value for key, value in defaults(rules).items() if key not in launched} == {**own, "weights": "none"}
    assert set(rules["preset"]["enum"]) == set(casm.PRESETS) and rules["preset"]["default"] == "L100"
    assert set(rules["score"]["enum"]) == set(casm_losses.SCORES)
    assert set(rules["loss"]["enum"]) == {casm.AUTO, *LOSSES}
    enums = {"pooling": POOLINGS, "detach": DETACHES, **settings.CHOICES}
    for name, values in enums.items():
        assert set(rules[name]["enum"]) == set(values), name
    filled = configs.fill_defaults({}, {"properties": rules})
    for name, preset in casm.PRESETS.items():
        found = casm.casm_from_config({**filled, "preset": name})
        wanted = {**preset, "lambda_r": preset["lambda_r"]["entropy"]}
        assert {key: getattr(found, key) for key in wanted} == wanted
    assert casm.casm_from_config(filled) == CasmParams(weights="none")


def test_masker_and_ensemble_have_the_parameters_of_their_schemas():
    rules = properties("localizers", "masker")
    assert defaults(rules) == fields(masker.MaskerParams)
    assert set(rules["classes"]["enum"]) == set(masker.CLASSES)
    rules = properties("localizers", "ensemble")
    assert defaults(rules) == fields(ensemble.EnsembleParams)
    assert set(rules) == {"members", "grid"} and set(rules["grid"]["enum"]) == set(ensemble.GRIDS)


def test_localization_has_the_parameters_of_its_schema():
    rules = schema()["properties"]["localization"]["properties"]
    kinds = {
        "curves": CurveParams, "reductions": LocalizationParams, "pxap": PxapParams, "saliency": SaliencyParams,
        "masked": MaskedParams,
    }  # fmt: skip
    networks = {"classes": None, "weights": {}}  # not of the photos, but of the networks that see them
    for name, kind in kinds.items():
        found = defaults(rules[name]["properties"])
        assert found == {**fields(kind), **({"recogniser": False} if kind is SaliencyParams else {})} | (
            networks if kind is MaskedParams else {}
        ), name
        from_config(kind, found)
    for name in ("curves", "pxap"):
        frame = rules[name]["properties"]
        assert set(frame["frame"]["enum"]) == set(frames.KINDS)
        assert set(frame["resize"]["enum"]) == set(frames.RESIZES)
        assert set(frame["normalise"]["enum"]) == set(frames.NORMALISATIONS)
    for key, values in saliency.CHOICES.items():
        assert set(rules["saliency"]["properties"][key]["enum"]) == set(values), key
        assert key == "box" or set(rules["masked"]["properties"][key]["enum"]) == set(values), key
    assert set(rules["masked"]["properties"]["fill"]["enum"]) == set(masked_accuracy.FILLS)
    # Every parameter that decides masked photos is in their token, and no other.
    assert set(MASKED) == {f"localization.masked.{key}" for key in fields(MaskedParams)}


def test_networks_that_masked_photos_are_shown_to_can_be_had():
    assert set(masked_accuracy.PUBLISHED) <= set(NETWORKS) <= set(models.list_models(module=models))


def test_studies_have_the_parameters_of_their_schema():
    rules = schema()["properties"]["studies"]["properties"]
    assert set(rules) | {"prototypes"} == set(STUDIES)
    assert set(schema()["properties"]["report"]["properties"]["studies"]["items"]["enum"]) == set(STUDIES)


def test_crf_has_the_parameters_of_its_schema():
    rules = properties("refiners", "crf")
    assert set(rules) == {*fields(CrfParams), "threshold", "preset"}
    assert set(rules["preset"]["enum"]) == set(PUBLISHED)
    assert set(rules["unary"]["enum"]) == set(UNARIES)
    # A default here would replace the preset's own value.
    assert defaults(rules) == {"threshold": "best", "preset": "irn"}
    for name in PUBLISHED:
        assert params_from_config({"method": "crf", "threshold": 0.3, "preset": name}) == crf_params(name)


# Of the training loop's settings the refiners leave out what can make no difference to them or what nobody published.
UNUSED = {"step_every", "gamma", "sync_bn", "evaluate_every"}


def test_irn_has_the_parameters_of_its_schema():
    rules = properties("refiners", "irn")
    training = {key: value for key, value in fields(IrnTrainParams).items() if key not in UNUSED}
    instances = {f"instance_{key}": value for key, value in fields(walk.InstanceParams).items()}
    other = {"preset": "irn", "split": "train", "weights": "IMAGENET1K_V1", "canvas": 512}
    assert defaults(rules) == {**training, **instances, **other}
    # A default here would replace the preset's own value.
    assert set(rules) - set(defaults(rules)) == {"conf_fg", "conf_bg", *irn.WALKED}
    assert set(rules["preset"]["enum"]) == set(confident.PUBLISHED) == set(walk.PUBLISHED)
    for name in walk.PUBLISHED:
        entry = {**defaults(rules), "preset": name}
        assert irn.walk_from_config(entry) == walk.PUBLISHED[name]
        assert irn.instances_from_config(entry) == (
            walk.walk_params(name, gamma=1.0),
            walk.InstanceParams(),
        )
        assert irn_from_config(entry) == IrnTrainParams()
    for name in ("optimizer", "precision", "momentum_slot"):
        assert set(rules[name]["enum"]) == set(settings.CHOICES[name]), name
    assert set(rules["schedule"]["enum"]) == {*settings.CHOICES["schedule"]} - {"step"}
    steps = methods("refiners")["irn"]["x-steps"]
    assert set(steps["irn_network"]["parameters"]) == {*training, "split", "weights"}
    assert irn_from_config({**defaults(rules), "gamma": 1.5}) == IrnTrainParams()  # the walk's gamma


def test_psa_has_the_parameters_of_its_schema():
    rules = properties("refiners", "psa")
    training = {key: value for key, value in fields(AffinityParams).items() if key not in UNUSED | {"lr", "width"}}
    other = {"preset": "psa", "split": "train", "weights": "IMAGENET1K_V1", "backbone": None}
    filled = configs.fill_defaults({}, {"properties": rules})
    assert {**filled, "augment": {"colour_jitter": {}}} == {**training, **other}
    assert set(rules) - set(defaults(rules)) == {"lr", "alpha_low", "alpha_high", *fields(psa.PropagateParams)}
    assert set(rules["preset"]["enum"]) == set(psa.PUBLISHED) == set(affinity.CONFIDENT) == set(AFFINITY_LR)
    for name in psa.PUBLISHED:
        entry = {**filled, "preset": name, "backbone": "resnet38"}
        assert affinity.propagate_from_config(entry) == psa.PUBLISHED[name]
        assert affinity.confident_from_config(entry) == affinity.CONFIDENT[name]
        found = affinity_from_config(entry, "unread", "unused")
        assert (found.lr, found.epochs) == (AFFINITY_LR[name], AffinityParams().epochs)
    given = affinity.confident_from_config({**filled, "alpha_high": 20})
    assert (given.alpha_low, given.alpha_high) == (4, 20)
    steps = methods("refiners")["psa"]["x-steps"]
    assert set(steps["psa_network"]["parameters"]) == {*training, "split", "weights", "lr", "preset"}


def test_erasing_has_the_parameters_of_its_schema():
    rules = properties("classifiers", "adversarial_erasing")
    erased = {"rounds", "after", "restart", "rule", "share", "erase_scales"}
    assert set(rules) == {*properties("classifiers", "plain"), *erased}
    mined = fields(erasing.ErasingParams)
    assert defaults(properties("localizers", "erasing")) == {**mined, "scales": [1.0]}
    for place in (rules, properties("localizers", "erasing")):
        assert set(place["rule"]["enum"]) == set(erasing.RULES)
    assert {key for key, rule in rules.items() if rule.get("x-leaf")} == {"rule", "share", "erase_scales"}


def test_assemble_has_the_parameters_of_its_schema():
    rules = properties("refiners", "assemble")
    assert defaults(rules) == {**fields(assemble.AssembleParams), "threshold": 0.8, "saliency": "low_cam"}
    assert set(rules["conflicts"]["enum"]) == set(assemble.CONFLICTS)
    assert set(rules["unsalient"]["enum"]) == set(assemble.UNSALIENT)


# Not the training's own: what is launched and read, how photos are shown at test time, what a CRF does then.
SHOWN = {
    "processes", "monitor", "test_scales", "test_flip", "reduce", "pad", "multiple_of", "fill", "align_corners",
    "quantise", "crf", "crf_image", "crf_skip", "competition",
}  # fmt: skip


def test_deeplab_has_the_parameters_of_its_schema():
    rules = properties("segmenters", "deeplab")
    training = fields(SegmentParams)
    assert set(rules) == {*training, *SHOWN, "preset"}
    assert set(rules["preset"]["enum"]) == set(PRESETS) - {"psl"}
    given = {key: value for key, value in defaults(rules).items() if key not in {*SHOWN, "preset"}}
    for key, value in given.items():  # a default here would replace the preset's own value
        assert not any(key in preset for preset in PRESETS.values()), key
        assert value == training[key], key
    assert set(rules["architecture"]["enum"]) == set(ARCHITECTURES)
    assert set(rules["loss"]["enum"]) == set(SEGMENT_LOSSES)
    soft = {name for name in PUBLISHED if crf_params(name).unary == "probabilities"}
    assert set(rules["crf"]["enum"]) == {*soft, None} and set(properties("segmenters", "psl")["crf"]["enum"]) == soft
    assert set(rules["crf_image"]["enum"]) == set(CRF_IMAGES)
    assert set(rules["quantise"]["enum"]) == set(QUANTISE)
    for key in ("test_scales", "test_flip", "reduce", "pad", "align_corners", "crf"):
        assert defaults(rules)[key] is None, key  # the preset's
    for preset in rules["preset"]["enum"]:
        filled = {**defaults(rules), "preset": preset}
        large = preset.startswith("large_fov")
        assert shown_as(filled) == (
            TestParams(pad=513, align_corners=True) if large else TestParams(scales=(1, 0.75, 0.5))
        )
        assert crf_name(filled) == ("deeplab_v1" if large else "deeplab_v2")


def test_psl_has_the_parameters_of_its_schema():
    rules = properties("segmenters", "psl")
    training = {key: value for key, value in fields(PslParams).items() if key != "loss"}
    own = {"after", "confidence", "filter"}
    assert set(rules) == {*training, *SHOWN, *own}
    for key, value in defaults(rules).items():
        assert key in SHOWN | own or value == training[key], key
    assert defaults(rules)["filter"] == PslParams().threshold
    assert shown_as(defaults(rules)) == TestParams(pad=513, align_corners=True)
    assert defaults(rules)["crf"] == "deeplab_v1"


def test_cct_has_the_parameters_of_its_schema():
    rules = properties("segmenters", "cct")
    assert set(rules) == {*fields(CctParams), *SHOWN, "logits_stride"}
    filled = configs.fill_defaults({}, {"properties": rules})
    assert shown_as(filled) == TestParams(reduce="mean_logit", multiple_of=8, fill="reflect")
    training = {key: value for key, value in filled.items() if key not in {*SHOWN, "logits_stride"}}
    # Without pseudo-masks the recipe's refiner would be of no use, so here they are used unless one says otherwise.
    assert training == {**fields(CctParams), "use_weak_labels": True}


def test_parts_has_the_parameters_of_its_schema():
    entry = methods("datasets")["parts"]
    made = {key: entry["properties"][key] for key in fields(PartsParams)}
    assert defaults(made) == fields(PartsParams)
    assert set(entry["x-made-by"]) == set(fields(PartsParams))
    assert set(entry["properties"]) - set(made) <= {*COMMON_DEFAULTS, "root"}


@pytest.mark.parametrize("reader", [VocReader, CocoReader, FolderReader], ids=lambda reader: reader.format)
def test_readers_have_the_parameters_of_their_schema(reader):
    rules = properties("datasets", reader.format)
    own = {"root", "download"}  # where the data is and how it is fetched: the plan's business
    wanted = {**reader.COMMON, **reader.DEFAULTS}
    assert {key: value for key, value in defaults(rules).items() if key not in own} == wanted
    assert set(rules) - own == set(wanted)
    for key, values in reader.CHOICES.items():
        rule = rules[key]
        assert set(values) == ({True, False} if rule.get("type") == "boolean" else set(rule["enum"])), key


def test_every_format_has_a_reader_and_a_schema():
    assert set(FORMATS) == set(methods("datasets"))
    assert {entry["x-reader"] for entry in methods("datasets").values()} <= set(FORMATS)
    assert PartsReader.format in FORMATS


def test_scores_have_the_parameters_of_their_schema():
    rules = schema()["properties"]["evaluation"]
    filled = configs.fill_defaults({}, rules)
    assert dataclasses.asdict(from_config(ScoreParams, filled)) == dataclasses.asdict(ScoreParams())
    assert set(rules["properties"]["miou"]["enum"]) == set(MIOU_RULES)
    assert set(fields(ScoreParams)) <= set(rules["properties"])


def test_every_method_has_its_script():
    verbs = {"classifiers": "train", "localizers": "localize", "refiners": "refine", "segmenters": "segment"}
    scripts = {path.stem for path in (PROJECT / "workflow/scripts").glob("*.py")}
    for section, verb in verbs.items():
        made = {method for method, entry in methods(section).items() if not entry.get("x-virtual")}
        assert {f"{verb}_{method}" for method in made} <= scripts
    made = {name for name, entry in methods("datasets").items() if entry.get("x-made")}
    assert {f"prepare_{name}" for name in made} <= scripts


def keys(rules: dict, where: str):
    """Every property below a schema with its place, its rules and whether it must be given."""
    for name, rule in rules.get("properties", {}).items():
        place = f"{where}.{name}"
        yield place, rule, name in rules.get("required", ())
        yield from keys(rule, place)
    if isinstance(rules.get("additionalProperties"), dict):
        yield from keys(rules["additionalProperties"], f"{where}.*")
    for name, entry in rules.get("methods", {}).items():
        yield from keys(entry, f"{where}.{name}")


EVERY_KEY = [item for name in ("config", *SECTIONS) for rules in [schema(name)] for item in keys(rules, name)]
# Replace one value of a preset, add an augmentation, or name an archive in place of the official one.
OVERRIDES = re.compile(
    r"refiners\.crf\.\w+|refiners\.confident\.\w+|refiners\.irn\.(conf_fg|conf_bg|beta|exp_times|gamma|threshold)"
    r"|classifiers\.casm\.(fixed|hp|save_every|lambda_r|mask_in|tv_weight|batch_size)"
    r"|refiners\.psa\.(alpha\w*|beta|logt|lr|augment\.\w+)|localizers\.lpcam\.\w+|classifiers\.\w+\.augment\.\w+|datasets\.voc\.download\.\w+(\.\w+)?"
    r"|config\.(datasets|classifiers|recipes)|datasets\.parts\.root"
    r"|segmenters\.\w+\.augment\.\w+|segmenters\.cct\.decoders\.\w+|segmenters\.(deeplab|psl)\.(architecture|backbone|epochs|batch_size|accumulate|lr"
    r"|weight_decay|momentum|schedule|power|step_every|gamma|crop|scale|scale_pick|train_scales|loss)"
)


@pytest.mark.parametrize(("place", "rule", "required"), [pytest.param(*item, id=item[0]) for item in EVERY_KEY])
def test_every_key_is_described_and_has_a_default(place, rule, required):
    about = rule.get("description", "")
    if not re.search(r"\.download\.\w+\.", place):
        assert about.strip() and about.strip().endswith((".", ")")), "a sentence is missing"
    assert required or "default" in rule or OVERRIDES.fullmatch(place), "neither required, nor with a default"


def test_every_default_is_valid():
    from jsonschema import Draft202012Validator

    for place, rule, _ in EVERY_KEY:
        if "default" in rule:
            assert list(Draft202012Validator(rule).iter_errors(rule["default"])) == [], place


def test_every_method_is_described():
    for section in SECTIONS:
        for name, entry in methods(section).items():
            assert entry["description"].strip(), name
            assert entry.get("x-provides"), name


# --- pins ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pin_conda():
    spec = importlib.util.spec_from_file_location("pin_conda", PROJECT / "envs/pin_conda.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_conda_and_pip_install_the_same(pin_conda):
    assert (PROJECT / "envs/camflow.yaml").read_text() == pin_conda.conda_text()
    parsed = yaml.safe_load(pin_conda.conda_text())["dependencies"]
    pip = next(item["pip"] for item in parsed if isinstance(item, dict))
    assert {item.split("==")[0] for item in pip} == set(pin_conda.direct())


def test_the_pins_satisfy_the_project(pin_conda):
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    locked = pin_conda.pins()
    for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(locked[wanted.name.lower()], prereleases=True), text


def test_the_constraints_are_in_the_lock_file(pin_conda):
    wanted = pin_conda.pins(PROJECT / "envs/constraints.txt")
    assert wanted.items() <= pin_conda.pins().items()
