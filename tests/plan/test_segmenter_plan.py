"""Adversarial erasing and segmentation networks in the plan: what each file is made from, and what makes it anew.

The tables are written by hand; what changed is read off the paths.
"""

import itertools

import pytest
import yaml

from camflow.errors import ConfigError, RecipeError
from camflow.plan.config import methods
from camflow.plan.plan import PROJECT, parse_target

TINY = {"backbone": "tiny", "weights": "none", "freeze_bn": False}
CONFIG = {
    "recipes": ["parts/ae_round_*/erasing/assemble/{deeplab,psl,psl_plus,cct}", "parts/none/none/gt/deeplab"],
    "datasets": {"parts": {"format": "parts", "classes": 3}},
    "classifiers": {
        "plain": {"method": "plain", **TINY},
        "ae": {"method": "adversarial_erasing", "rounds": 2, **TINY},
        "none": {"method": "none"},
    },
    "localizers": {"cam": {"method": "cam"}, "erasing": {"method": "erasing"}, "none": {"method": "none"}},
    "refiners": {"assemble": {"method": "assemble"}, "gt": {"method": "gt"}},
    "segmenters": {
        "deeplab": {"method": "deeplab", **TINY},
        "psl": {"method": "psl", "confidence": "plain", **TINY},
        "psl_plus": {"method": "psl", "after": "psl", "confidence": "plain", **TINY},
        "cct": {"method": "cct", **TINY},
    },
}
ONE, TWO = "parts/ae_round_1/erasing", "parts/ae_round_2/erasing"
AE = f"{TWO}/assemble"
FILES = {
    "classifier 1": "parts/ae_round_1/classifier.pt",
    "erased 1": "parts/ae_round_1/erased.train.h5",
    "maps 1": f"{ONE}/maps.train.h5",
    "classifier 2": "parts/ae_round_2/classifier.pt",
    "erased 2": "parts/ae_round_2/erased.train.h5",
    "maps 2": f"{TWO}/maps.train.h5",
    "masks 2": f"{AE}/masks.train.h5",
    "network": f"{AE}/deeplab/deeplab_network.pt",
    "logits": f"{AE}/deeplab/deeplab_logits.val.h5",
    "labels": f"{AE}/deeplab/predictions.val.h5",
    "crf": f"{AE}/deeplab/predictions_crf.val.h5",
    "score": f"{AE}/deeplab/score.val.json",
    "curve": f"{AE}/deeplab/training.png",
    "archive": f"{AE}/deeplab/export_voc.val.tgz",
    "psl network": f"{AE}/psl/psl_network.pt",
    "psl labels": f"{AE}/psl/predictions.val.h5",
    "psl++ network": f"{AE}/psl_plus/psl_network.pt",
    "psl++ labels": f"{AE}/psl_plus/predictions.val.h5",
    "cct network": f"{AE}/cct/cct_network.pt",
    "cct labels": f"{AE}/cct/predictions.val.h5",
    "gt masks": "parts/none/none/gt/masks.train.h5",
    "gt network": "parts/none/none/gt/deeplab/deeplab_network.pt",
    "gt labels": "parts/none/none/gt/deeplab/predictions.val.h5",
    "plain confidence": "parts/plain/confidence.train.h5",
}
SHOWN = {"labels", "crf", "score", "archive"}
DEEPLAB = {"network", "logits", *SHOWN, "curve"}
PSL = {"psl network", "psl labels"}
PLUS = {"psl++ network", "psl++ labels"}
CCT = {"cct network", "cct labels"}
BELOW_MASKS = {*DEEPLAB, *PSL, *PLUS, *CCT}
GT = {"gt masks", "gt network", "gt labels"}
SECOND = {"classifier 2", "erased 2", "maps 2", "masks 2", *BELOW_MASKS}
AE_ALL = set(FILES) - GT - {"plain confidence"}
CHANGES = [
    ({"classifiers.ae.epochs": 3}, AE_ALL),
    # What is erased does not decide the classifier that found it, but all that comes after.
    (
        {"classifiers.ae.erase_scales": [0.5], "localizers.erasing.scales": [0.5]},
        {"erased 1", "maps 1", *SECOND},
    ),
    ({"classifiers.ae.rounds": 3}, set()),
    ({"classifiers.plain.epochs": 3}, {"plain confidence", *PSL, *PLUS}),
    ({"refiners.assemble.conflicts": "max_heat"}, {"masks 2", *BELOW_MASKS}),
    ({"refiners.assemble.threshold": "best"}, {"masks 2", *BELOW_MASKS}),
    ({"segmenters.deeplab.lr": 0.5}, {*DEEPLAB, "gt network", "gt labels"}),
    ({"segmenters.deeplab.preset": "large_fov_poly"}, {*DEEPLAB, "gt network", "gt labels"}),
    ({"segmenters.deeplab.test_scales": [1.0]}, {"logits", *SHOWN, "curve", "gt labels"}),
    # The arg-max costs seconds, so a folder of its own for the CRF would not pay.
    ({"segmenters.deeplab.crf": "psa"}, {*SHOWN, "curve", "gt labels"}),
    ({"segmenters.psl.variant": "plain"}, {*PSL, *PLUS}),
    ({"segmenters.psl.filter": 0.2}, {"psl labels", *PLUS}),
    ({"segmenters.psl.confidence": None}, {*PSL, *PLUS}),
    ({"segmenters.psl_plus.lr": 0.5}, PLUS),
    ({"segmenters.psl_plus.filter": None}, {"psl++ labels"}),
    ({"segmenters.cct.labelled": 7}, CCT),
    ({"segmenters.cct.recompute": False}, CCT),
    ({"segmenters.cct.logits_stride": 1}, {"cct labels"}),
    ({"segmenters.deeplab.competition": "comp5"}, {"archive"}),
    ({"evaluation.ignored_prediction": "error"}, {"score"}),
    ({"evaluation.thresholds.step": 0.02}, set()),
    ({"runtime.shards": 7}, set()),
    ({"report.images": 3}, set()),
]
EDITS = {
    "camflow.localize.erasing": AE_ALL - {"classifier 1"},
    "camflow.data.erased": AE_ALL,
    "camflow.refine.assemble": {"masks 2", *BELOW_MASKS},
    "camflow.models.segmenter": {*BELOW_MASKS, "gt network", "gt labels"},
    "camflow.train.psl": {*PSL, *PLUS},
    "camflow.train.cct": CCT,
    # No network runs anew for another CRF, save that PSL++ learns from labels made with one.
    "camflow.refine.crf": {*SHOWN, "curve", "psl labels", *PLUS, "cct labels", "gt labels"},
    "camflow.segment.labels": {*SHOWN, "curve", "psl labels", *PLUS, "cct labels", "gt labels"},
    "camflow.segment.predict": {*SHOWN, "logits", "curve", "psl labels", *PLUS, "cct labels", "gt labels"},
    "camflow.segment.export": {"archive"},
    "camflow.plots.curves": {"curve"},
    "camflow.evaluate.classification": {"plain confidence", *PSL, *PLUS},
}


