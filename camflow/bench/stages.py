"""The stages as the workflow runs them, on the embedded dataset at two sizes.

Every function loads its inputs and returns the work to be measured. Imports stand inside the functions: each stage runs
in a process of its own, whose memory should hold what that stage needs and nothing else. All run on one core.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from camflow.machine import peak_memory

SPLITS = {"1x": "val", "10x": "train"}  # one made dataset whose training split is ten times its validation split
CAM_SCALES = (1.0, 1.5)  # of the embedded default
CLIMB_STEPS = 4
THRESHOLD = 0.3  # of the seed that the CRF starts from
TRAINING = {  # the embedded default (config.yaml) for one epoch
    "backbone": "tiny", "weights": "none", "output_stride": None, "freeze_bn": False, "freeze_stem": False,
    "detach": "none", "epochs": 1, "batch_size": 32, "lr": 0.05, "head_lr_mult": 1, "momentum_slot": "paper",
    "scale": None, "channels_last": True, "drop_last": False,
}  # fmt: skip
SEGMENTING = {  # the embedded default's `deeplab` for one epoch
    "backbone": "tiny", "rates": (1, 2, 3, 4), "freeze_bn": False, "epochs": 1, "batch_size": 16, "accumulate": 1,
    "lr": 0.02, "scale": (0.75, 1.0, 1.25), "train_scales": (1.0,), "loss_grid": "image", "channels_last": True,
    "drop_last": False,
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a stage at one dataset size reads and writes."""

    folder: Path
    split: str
    size: int  # side of the photos

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.{self.split}.h5"

    @property
    def classifier(self) -> Path:
        return self.folder / "classifier.pt"


def prepare(folder: Path, images: int, size: int) -> None:
    """Draw the dataset and write an untrained classifier whose maps fire everywhere, so that no stage is skipped."""
    import torch

    from camflow.data.parts import PartsParams, generate_parts
    from camflow.models.classifier import build_classifier, save_classifier

    params = PartsParams(train=10 * images, val=images, size=size)
    generate_parts(folder / "parts", params)
    model = build_classifier("tiny", params.classes, seed=0)
    with torch.no_grad():
        model.head.weight.abs_()
    save_classifier(folder / "classifier.pt", model, class_names=params.class_names)


def measure(stage: str, folder: Path, at: str, images: int, size: int) -> dict[str, float]:
    """Run a stage once: images, seconds, and the process's peak memory (MB) before and after."""
    place = Place(folder, SPLITS[at], size)
    count = images if at == "1x" else 10 * images
    work = STAGES[stage](place)
    start, clock = peak_memory(), time.perf_counter()
    work()
    seconds = time.perf_counter() - clock
    return {"images": count, "seconds": seconds, "rate": count / seconds, "start_mb": start, "peak_mb": peak_memory()}


# --- the stages ------------------------------------------------------------------------------------------------------


def _check(place: Place) -> Callable[[], None]:
    from camflow.data.check import check_dataset, write_catalog
    from camflow.data.readers.base import make_reader

    reader = make_reader({"format": "parts", "root": str(place.folder / "parts")}, "parts")

    def work() -> None:
        # "skip" only so that a handful of images may lack a class; nothing is wrong with them.
        result = check_dataset(reader, place.split, on_bad_image="skip", against=(), progress=False)
        write_catalog(result, place.file("catalog"))

    return work


def _train(place: Place) -> Callable[[], None]:
    from camflow.data.catalog import Catalog
    from camflow.train.classify import PlainParams, train_classifier

    catalog, scratch = Catalog(place.file("catalog")), place.folder / f"scratch.{place.split}"
    params = PlainParams(**TRAINING, crop=place.size)
    files = {"out": scratch / "classifier.pt", "metrics_csv": scratch / "training.csv", "scratch": scratch}
    return lambda: train_classifier(catalog, None, params, **files, key="bench", progress=False) and None


def _cam(place: Place) -> Callable[[], None]:
    from camflow.data.catalog import Catalog
    from camflow.localize.cam import CamParams, extract_cams
    from camflow.models.classifier import load_classifier
    from camflow.store import StoreWriter

    catalog, model = Catalog(place.file("catalog")), load_classifier(place.classifier)

    def work() -> None:
        with StoreWriter(place.file("maps"), stage="maps", class_names=catalog.class_names) as writer:
            extract_cams(model, catalog, CamParams(scales=CAM_SCALES), writer, workers=1)

    return work


