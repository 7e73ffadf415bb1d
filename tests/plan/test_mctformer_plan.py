"""MCTformer in the plan: what fits with what, which setting makes what anew, and whose key its code is in."""

import pytest

from camflow.errors import CamflowError, RecipeError

CONFIG = {
    "recipes": ["parts/{plain,mctformer}/cam/none"],
    "datasets": {"parts": {"format": "parts", "classes": 3}},
    "classifiers": {
        "plain": {"method": "plain", "backbone": "tiny", "weights": "none"},
        "mctformer": {"method": "mctformer", "backbone": "small", "crop": 96},
        "shallow": {"method": "mctformer", "backbone": "small", "depth": 2, "crop": 96},
    },
    "localizers": {
        "cam": {"method": "cam"},
        "mctformer": {"method": "mctformer"},
        "four_blocks": {"method": "mctformer", "last_blocks": 4},
        "advcam": {"method": "advcam"},
        "advcam_attention": {"method": "advcam", "pooled": "logits", "accumulate": "refined"},
        "lpcam": {"method": "lpcam"},
        "lpcam_attention": {"method": "lpcam", "mask": "mctformer", "fusion": "attention"},
        "lpcam_own_cells": {"method": "lpcam", "mask": "mctformer"},
        "seam": {"method": "seam"},
    },
    "refiners": {
        "none": {"method": "none"},
        "crf": {"method": "crf"},
        "irn": {"method": "irn"},
        "psa": {"method": "psa", "backbone": "resnet38", "weights": "none"},
        "psa_own": {"method": "psa", "weights": "classifier", "backbone": "resnet38"},
        "psa_shape": {"method": "psa", "weights": "none"},
    },
}
FILES = {
    "network": "parts/mctformer/classifier.pt",
    "own": "parts/mctformer/mctformer/maps.val.h5",
    "cam": "parts/mctformer/cam/maps.val.h5",
    "advcam": "parts/mctformer/advcam/maps.val.h5",
    "advcam attention": "parts/mctformer/advcam_attention/maps.val.h5",
    "prototypes": "parts/mctformer/lpcam_attention/lpcam_prototypes.h5",
    "lpcam attention": "parts/mctformer/lpcam_attention/maps.val.h5",
    "plain": "parts/plain/cam/maps.val.h5",
    "plain lpcam": "parts/plain/lpcam/maps.val.h5",
}
HERE = set(FILES) - {"plain", "plain lpcam"}
LPCAM = {"prototypes", "lpcam attention"}


def test_what_fits(plan):
    made = plan()
    for name in set(CONFIG["localizers"]) - {"seam"}:
        made.check(("parts", "mctformer", name))
    fitting = {steps[2] for steps in plan(recipes=["parts/plain/*"]).recipes}
    assert fitting == {"cam", "advcam", "lpcam"}


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (
            "plain/mctformer",
            r"localizer 'mctformer' \(method mctformer\) needs attention maps, which parts and plain does",
        ),
        ("plain/lpcam_attention", r"localizer 'lpcam_attention' \(fusion: attention\) needs attention maps"),
        ("plain/advcam_attention", r"\(pooled: logits, accumulate: refined\) needs class tokens, refined maps"),
        (
            "shallow/four_blocks",
            r"localizers.four_blocks.last_blocks: 4, but 'shallow' has depth: 2; set it to 2 or less",
        ),
        ("plain/lpcam_own_cells", r"localizer 'lpcam_own_cells' \(mask: mctformer\) needs attention maps"),
        ("mctformer/seam", r"localizer 'seam' \(method seam\) needs pixel correlation"),
        ("mctformer/mctformer/irn", r"refiner 'irn' \(method irn\) needs convolutional trunk"),
        ("mctformer/mctformer/psa_own", r"refiner 'psa_own' \(weights: classifier\) needs convolutional trunk"),
        ("mctformer/mctformer/psa_shape", r"refiner 'psa_shape' \(backbone: None\) needs convolutional trunk"),
    ],
)
def test_what_does_not_fit(plan, recipe, words):
    with pytest.raises(RecipeError, match=words):
        plan().check(("parts", *recipe.split("/")))


@pytest.mark.parametrize("refiner", ["none", "crf", "psa"])
def test_refiners_with_a_network_of_their_own_fit(plan, refiner):
    plan().check(("parts", "mctformer", "mctformer", refiner))


@pytest.mark.parametrize(
    ("key", "value", "anew"),
    [
        *((f"classifiers.mctformer.{key}", value, HERE) for key, value in {
            "backbone": "deit_tiny", "depth": 2, "drop_path": 0.2, "crop_area": None, "size": 48, "stem": "patch",
            "augment": {"random_erasing": {"p": 0.5}}, "epochs": 3,
        }.items()),
        *((f"localizers.mctformer.{key}", value, {"own", *LPCAM}) for key, value in {
            "maps": "fused", "last_blocks": 2, "scales": [1.0, 1.5], "flip": False,
        }.items()),
        ("localizers.lpcam_attention.fusion", "none", {"lpcam attention"}),
        ("localizers.lpcam_attention.scorer", "centre", LPCAM),
        ("localizers.advcam_attention.pooled", "raw", {"advcam attention"}),
        ("classifiers.plain.epochs", 3, {"plain", "plain lpcam"}),
    ],
)  # fmt: skip
def test_what_a_setting_makes_anew(made_anew, key, value, anew):
    assert made_anew(**{key: value}) == anew


@pytest.mark.parametrize(
    ("module", "anew"),
    [
        ("camflow.models.mctformer", HERE),
        ("camflow.models.vit", HERE),
        ("camflow.models.vit_weights", HERE),
        ("camflow.train.mctformer", HERE),
        ("camflow.localize.mctformer", {"own", *LPCAM}),
        ("camflow.models.seam", set()),
    ],
)
def test_whose_key_the_code_is_in(made_anew, edit, module, anew):
    edit(module)
    assert made_anew() == anew


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scale": [96, 128]}, "crop_area: it and scale are two ways to crop"),
        ({"crop_area": [0.5, 0.2]}, "crop_area: 0.5 is above 0.2"),
        ({"bacbone": "small"}, "backbone"),
        ({"drop_path": 1}, "drop_path"),
    ],
)
def test_values_that_cannot_go_together(plan, changes, words):
    with pytest.raises(CamflowError, match=words):
        plan(**{f"classifiers.mctformer.{key}": value for key, value in changes.items()})