def test_exactly_what_a_setting_decides_is_made_anew(made_anew):
    for changes, expected in CHANGES:
        assert made_anew(**changes) == expected, changes


@pytest.mark.parametrize("module", EDITS)
def test_exactly_what_a_module_decides_is_made_anew(made_anew, edit, module):
    edit(module)
    assert made_anew() == EDITS[module]


# --- rounds ----------------------------------------------------------------------------------------------------------


def test_a_further_round_reads_the_one_before_and_changes_no_other(plan):
    two, three = plan(), plan(**{"classifiers.ae.rounds": 3})
    assert set(three.config["classifiers"]) == {"plain", "ae_round_1", "ae_round_2", "ae_round_3", "none"}
    for path in FILES.values():
        assert two.path_of(path) == three.path_of(path)
    reads = {name: goal.path for name, goal in three.reads(parse_target("parts/ae_round_3/classifier.pt")).items()}
    assert reads == {
        "catalog": "parts/catalog.train.h5",
        "after": "parts/ae_round_2/classifier.pt",
        "erased_before": "parts/ae_round_2/erased.train.h5",
    }
    reads = {
        name: goal.path for name, goal in three.reads(parse_target("parts/ae_round_3/erasing/maps.val.h5")).items()
    }
    assert reads == {
        "catalog": "parts/catalog.val.h5",
        "classifier": "parts/ae_round_3/classifier.pt",
        "erased_before": "parts/ae_round_2/erased.val.h5",
        "maps_before": "parts/ae_round_2/erasing/maps.val.h5",
    }


def test_the_first_round_reads_nothing_before_it(plan):
    reads = plan().reads(parse_target("parts/ae_round_1/erasing/maps.val.h5"))
    assert set(reads) == {"catalog", "classifier"}


@pytest.mark.parametrize("rounds", [0, -1, "three", True])
def test_a_wrong_number_of_rounds_is_refused(plan, rounds):
    with pytest.raises(ConfigError, match=r"classifiers.ae.rounds: a number of rounds from 1 on"):
        plan(**{"classifiers.ae.rounds": rounds})


def test_rounds_and_sweeps_multiply(plan):
    made = plan(**{"classifiers.ae.sweep": {"seed": [0, 1]}, "recipes": ["parts/ae_seed_1_round_2/erasing"]})
    assert made.instance("classifier", "ae_seed_1_round_2")["after"] == "ae_seed_1_round_1"


