"""`camflow apply` gives photos of the evaluation split exactly what the workflow gave them; all kinds of recipes."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest
from PIL import Image
from project import TINY

from camflow.data.catalog import Catalog
from camflow.localize.maps import full_size_maps, read_seed
from camflow.plots.overlays import seed_label
from camflow.segment.labels import read_logits
from camflow.store import Store

PLAIN = TINY["classifiers"]["plain"]
LAUNCH = {key: PLAIN[key] for key in ("backbone", "width", "crop")}
TRAINING = {"weights": "classifier", "epochs": 1, "batch_size": 4}
SEGMENTER = {
    "backbone": "tiny", "width": 4, "rates": [1, 2], "freeze_bn": False, "epochs": 1, "batch_size": 4, "accumulate": 1,
    "crop": 48, "scale": [1.0], "train_scales": [1.0], "test_scales": [1.0], "pad": None, "crf": "psa",
}  # fmt: skip
CONFIG = {
    "classifiers": {
        "plain": PLAIN,
        "seam": {**LAUNCH, "method": "seam", "warm_start": "plain", "scale": None, "epochs": 1, "batch_size": 4, "augment": {}},
        "casm": {
            **LAUNCH, "method": "casm", "preset": "L100", "warm_start": "plain", "epochs": 1, "epoch_share": 1, "batch_size": 4,
            "save_every": 1, "scale": None, "crop_area": None,
        },
        "ae": {**PLAIN, "method": "adversarial_erasing", "rounds": 2, "epochs": 1},
    },
    "localizers": {
        **TINY["localizers"],
        "advcam": {"method": "advcam", "scales": [1.0], "steps": 2},
        "lpcam": {"method": "lpcam", "scales": [1.0], "clusters": 2, "init": "kmeans++", "tolerance_rule": "unit"},
        "seam": {"method": "seam", "scales": [1.0]},
        "masker": {"method": "masker", "classes": "cam"},
        "erasing": {"method": "erasing"},
        "both": {"method": "ensemble", "members": ["plain/cam", "seam/seam"]},
    },
    "refiners": {
        **TINY["refiners"],
        "irn": {"method": "irn", **TRAINING, "crop": 48, "scale": [1, 1], "radius": 3, "canvas": 48, "exp_times": 3},
        "psa": {"method": "psa", **TRAINING, "crop": 72, "lr": 0.01, "logt": 3},
        "assemble": {"method": "assemble", "threshold": "best", "saliency": "casm/masker"},
    },
    "segmenters": {
        "deeplab": {"method": "deeplab", **SEGMENTER},
        "psl": {"method": "psl", "confidence": "plain", "architecture": "deeplab_v2", **SEGMENTER},
    },
    "evaluation": {"splits": ["val"], "threshold_from": "val"},
    "runtime": {"shards": 1, "device": "cpu"},
}  # fmt: skip
MAPS = ["plain/cam", "plain/advcam", "plain/lpcam", "seam/seam", "casm/masker", "ae_round_2/erasing", "plain/both"]
MASKS = ["plain/cam/crf", "plain/lpcam/none", "plain/cam/irn", "plain/cam/psa", "ae_round_2/erasing/assemble"]
SEGMENTED = ["plain/cam/crf/deeplab", "plain/cam/crf/psl"]
COMMAND = "import sys; from camflow.cli import main; [main(line.split()) and sys.exit(1) for line in sys.argv[1:]]"


def apply(project, *lines: str) -> str:
    """Run several commands in one process of the copy's own code."""
    code = f"import sys; sys.argv[1:] = {[f'apply {line}' for line in lines]!r}; {COMMAND}"
    return project.python(code)


def photos_by_labels(catalog: Catalog) -> dict[str, list[str]]:
    """Names of the classes -> photos that show just these."""
    found: dict[str, list[str]] = {}
    for image_id in catalog.ids:
        names = ",".join(catalog.class_names[n] for n in np.flatnonzero(catalog.label(image_id)))
        found.setdefault(names, []).append(str(catalog.image_path(image_id)))
    return found


