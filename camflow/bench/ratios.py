"""The comparisons of ``camflow bench``; more are in ``camflow.bench.localizers`` and ``camflow.bench.refiners``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from camflow.bench.compare import TOLERANCE, Comparison, Row, agree, compare, row
from camflow.bench.localization import LOCALIZATION
from camflow.bench.localizers import LOCALIZERS
from camflow.bench.made import CLASSES, Example, MemoryPhotos, examples
from camflow.bench.refiners import REFINERS
from camflow.evaluate.confusion import confusion_matrix
from camflow.evaluate.sweep import SeedSweep, threshold_grid
from camflow.localize.maps import full_size_maps, read_seed
from camflow.refine.crf import CrfParams, dense_crf, dense_crf_many, unary_from_labels
from camflow.refine.driver import class_ids
from camflow.refine.threshold import winners
from camflow.store import Store, StoreWriter
from camflow.train.classify import ClassifyTask, PlainParams
from camflow.train.loop import fit

VOC_LABELS = 21
IMPOSSIBLE = 1e4  # energy of an absent label: its marginal is exactly 0


# --- threshold sweep -------------------------------------------------------------------------------------------------


def sweep_loop(size: tuple[int, int], budget: float, folder: Path) -> list[Row]:
    """(a) 101 thresholds: arg-max and confusion matrix at each, or one joint histogram."""
    name, found, thresholds = "sweep-loop", examples(size, 1), threshold_grid(0, 1, 0.01)
    maps = [full_size_maps(example.seed) for example in found]

    def loop() -> np.ndarray:
        total = np.zeros((len(thresholds), VOC_LABELS, VOC_LABELS), np.int64)
        for example, image in zip(found, maps, strict=True):
            for position, threshold in enumerate(thresholds):
                labels = class_ids(winners(image, threshold), example.seed.classes)
                total[position] += confusion_matrix(example.truth, labels, VOC_LABELS)
        return total

    def histogram() -> np.ndarray:
        sweep = SeedSweep(VOC_LABELS, thresholds)
        for example, image in zip(found, maps, strict=True):
            sweep.update(image, example.seed.classes, example.truth)
        return sweep.result()

    same = agree(name, [loop()], [histogram()])
    sides = (f"arg-max at each of {len(thresholds)} thresholds", loop), ("joint histogram", histogram)
    return [compare(name, *sides, images=len(found), same=same, budget=budget)]


# --- CRF -------------------------------------------------------------------------------------------------------------


def _hard_unary(example: Example, threshold: float) -> np.ndarray:
    labels = winners(full_size_maps(example.seed), threshold)
    return unary_from_labels(labels, len(example.seed.classes) + 1, CrfParams().gt_prob)


def crf_labels(size: tuple[int, int], budget: float, folder: Path) -> list[Row]:
    """(b) All 21 labels with the absent ones made impossible, or only background and the present classes."""
    name, example, params = "crf-labels", examples(size, 1)[0], CrfParams()
    few = _hard_unary(example, 0.3)
    many = np.full((VOC_LABELS, few.shape[1]), IMPOSSIBLE, np.float32)
    rows = np.concatenate([[0], example.seed.classes + 1])
    many[rows] = few

    def all_labels() -> np.ndarray:
        return dense_crf(example.photo, many, params)

    def present_labels() -> np.ndarray:
        return dense_crf(example.photo, few, params)

    full, reduced = all_labels(), present_labels()
    same = agree(name, [full[rows]], [reduced], TOLERANCE)
    agree(name, [full.argmax(axis=0)], [rows[reduced.argmax(axis=0)]])  # the label maps, to the bit
    sides = (f"CRF on all {VOC_LABELS} labels", all_labels), (f"CRF on the {len(rows)} present", present_labels)
    return [compare(name, *sides, images=1, same=same, budget=budget)]


def crf_lattice(size: tuple[int, int], budget: float, folder: Path) -> list[Row]:
    """(c) Two labellings of one photo: a lattice each, or one lattice for both."""
    name, example, params = "crf-lattice", examples(size, 1)[0], CrfParams()
    unaries = [_hard_unary(example, threshold) for threshold in (0.3, 0.6)]

    def apart() -> list[np.ndarray]:
        return [dense_crf(example.photo, unary, params) for unary in unaries]

    def shared() -> list[np.ndarray]:
        return dense_crf_many(example.photo, unaries, params)

    same = agree(name, apart(), shared())
    sides = ("2 labellings, a lattice each", apart), ("2 labellings, one lattice", shared)
    return [compare(name, *sides, images=1, same=same, budget=budget)]


# --- store -----------------------------------------------------------------------------------------------------------


def store(size: tuple[int, int], budget: float, folder: Path) -> list[Row]:
    """(e) Full-size float32 maps on disk, or float16 at feature resolution, enlarged when they are read."""
    found = examples(size, 6)
    with (
        StoreWriter(folder / "full.h5", stage="maps", class_names=CLASSES) as full,
        StoreWriter(folder / "packed.h5", stage="maps", class_names=CLASSES) as packed,
    ):
        for number, example in enumerate(found):
            full.write(str(number), full_size_maps(example.seed))
            array, attrs = example.seed.pack()
            packed.write(str(number), array, **attrs)
    large, small = Store(folder / "full.h5"), Store(folder / "packed.h5")

    def read_full() -> list[np.ndarray]:
        return [large.read(image_id) for image_id in large.ids]

    def read_packed() -> list[np.ndarray]:
        return [full_size_maps(read_seed(small, image_id)) for image_id in small.ids]

    same = agree("store", read_full(), read_packed(), TOLERANCE)
    kilobytes = [file.path.stat().st_size / 1000 / len(found) for file in (large, small)]
    ratio = kilobytes[0] / kilobytes[1]
    names = "full-size float32", "feature-size float16"
    read = (f"read {names[0]}", read_full), (f"read and enlarge {names[1]}", read_packed)
    return [
        row("store-bytes", *names, kilobytes, "kB/image", same, (ratio, ratio), 1),
        compare("store-read", *read, images=len(found), same=same, budget=budget),
    ]


# --- training --------------------------------------------------------------------------------------------------------


def train_threads(size: tuple[int, int], budget: float, folder: Path) -> list[Row]:
    """(f) One epoch of the tiny network with one torch thread, or with two."""
    name, side, batch = "train-threads", min(96, *size), 32
    photos = MemoryPhotos(examples((side, side), 4 * batch), CLASSES)
    runs = iter(range(10**6))

    def run(threads: int) -> list[np.ndarray]:
        params = PlainParams(
            backbone="tiny", weights="none", output_stride=None, freeze_bn=False, freeze_stem=False, detach="none",
            epochs=1, batch_size=batch, lr=0.05, head_lr_mult=1, momentum_slot="paper", crop=side, scale=None,
            channels_last=True, threads=threads,
        )  # fmt: skip
        task = ClassifyTask(params.build(len(CLASSES)), photos, None, params)
        scratch = folder / f"run_{next(runs)}"  # a new one each time: checkpoints would be taken up
        rows = fit(task, params.settings(), key="bench", scratch=scratch, progress=False)
        weights = [parameter.detach().numpy() for parameter in task.model.parameters()]
        return [np.array(rows[-1]["train_loss"]), *weights]

    same = agree(name, run(1), run(2), TOLERANCE)
    sides = ("training with 1 torch thread", lambda: run(1)), ("with 2 torch threads", lambda: run(2))
    return [compare(name, *sides, images=len(photos.ids), same=same, budget=budget)]


RATIOS: dict[str, Comparison] = {
    "sweep-loop": sweep_loop,
    "crf-labels": crf_labels,
    "crf-lattice": crf_lattice,
    **REFINERS,
    **LOCALIZERS,
    "store": store,
    "train-threads": train_threads,
    **LOCALIZATION,
}