def test_seeds_of_the_last_round_are_one_group(plan):
    made = plan(**{"classifiers.ae.sweep": {"seed": [0, 1]}, "recipes": ["parts/ae_seed_*_round_2/erasing"]})
    groups = made.seed_groups()
    assert len(groups["parts/ae_seed_{0_round_2,1_round_2}/erasing/score.val.json"]) == 2


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [("rule", "area", "rel_max"), ("scales", [0.5, 1.0], r"\[1.0\]"), ("flip", False, "True"), ("share", 0.5, "None")],
)
def test_a_localizer_that_would_not_unite_what_was_erased_is_refused(plan, key, value, wanted):
    with pytest.raises(RecipeError, match=f"has {key}: .*, but 'ae_round_[12]' erases with {key}: {wanted}"):
        plan(**{f"localizers.erasing.{key}": value}).recipes  # noqa: B018


# --- saliency --------------------------------------------------------------------------------------------------------


def test_saliency_of_another_recipe_is_read_and_decides(plan, made_anew):
    made = plan(**{"refiners.assemble.saliency": "plain/cam"})
    reads = made.reads(parse_target(f"{AE}/masks.val.h5"))
    assert reads["saliency"].path == "parts/plain/cam/maps.val.h5"
    before = made.path_of(f"{AE}/masks.val.h5")
    other = plan(**{"refiners.assemble.saliency": "plain/cam", "localizers.cam.flip": False})
    assert other.path_of(f"{AE}/masks.val.h5") != before


def test_what_is_neither_folder_nor_recipe_is_refused(plan):
    with pytest.raises(RecipeError, match="there is no classifier 'nowhere'"):
        plan(**{"refiners.assemble.saliency": "nowhere/there"}).path_of(f"{AE}/masks.val.h5")


def test_a_saliency_folder_counts_image_by_image(plan, tmp_path):
    """Exchanging the pictures of two images is a change, though the files' names and contents stay what they are."""
    folder = tmp_path / "saliency"
    for image_id, text in (("cat/1", "one"), ("dog/1", "two")):
        for name, content in (
            (tmp_path / "data/train" / f"{image_id}.png", image_id),
            (folder / f"{image_id}.png", text),
        ):
            name.parent.mkdir(parents=True, exist_ok=True)
            name.write_text(content)
    changes = {
        "datasets.parts": {"format": "folder", "root": str(tmp_path / "data"), "masks": "masks"},
        "refiners.assemble.saliency": str(folder),
    }
    path = f"{AE}/masks.train.h5"
    before = plan(**changes).path_of(path)
    (folder / "cat/1.png").write_text("two")
    (folder / "dog/1.png").write_text("one")
    assert plan(**changes).path_of(path) != before


# --- true masks ------------------------------------------------------------------------------------------------------


def test_true_masks_need_no_classifier(plan):
    made = plan()
    assert {name: goal.path for name, goal in made.reads(parse_target("parts/none/none/gt/masks.val.h5")).items()} == {
        "catalog": "parts/catalog.val.h5"
    }
    reads = made.reads(parse_target("parts/none/none/gt/deeplab/deeplab_network.pt"))
    assert set(reads) == {"catalog", "masks"}


def test_a_true_mask_that_changed_is_learned_from_anew(plan, tmp_path):
    for part, split in itertools.product(("train/cat", "masks/cat", "val/cat"), ("1", "2")):
        (tmp_path / "data" / part).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / part / f"{split}.png").write_text(part + split)
    changes = {"datasets.parts": {"format": "folder", "root": str(tmp_path / "data"), "masks": "masks"}}
    before = [plan(**changes).path_of(FILES[name]) for name in sorted(GT)]
    (tmp_path / "data/masks/cat/1.png").write_text("corrected")
    after = [plan(**changes).path_of(FILES[name]) for name in sorted(GT)]
    assert not set(before) & set(after)


def test_recipes_from_true_masks_check_every_split_first(plan):
    made = plan()
    assert "checked_val" in made.inputs(parse_target("parts/none/none/gt/deeplab/deeplab_network.pt"))
    assert "checked_val" not in made.inputs(parse_target(FILES["network"]))  # its classifier asks for it


@pytest.mark.parametrize(
    "path", ["parts/none/classifier.pt", "parts/none/none/maps.val.h5", "parts/none/score.val.json"]
)
def test_a_place_that_is_only_kept_has_no_files(plan, path):
    with pytest.raises(RecipeError, match=r"'none' has no files, it only keeps its place"):
        plan().path_of(path)


@pytest.mark.parametrize("recipe", ["parts/none/cam", "parts/plain/none", "parts/plain/cam/gt"])
def test_true_masks_and_classifiers_do_not_mix(plan, recipe):
    with pytest.raises(RecipeError, match="needs"):
        plan(recipes=[recipe]).recipes  # noqa: B018


