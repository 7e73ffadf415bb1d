"""Adversarial erasing and the segmentation networks through the real workflow."""

from __future__ import annotations

import json
import subprocess
import tarfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from project import TINY

from camflow.store import Store

PLAIN = TINY["classifiers"]["plain"]
SMALL = {
    "backbone": "tiny", "width": 4, "rates": [1, 2], "freeze_bn": False, "epochs": 1, "batch_size": 4,
    "accumulate": 1, "crop": 48, "scale": [1.0], "train_scales": [1.0], "test_scales": [1.0], "pad": None,
    "crf": "psa",
}  # fmt: skip
PSL = {"method": "psl", "confidence": "plain", "architecture": "deeplab_v2", **SMALL}
DECODERS = dict.fromkeys(
    ("vat", "dropout", "cutout", "context_mask", "object_mask", "feature_drop", "feature_noise"), 1
)
CONFIG = {
    "recipes": ["parts/ae_round_*/erasing/assemble/deeplab"],
    "classifiers": {
        "plain": PLAIN,
        "ae": {**PLAIN, "method": "adversarial_erasing", "rounds": 2},
        "none": {"method": "none"},
    },
    "localizers": {**TINY["localizers"], "erasing": {"method": "erasing"}, "none": {"method": "none"}},
    "refiners": {
        **TINY["refiners"],
        "assemble": {"method": "assemble", "threshold": "best", "saliency_threshold": 0.3},
        "gt": {"method": "gt"},
    },
    "segmenters": {
        "deeplab": {"method": "deeplab", **SMALL},
        "chosen": {"method": "deeplab", **SMALL, "epochs": 2, "monitor": "val", "select": "best"},
        "psl": PSL,
        "psl_plus": {**PSL, "after": "psl"},
        "cct": {
            "method": "cct", "backbone": "tiny", "width": 4, "epochs": 1, "batch_size": 2, "crop": 48, "scale": None,
            "labelled": 3, "last_relu": False, "decoders": DECODERS, "test_scales": [1.0], "crf": "psa",
        },
    },
    "runtime": {"shards": 1},
    "evaluation": {"splits": ["train", "val"]},
}  # fmt: skip
ROUND = {"train_adversarial_erasing": 1, "erase_regions": 2, "localize_erasing": 2}


@pytest.mark.long
def test_a_further_round_of_erasing_runs_only_itself_and_what_follows(copy):
    copy.configure(**CONFIG, report={"images": 2})
    copy.snakemake()
    assert copy.planned() == {}
    for number in (1, 2):
        folder = copy.results / f"parts/ae_round_{number}/erasing"
        assert json.loads((folder / "score.val.json").read_text())["kind"] == "seed"
        assert (folder / "rounds.val.png").read_bytes().startswith(b"\x89PNG")
        for name in ("score", "score_crf"):
            assert 0 < json.loads((folder / f"assemble/deeplab/{name}.val.json").read_text())["miou"] < 1
    table = pd.read_csv(copy.results / "tables/scores.csv")
    assert (table["segmenter"] == "deeplab").sum() == 4
    three = {**CONFIG["classifiers"], "ae": {**CONFIG["classifiers"]["ae"], "rounds": 3}}
    copy.configure(**{**CONFIG, "classifiers": three}, report={"images": 2})
    planned = copy.planned("results/parts/ae_round_3/erasing/score.val.json")
    assert planned == {
        "train_adversarial_erasing": 1, "localize_erasing": 2, "join_maps": 2, "score_maps": 2,
    }  # fmt: skip


@pytest.mark.long
def test_every_network_trains_predicts_and_is_scored(copy):
    recipes = ["parts/none/none/gt/{deeplab,chosen}", "parts/plain/cam/crf/{psl,psl_plus,cct}"]
    copy.configure(**{**CONFIG, "recipes": recipes})
    gt, crf = "results/parts/none/none/gt", "results/parts/plain/cam/crf"
    archive = f"{gt}/deeplab/export_voc.val.tgz"
    copy.snakemake("all", archive)
    assert copy.planned("all", archive) == {}
    conditions = json.loads((copy.folder / f"{gt}/chosen/score.val.json").read_text())["conditions"]
    assert conditions["selected_on"] == "val" and conditions["selected_epoch"] in (1, 2)
    assert "selected_on" not in json.loads((copy.folder / f"{gt}/deeplab/score.val.json").read_text())["conditions"]
    for path in (f"{gt}/deeplab", f"{crf}/psl", f"{crf}/psl_plus", f"{crf}/cct"):
        store = Store(copy.folder / f"{path}/predictions_crf.val.h5", stage="masks")
        assert len(store) == 6 and {store.read(image_id).shape for image_id in store.ids} == {(48, 48)}
        assert (copy.folder / f"{path}/overlays.val.png").read_bytes().startswith(b"\x89PNG")
        assert (copy.folder / f"{path}/training.png").read_bytes().startswith(b"\x89PNG")

    # The archive and the folder hold the label maps to the pixel.
    store = Store(copy.folder / f"{gt}/deeplab/predictions_crf.val.h5", stage="masks")
    with tarfile.open(copy.folder / archive) as packed:
        names = packed.getnames()
        assert names == [f"results/VOC2012/Segmentation/comp6_val_cls/{image_id}.png" for image_id in store.ids]
        for name, image_id in zip(names, store.ids, strict=True):
            assert np.array_equal(np.asarray(Image.open(packed.extractfile(name))), store.read(image_id))
    subprocess.run(["camflow", "export", f"{crf}/masks.train.h5", "out"], cwd=copy.folder, check=True)
    masks = Store(copy.folder / f"{crf}/masks.train.h5", stage="masks")
    for image_id in masks.ids:
        assert np.array_equal(np.asarray(Image.open(copy.folder / f"out/masks/{image_id}.png")), masks.read(image_id))

    # What only a test decides trains nothing.
    other = {name: {**item, "crf": "deeplab_v1"} for name, item in CONFIG["segmenters"].items()}
    copy.configure(**{**CONFIG, "recipes": recipes, "segmenters": other})
    assert copy.planned(f"{crf}/cct/score_crf.val.json") == {"crf_predictions": 1, "score_crf_predictions": 1}
