"""Hide-and-Seek, CASM, an ensemble and the scores against boxes through the real workflow."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from project import TINY
from scipy import ndimage
from sklearn.metrics import average_precision_score
from torch.nn import functional
from torchvision import models

from camflow.data.catalog import Catalog
from camflow.localize.maps import read_seed
from camflow.store import Store

PLAIN = TINY["classifiers"]["plain"]
CASM = {
    "method": "casm", "preset": "L100", "backbone": "tiny", "width": 4, "warm_start": "plain", "epochs": 2,
    "epoch_share": 1, "batch_size": 4, "save_every": 1, "crop": 48, "scale": None, "crop_area": None,
}  # fmt: skip
CONFIG = {
    "recipes": ["parts/has/cam", "parts/casm/masker", "parts/plain/has_ensemble"],
    "classifiers": {
        "plain": PLAIN,
        "has": {**PLAIN, "augment": {"hide_and_seek": {"sizes": [0, 8, 12]}}},
        "casm": CASM,
    },
    "localizers": {
        **TINY["localizers"],
        "masker": {"method": "masker", "classes": "cam"},
        "has_ensemble": {"method": "ensemble", "members": ["plain/cam", "has/cam"]},
    },
    "evaluation": {"splits": ["val"], "threshold_from": "val"},
    "runtime": {"shards": 1},
}  # fmt: skip
LOCALIZATION = {
    "splits": ["val"],
    "scores": ["localization", "pxap"],
    "curves": {"size": 48},
    "pxap": {"size": 48},
    "saliency": {"frame": 48, "recogniser": True},
    "masked": {"frame": 48, "resize": None},
}
HAS, MASKER, ENSEMBLE = "results/parts/has/cam", "results/parts/casm/masker", "results/parts/plain/has_ensemble"
TARGETS = [
    f"{HAS}/boxes.val.png",
    f"{MASKER}/saliency.val.json",
    f"{MASKER}/masked_images.val.h5",
    f"{MASKER}/masked_images.val.png",
    f"{MASKER}/masked_classifier.val.json",
    f"{MASKER}/masked_squeezenet1_1.val.json",
    *(
        f"{path}/{name}.val.{kind}"
        for path in (HAS, MASKER, ENSEMBLE)
        for name, kind in (
            ("maps", "h5"),
            ("localization", "json"),
            ("pxap", "json"),
        )
    ),
    *(f"results/tables/localization.{suffix}" for suffix in ("csv", "md")),
]


def maps_of(store, image_id):
    """Class indices and the one scale's maps, enlarged to the photo."""
    seed = read_seed(store, image_id)
    (maps,) = seed.maps
    cells = torch.from_numpy(np.asarray(maps, np.float64))[None]
    return seed.classes, functional.interpolate(cells, seed.size, mode="bilinear", align_corners=False)[0].numpy()