def _advcam(place: Place) -> Callable[[], None]:
    from camflow.data.catalog import Catalog
    from camflow.localize.advcam import AdvCamParams, extract_advcams
    from camflow.models.classifier import load_classifier
    from camflow.store import StoreWriter

    catalog, model = Catalog(place.file("catalog")), load_classifier(place.classifier)

    def work() -> None:
        with StoreWriter(place.file("advcam"), stage="maps", class_names=catalog.class_names) as writer:
            extract_advcams(model, catalog, AdvCamParams(steps=CLIMB_STEPS, scales=(1.0,)), writer, workers=1)

    return work


def _crf(place: Place) -> Callable[[], None]:
    from camflow.data.catalog import Catalog
    from camflow.refine.crf import CrfParams, crf_labels
    from camflow.refine.driver import refine_maps
    from camflow.store import Store, StoreWriter

    catalog, maps = Catalog(place.file("catalog")), Store(place.file("maps"), stage="maps")

    def work() -> None:
        with StoreWriter(place.file("masks"), stage="masks", class_names=catalog.class_names) as writer:
            refine_maps(maps, catalog, crf_labels, CrfParams(), THRESHOLD, writer)

    return work


def _sweep(place: Place) -> Callable[[], None]:
    from camflow.data.catalog import Catalog
    from camflow.evaluate.scores import ScoreParams, score_seed
    from camflow.store import Store

    catalog, maps = Catalog(place.file("catalog")), Store(place.file("maps"), stage="maps")
    return lambda: score_seed(maps, catalog, ScoreParams()) and None


def _masks(place: Place) -> Callable[[], None]:
    from camflow.data.catalog import Catalog
    from camflow.evaluate.scores import ScoreParams, score_masks
    from camflow.store import Store

    catalog, masks = Catalog(place.file("catalog")), Store(place.file("masks"), stage="masks")
    return lambda: score_masks(masks, catalog, ScoreParams()) and None


def _segment(place: Place) -> Callable[[], None]:
    from camflow.data.catalog import Catalog
    from camflow.store import Store
    from camflow.train.segment import SegmentParams, train_segmenter

    catalog, scratch = Catalog(place.file("catalog")), place.folder / f"segment.{place.split}"
    params = SegmentParams(**SEGMENTING, crop=place.size)
    files = {"out": _segmenter(place), "metrics_csv": scratch / "training.csv", "scratch": scratch}
    masks = Store(place.file("masks"), stage="masks")
    return lambda: train_segmenter(catalog, masks, params, **files, key="bench", progress=False) and None


def _segmenter(place: Place) -> Path:
    return place.folder / f"segmenter.{place.split}.pt"


def _predict(place: Place) -> Callable[[], None]:
    from camflow.data.catalog import Catalog
    from camflow.models.segmenter import load_segmenter
    from camflow.segment.files import write_logits
    from camflow.segment.predict import TestParams
    from camflow.store import StoreWriter

    catalog, model = Catalog(place.file("catalog")), load_segmenter(_segmenter(place))

    def work() -> None:
        with StoreWriter(place.file("logits"), stage="logits", class_names=catalog.class_names) as writer:
            write_logits(model, catalog, TestParams(), writer)

    return work


STAGES: dict[str, Callable[[Place], Callable[[], None]]] = {
    "check": _check,
    "train": _train,
    "cam": _cam,
    "advcam": _advcam,
    "crf": _crf,
    "sweep": _sweep,
    "masks": _masks,
    "segment": _segment,
    "predict": _predict,
}
# What a stage reads must have been written before.
NEEDS: dict[str, tuple[str, ...]] = {
    "check": (),
    "train": ("check",),
    "cam": ("check",),
    "advcam": ("check",),
    "crf": ("check", "cam"),
    "sweep": ("check", "cam"),
    "masks": ("check", "cam", "crf"),
    "segment": ("check", "cam", "crf"),
    "predict": ("check", "cam", "crf", "segment"),
}