def test_the_report_and_the_table_leave_kept_places_out(plan):
    made = plan()
    wanted = made.readable()
    assert not [path for path in wanted if "/none/classifier" in path or "/none/none/maps" in path]
    assert "results/parts/none/none/gt/deeplab/score_crf.val.json" in wanted
    assert not [path for path in wanted if path.endswith("deeplab/score.train.json")]  # it was trained there


# --- segmentation networks -------------------------------------------------------------------------------------------


def test_what_the_networks_read(plan):
    made = plan()
    assert set(made.reads(parse_target(f"{AE}/psl/psl_network.pt"))) == {"catalog", "masks", "classifier", "confidence"}
    plus = made.reads(parse_target(f"{AE}/psl_plus/psl_network.pt"))
    assert plus["after"].path == f"{AE}/psl/predictions_crf.train.h5"
    assert set(plus) == {"catalog", "classifier", "after"}
    labels = made.reads(parse_target(f"{AE}/psl/predictions.val.h5"))
    assert labels["confidence"].path == "parts/plain/confidence.val.h5"
    assert labels["logits"].path == f"{AE}/psl/psl_logits.val.h5"


def test_without_a_filter_nothing_is_asked_of_a_classifier(plan):
    made = plan(**{"segmenters.psl.filter": None})
    assert "confidence" not in made.reads(parse_target(f"{AE}/psl/predictions.val.h5"))


def test_a_network_after_itself_is_refused(plan):
    made = plan(**{"segmenters.psl.after": "psl_plus"})
    with pytest.raises(RecipeError, match="which leads back to itself"):
        made.path_of(f"{AE}/psl/psl_network.pt")


def test_a_monitor_brings_its_photos_and_masks_into_the_key(plan):
    made = plan(**{"segmenters.deeplab.monitor": "val"})
    assert made.reads(parse_target(f"{AE}/deeplab/deeplab_network.pt"))["monitor"].path == "parts/catalog.val.h5"
    assert made.path_of(FILES["network"]) != plan().path_of(FILES["network"])


@pytest.mark.parametrize(
    ("segmenter", "key", "value", "message"),
    [
        ("deeplab", "test_scales", [0.5, 0.75], "test_scales: 1 must be among"),
        ("deeplab", "train_scales", [0.5, 1.0], "train_scales: begin with 1"),
        ("deeplab", "select", "best", "set monitor: val as well"),
        ("deeplab", "accumulate", 99, "accumulate: 99 parts cannot be made"),
        ("deeplab", "freeze_bn", True, "leaves the batch norms of tiny as they are drawn"),
        ("psl", "scale_pick", "uniform", "draws between two factors, but scale has 3"),
        ("cct", "crop", 100, "no multiple of output_stride: 8"),
        ("cct", "scale", [300, 200], "exchange them"),
        ("cct", "drop_share", [0.9, 0.7], "exchange them"),
        ("cct", "batch_size", 1, "two images at a time"),
        ("cct", "decoders", {"vat": 0}, "at least one auxiliary decoder"),
        ("cct", "decoders_per_step", 31, "cannot be drawn of 30 decoders"),
    ],
)
def test_values_that_do_not_go_together_are_refused_at_once(plan, segmenter, key, value, message):
    changes = {"segmenters.deeplab.batch_size": 4, "segmenters.psl.scale": [0.5, 0.75, 1.0]}
    changes |= {f"segmenters.{segmenter}.{key}": value}
    with pytest.raises(ConfigError, match=message):
        plan(**changes)


def test_a_step_lists_every_parameter_that_training_reads():
    """What is not listed is not told to the script, so it could decide nothing; what decides only later is known."""
    tested = {"test_scales", "test_flip", "reduce", "pad", "multiple_of", "fill", "align_corners", "quantise"}
    later = {"crf", "crf_image", "crf_skip", "competition"}
    shown = {"deeplab": {*tested, "preset"}, "psl": tested, "cct": {*tested, "logits_stride"}}
    for method, own in (("deeplab", set()), ("psl", {"after", "confidence", "filter"}), ("cct", set())):
        entry = methods("segmenters")[method]
        steps = entry["x-steps"]
        assert set(steps[f"{method}_logits"]["parameters"]) == shown[method]
        listed = set(steps[f"{method}_network"]["parameters"])
        assert set(entry["properties"]) - listed - shown[method] - later == own


def test_the_shipped_default_has_every_method():
    config = yaml.safe_load((PROJECT / "config.yaml").read_text())
    for section, known in (("classifiers", methods("classifiers")), ("segmenters", methods("segmenters"))):
        assert {item["method"] for item in config[section].values()} == set(known)