def filled(shape, boxes):
    """A mask (H, W) a half-open box."""
    masks = np.zeros((len(boxes), *shape), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    return masks


def hits_at(scores, boxes, fraction):
    """Whether the tight box of the largest 8-connected component overlaps one of the boxes by more than half."""
    parts, count = ndimage.label(scores > fraction * scores.max(), np.ones((3, 3)))
    sizes = [(parts == n).sum() for n in range(1, count + 1)]
    rows, columns = np.nonzero(parts == 1 + int(np.argmax(sizes)))
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    (mine,) = filled(scores.shape, [box])
    return any((mine & true).sum() / (mine | true).sum() > 0.5 for true in filled(scores.shape, boxes))


def box_hits(maps, catalog, fraction):
    """(image, class) -> whether it hits, of every class with a box."""
    found = {}
    for image_id in catalog.ids:
        boxes = catalog.boxes(image_id)
        for k, scores in zip(*maps_of(maps, image_id), strict=True):
            own = boxes[boxes[:, 0] == k, 1:]
            if len(own):
                found[image_id, int(k)] = hits_at(scores, own, fraction)
    return found


def pixel_precision(maps, catalog):
    """Exact average precision over the pixels of all maps."""
    truth, values = [], []
    for image_id in catalog.ids:
        mask, seed = catalog.mask(image_id), read_seed(maps, image_id)
        cells = torch.from_numpy(np.asarray(seed.maps[0], np.float64))[None]
        whole = functional.interpolate(cells, mask.shape, mode="bicubic", align_corners=False)[0].numpy()
        for k, scores in zip(seed.classes, whole, strict=True):
            counted, spread = mask != 255, np.ptp(scores)
            truth.append((mask == k + 1)[counted])
            values.append(((scores - scores.min()) / spread if spread else 0 * scores)[counted])
    return average_precision_score(np.concatenate(truth), np.concatenate(values))


def box_f1(maps, catalog):
    """F1 of the class-agnostic mask with the best box of each image."""
    best = []
    for image_id in catalog.ids:
        mask = maps_of(maps, image_id)[1].max(axis=0)
        boxes = filled(mask.shape, catalog.boxes(image_id)[:, 1:])
        pairs = [(mask[box].sum() / (mask.sum() + 1e-9), mask[box].mean()) for box in boxes]
        best.append(max(2 * p * r / (p + r + 1e-9) for p, r in pairs))
    return np.mean(best)


@pytest.mark.long
def test_localization_masker_and_ensemble(copy):
    folder = copy.results / "parts"
    catalog = Catalog(folder / "catalog.val.h5")
    torch.manual_seed(0)
    weights = copy.folder / "squeezenet.pth"
    torch.save(models.get_model("squeezenet1_1", weights=None).state_dict(), weights)
    halves = {name: list(range(500 * n, 500 * (n + 1))) for n, name in enumerate(catalog.class_names)}
    network = {"classes": halves, "weights": {"squeezenet1_1": "squeezenet.pth"}}
    localization = {**LOCALIZATION, "masked": {**LOCALIZATION["masked"], **network}}
    copy.configure(**CONFIG, localization=localization)
    copy.snakemake(*TARGETS)
    assert copy.planned(*TARGETS) == {}
    for path in TARGETS:
        if path.endswith(".png"):
            assert (copy.folder / path).read_bytes().startswith(b"\x89PNG"), path

    # Scores, each against its definition, from the maps that lie there.
    def score(path):
        return json.loads((copy.folder / path).read_text())

    maps = {path: Store(copy.folder / f"{path}/maps.val.h5", stage="maps") for path in (HAS, MASKER, ENSEMBLE)}
    for path, classifier in ((HAS, "has"), (MASKER, "casm"), (ENSEMBLE, "plain")):
        localized = score(f"{path}/localization.val.json")
        confidence = Store(_only(copy, f"{classifier}-*/confidence.val-*.h5"), stage="confidence")
        hits = box_hits(maps[path], catalog, 0.2)
        ids = {image_id for image_id, _ in hits}
        first = {image_id: int(confidence.read(image_id).argmax()) for image_id in ids}
        fixed = localized["fixed"]["0.2"]["component"]
        assert fixed["gt_known_loc"] == pytest.approx(np.mean(list(hits.values()))), path
        assert fixed["top1_loc"] == pytest.approx(np.mean([hits.get((i, first[i]), False) for i in ids])), path
        assert localized["top1_cls"] == pytest.approx(np.mean([catalog.label(i)[first[i]] for i in ids])), path
        assert localized["maxboxacc"] == pytest.approx(localized["gt_known_loc"])
        # Bins of a thousandth against every value.
        pxap = score(f"{path}/pxap.val.json")["pxap"]
        assert pxap == pytest.approx(pixel_precision(maps[path], catalog), abs=0.005), path
    saliency = score(f"{MASKER}/saliency.val.json")
    assert saliency["f1"] == pytest.approx(box_f1(maps[MASKER], catalog), abs=1e-4)
    assert saliency["om_top1"] >= saliency["le"] and saliency["sm"]["truth"]["sm1"] <= 0
    assert saliency["conditions"]["recogniser"] == "casm"

    # An ensemble is the mean of its normalised members.
    members = [maps[HAS], Store(_only(copy, "plain-*/cam-*/maps.val-*.h5"), stage="maps")]
    for image_id in catalog.ids:
        wanted = np.mean([_normalised(read_seed(store, image_id).maps[0]) for store in members], axis=0)
        np.testing.assert_allclose(read_seed(maps[ENSEMBLE], image_id).maps[0], wanted, atol=2e-3)

    # What is masked in is what is masked out elsewhere, and the photo itself is read as the classifier's score has it.
    masked = Store(_only(copy, "casm-*/masker-*/masked_images.val-*.h5"), stage="masked_images")
    for image_id in catalog.ids:
        inside, outside, _ = masked.read(image_id)
        np.testing.assert_array_equal(np.maximum(inside, outside), catalog.image(image_id))
        assert not np.minimum(inside, outside).any()
    own, other = (score(f"{MASKER}/masked_{name}.val.json") for name in ("classifier", "squeezenet1_1"))
    assert own["whole"]["top1"] == score(f"{MASKER}/localization.val.json")["top1_cls"]
    assert own["conditions"]["outputs"] == 2 and other["conditions"]["outputs"] == 1000
    assert other["conditions"]["weights"] == "squeezenet.pth"

    table = pd.read_csv(copy.results / "tables/localization.csv").set_index(["classifier", "localizer"])
    assert len(table) == 3 and set(table["split"]) == {"val"}
    for name, path in ((("has", "cam"), HAS), (("casm", "masker"), MASKER), (("plain", "has_ensemble"), ENSEMBLE)):
        assert table.loc[name, "MaxBoxAccV2"] == round(100 * score(f"{path}/localization.val.json")["maxboxacc_v2"], 2)
        assert table.loc[name, "PxAP"] == round(100 * score(f"{path}/pxap.val.json")["pxap"], 2)

    # What a setting decides is made anew, and no network runs for it.
    def planned(**changes):
        copy.configure(**CONFIG, localization={**localization, **changes})
        return copy.planned(*TARGETS)

    assert planned(reductions={"interval": 0.01}) == {"score_localization": 3, "make_tables": 1}
    assert planned(curves={"size": 32}) == {
        "trace_boxes": 3, "score_localization": 3, "make_tables": 1, "plot_boxes": 1,
    }  # fmt: skip
    weights.write_bytes(weights.read_bytes() + b"0")
    assert planned() == {"score_masked": 1}


def _only(project, pattern):
    """The one file of the store that a pattern names."""
    (made,) = project.results.glob(f"store/parts-*/{pattern}")
    return made


def _normalised(maps):
    return maps / (maps.max(axis=(1, 2), keepdims=True) + 1e-5)
