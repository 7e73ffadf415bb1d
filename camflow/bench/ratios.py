"""Two ways to the same result, timed in turns: A the straightforward way, B the way taken (or offered) here.

Every comparison runs both sides once and raises when they disagree, before anything is timed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from camflow.bench.machine import usable_cores
from camflow.bench.made import Example, MemoryPhotos, examples
from camflow.data.parts import NAMES
from camflow.errors import CamflowError
from camflow.evaluate.confusion import confusion_matrix
from camflow.evaluate.sweep import SeedSweep, threshold_grid
from camflow.localize.cam import CamParams, add_views, extract_cams
from camflow.localize.extract import normalisation_table, numerics, run_views, to_views
from camflow.localize.maps import full_size_maps, read_seed
from camflow.models.classifier import Classifier, build_classifier
from camflow.refine.crf import CrfParams, dense_crf, dense_crf_many, unary_from_labels
from camflow.refine.driver import class_ids
from camflow.refine.threshold import winners
from camflow.store import Store, StoreWriter
from camflow.train.classify import ClassifyTask, PlainParams
from camflow.train.loop import fit

LEAST, MOST = 3, 7  # repeats of each side
VOC_LABELS = 21
CLASSES = NAMES[:6]
IMPOSSIBLE = 1e4  # energy of an absent label: its marginal is exactly 0
TOLERANCE = 1e-3  # where the order of summation differs, or values pass through float16

Row = dict[str, Any]
Side = Callable[[], Any]


def compare(name: str, a: tuple[str, Side], b: tuple[str, Side], *, images: int, same: str, budget: float) -> Row:
    """Time two sides in turns and return their medians in ms per image.

    Args:
        name: of the row.
        a, b: what each side is called, and the side.
        images: how many images a call works on.
        same: how the results agree, as found by ``agree``.
        budget: seconds after which no further repeat starts, once there are three.
    """
    seconds_a, seconds_b = alternate(a[1], b[1], budget)
    pairs = [x / y for x, y in zip(seconds_a, seconds_b, strict=True)]
    medians = [statistics.median(seconds) * 1000 / images for seconds in (seconds_a, seconds_b)]
    return row(name, a[0], b[0], medians, "ms/image", same, (min(pairs), max(pairs)), len(pairs))


def row(
    name: str, a: str, b: str, values: list[float], unit: str, same: str, spread: tuple[float, float], repeats: int
) -> Row:
    """One line of the table; ``ratio`` says how many times more A takes than B, ``spread`` its range over repeats."""
    return {
        "name": name, "a": a, "b": b, "a_value": values[0], "b_value": values[1], "unit": unit,
        "ratio": values[0] / values[1], "ratio_range": list(spread), "repeats": repeats, "same": same,
    }  # fmt: skip


def alternate(a: Side, b: Side, budget: float) -> tuple[list[float], list[float]]:
    """Seconds of each repeat of a and b, run as a b b a a b .., so that neither always finds the warm cache."""
    times: tuple[list[float], list[float]] = ([], [])
    start = time.perf_counter()
    while len(times[0]) < LEAST or (len(times[0]) < MOST and time.perf_counter() - start < budget):
        order = [(a, times[0]), (b, times[1])]
        for side, found in order if len(times[0]) % 2 == 0 else order[::-1]:
            clock = time.perf_counter()
            side()
            found.append(time.perf_counter() - clock)
    return times


def agree(name: str, a: list[np.ndarray], b: list[np.ndarray], tolerance: float = 0) -> str:
    """Say how two lists of arrays agree. Raises ``CamflowError`` when some value differs by more than ``tolerance``."""
    shapes = [[np.shape(array) for array in side] for side in (a, b)]
    if shapes[0] != shapes[1]:
        raise CamflowError(f"{name}: the two sides give arrays of different shapes, {shapes[0]} and {shapes[1]}")
    if all(np.array_equal(x, y) for x, y in zip(a, b, strict=True)):
        return "to the bit"
    gap = max(float(np.max(np.abs(np.subtract(x, y, dtype=np.float64)))) for x, y in zip(a, b, strict=True))
    if not gap <= tolerance:
        raise CamflowError(f"{name}: the two sides differ by {gap:.2g}; at most {tolerance:g} is rounding")
    return f"within {gap:.0e}"


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


# --- CAM -------------------------------------------------------------------------------------------------------------


def _model() -> Classifier:
    model = build_classifier("tiny", len(CLASSES), seed=0).eval()
    with torch.no_grad():
        model.head.weight.abs_()
    return model.to(memory_format=torch.channels_last)


def cam_threads(size: tuple[int, int], budget: float, folder: Path) -> list[Row]:
    """(d) Images one after the other, or one per thread on all cores; each on one intra-op thread."""
    name, threads = "cam-threads", max(2, min(8, usable_cores()))
    model, photos = _model(), MemoryPhotos(examples(size, 2 * threads), CLASSES)

    def run(workers: int) -> Path:
        path = folder / f"threads_{workers}.h5"
        with StoreWriter(path, stage="maps", class_names=photos.class_names) as writer:
            extract_cams(model, photos, CamParams(scales=(1.0,)), writer, workers=workers)
        return path

    maps = [[store.read(image_id) for image_id in store.ids] for store in map(Store, (run(1), run(threads)))]
    same = agree(name, *maps)
    sides = ("1 image at a time", lambda: run(1)), (f"{threads} images in {threads} threads", lambda: run(threads))
    return [compare(name, *sides, images=len(photos.ids), same=same, budget=budget)]


def cam_pair(size: tuple[int, int], budget: float, folder: Path) -> list[Row]:
    """(d) Photo and mirror image: two forward passes, or one of both."""
    name, model, example = "cam-pair", _model(), examples(size, 1)[0]
    pixels = torch.from_numpy(example.photo)[None]
    views = to_views(pixels, normalisation_table(model.mean, model.std), flip=True)

    def apart() -> torch.Tensor:
        return torch.cat([run_views(model, views[:, :1]), run_views(model, views[:, 1:])], dim=1)

    def maps(forward: Callable[[], torch.Tensor]) -> list[np.ndarray]:
        return [m.numpy() for m in add_views(torch.relu(forward()), [example.seed.classes])]

    def pair() -> torch.Tensor:
        return run_views(model, views)

    with numerics(torch.device("cpu"), "float32"), torch.inference_mode():
        a, b = maps(apart), maps(pair)
        same = agree(name, a, b, TOLERANCE * float(max(m.max() for m in a)))
        sides = ("photo, then its mirror image", lambda: maps(apart)), ("both in one batch", lambda: maps(pair))
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


RATIOS: dict[str, Callable[[tuple[int, int], float, Path], list[Row]]] = {
    "sweep-loop": sweep_loop,
    "crf-labels": crf_labels,
    "crf-lattice": crf_lattice,
    "cam-threads": cam_threads,
    "cam-pair": cam_pair,
    "store": store,
    "train-threads": train_threads,
}