@pytest.mark.long
@pytest.mark.timeout(1800)  # some eighty jobs
def test_a_photo_gets_what_the_workflow_gives_it(copy):
    copy.configure(**CONFIG)
    wanted = [
        f"parts/{recipe}/{name}.val.{kind}" for recipe in MAPS for name, kind in (("maps", "h5"), ("score", "json"))
    ]
    wanted += [f"parts/{recipe}/masks.val.h5" for recipe in MASKS]
    wanted += [f"parts/{recipe}/{name}.val.h5" for recipe in SEGMENTED for name in ("predictions", "predictions_crf")]
    copy.snakemake(*(f"results/{path}" for path in wanted))
    catalog = Catalog(copy.results / "parts/catalog.val.h5", root=next(copy.results.glob("data/parts-*")))
    groups = photos_by_labels(catalog)
    assert len(groups) > 1

    lines = [
        f"parts/{recipe} {' '.join(photos)} --labels {names} --out applied/{recipe}"
        for recipe in MAPS + MASKS
        for names, photos in groups.items()
    ]
    everything = [str(catalog.image_path(image_id)) for image_id in catalog.ids]
    lines += [f"parts/{recipe} {' '.join(everything)} --out applied/{recipe}" for recipe in SEGMENTED]
    lines += [f"results/parts/{recipe}/ {' '.join(everything)} --out plain/{recipe} --no-crf" for recipe in SEGMENTED]
    lines += [f"parts/plain/cam/crf {' '.join(everything)} --jobs 2 --stores --out two"]
    apply(copy, *lines)

    for recipe in MAPS + MASKS:
        folder = copy.folder / "applied" / recipe
        localizer = "/".join(recipe.split("/")[:2])
        maps = Store(copy.results / f"parts/{localizer}/maps.val.h5", stage="maps")
        masks = Store(copy.results / f"parts/{recipe}/masks.val.h5") if recipe in MASKS else None
        score = copy.results / f"parts/{localizer}/score.val.json"
        for image_id in catalog.ids:
            seed = read_seed(maps, image_id)
            assert np.array_equal(np.load(folder / f"{image_id}.npy"), full_size_maps(seed)), (recipe, image_id)
            mask = np.asarray(Image.open(folder / f"{image_id}.mask.png"))
            threshold = json.loads(score.read_text())["threshold"]
            labels = (
                seed_label(full_size_maps(seed), seed.classes, threshold) if masks is None else masks.read(image_id)
            )
            assert np.array_equal(mask, labels), (recipe, image_id)
            facts = json.loads((folder / f"{image_id}.json").read_text())
            assert facts["maps"] == [catalog.class_names[n] for n in seed.classes]
            assert facts.get("threshold") == (threshold if masks is None else None)
            assert {catalog.class_names[n - 1] for n in np.unique(mask) if 0 < n < 255} == {
                b["class"] for b in facts["boxes"]
            }
    for recipe in SEGMENTED:
        for place, name in (("applied", "predictions_crf"), ("plain", "predictions")):
            store = Store(copy.results / f"parts/{recipe}/{name}.val.h5", stage="masks")
            for image_id in catalog.ids:
                mask = np.asarray(Image.open(copy.folder / place / recipe / f"{image_id}.mask.png"))
                assert np.array_equal(mask, store.read(image_id)), (recipe, image_id)
    # Without labels the classes are those that the classifier finds.
    (path,) = copy.results.glob("store/parts-*/plain-*/confidence.val-*.h5")  # psl's
    confidence = Store(path, stage="confidence")
    kept = Store(copy.folder / "two/masks.photos.h5", stage="masks")
    assert len(kept) == len(Store(copy.folder / "two/maps.photos.h5", stage="maps")) == len(catalog.ids)
    for image_id in catalog.ids:
        values = confidence.read(image_id)
        found = [n for n in range(len(values)) if values[n] >= 0.5] or [int(values.argmax())]
        facts = json.loads((copy.folder / f"two/{image_id}.json").read_text())
        assert facts["maps"] == [catalog.class_names[n] for n in found]
        assert facts["confidence"] == {n: round(float(v), 6) for n, v in zip(catalog.class_names, values, strict=True)}
    (logits,) = copy.results.glob("store/parts-*/plain-*/cam-*/crf-*/deeplab_logits.val-*.h5")
    image_id = catalog.ids[0]
    shares = np.exp(read_logits(Store(logits), image_id, catalog.size(image_id)).astype(np.float64))
    shares /= shares.sum(axis=0)
    folder = copy.folder / "applied/plain/cam/crf/deeplab"
    names = json.loads((folder / f"{image_id}.json").read_text())["maps"]
    rows = [catalog.class_names.index(name) + 1 for name in names]
    assert np.allclose(np.load(folder / f"{image_id}.npy"), shares[rows], atol=1e-6)


@pytest.mark.long
def test_what_is_missing_is_named_with_the_command_that_makes_it(copy):
    """The tiny default has no scores of other thresholds, no IRN: the printed command makes what apply then needs."""
    copy.configure(refiners={**TINY["refiners"], "irn": CONFIG["refiners"]["irn"]})
    photo = next((copy.results / "data").rglob("JPEGImages/*"))
    with pytest.raises(AssertionError) as raised:
        apply(copy, f"parts/plain/cam/irn {photo} --out applied")
    message = str(raised.value)
    assert "Traceback" not in message and "the recipe lacks results/parts/plain/cam/irn/irn_network.pt" in message
    assert not (copy.folder / "applied").exists()
    command = shlex.split(message.splitlines()[-1])
    assert command[:3] == ["snakemake", "--cores", "all"]
    copy.snakemake(*command[3:])
    apply(copy, f"parts/plain/cam/irn {photo} --out applied")
    names = sorted(path.name for path in (copy.folder / "applied").iterdir())
    assert names == [f"{photo.stem}{ending}" for ending in (".json", ".mask.png", ".npy", ".overlay.png")]
