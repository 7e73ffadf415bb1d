"""Local prototypes of a class, the first half of LPCAM: Chen & Sun, "Extracting Class Activation Maps from
Non-Discriminative Features as well", CVPR 2023, section 3.2.

For one class, over all its images: the feature map f (scale 1, no mirror) is split by the image's CAM M of that class
into foreground cells, M > tau, and context cells, M < tau. The two sets are clustered separately; the centres F_i and
B_j are scored as if they were pooled features of an image, z = softmax over the classes of (centre . W^T). Class
prototypes are the F_i with z > mu_f, context prototypes the B_j with lo < z < hi. ``camflow.localize.lpcam`` turns them
into maps.

Context cells are other objects as well as background. The paper keeps every B_j below a threshold mu_b, which is
``context: (0, mu_b)``; the authors' code for VOC also drops those below 0.05, i.e. plain background that has nothing
to do with the class.

Memory: features come one image at a time and are kept as float32 rows. ``max_points`` bounds the rows of each set by a
seeded reservoir (a uniform sample of all cells, whatever their number).
"""

from __future__ import annotations

import json
import logging
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.localize.extract import (
    Photos,
    check_classes,
    frame_size,
    normalisation_table,
    numerics,
    ordered,
    rescale,
    to_views,
)
from camflow.localize.kmeans import KMeans, check_options, kmeans, unit
from camflow.localize.maps import checked_seed, full_size_maps
from camflow.models.host import TAPS, given_labels, linear_scorer
from camflow.params import from_config
from camflow.store import Store, StoreWriter

FALLBACKS = ("best", "error")
NEAREST = 5  # cells remembered for each foreground centre

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrototypeParams:
    """How a class's features are gathered and clustered.

    Attributes:
        clusters: K, centres of each of the two sets.
        tau: threshold of the CAM between foreground and context, in (0, 1).
        init, tolerance, tolerance_rule, max_iterations: see ``camflow.localize.kmeans``.
        seed: of the drawn images, the reservoirs and the first centres; every class draws its own numbers.
        images_per_class: None uses all images of the class, n draws n of them with replacement (an image drawn twice
            counts twice), as published for COCO.
        max_points: bound on the rows of each set; None keeps all. The default takes at most 0.8 GB a set for 2048
            channels and, at stride 16 on VOC's 1464 training images, only ever cuts the class person (about 170,000
            rows a set; any other class has fewer than 115,000 cells in both sets together).
        long_side: resize photos first, as in ``Views``; None keeps their size.
        scorer: what of a head with a kernel larger than 1x1 scores a centre, see ``camflow.models.host.linear_scorer``.
    """

    clusters: int = 12
    tau: float = 0.1
    init: str = "kmeans++"
    seed: int = 0
    tolerance: float = 1e-3
    tolerance_rule: str = "unit"
    max_iterations: int = 100
    images_per_class: int | None = None
    max_points: int | None = 100_000
    long_side: int | None = None
    scorer: str = "sum"

    def __post_init__(self):
        check_options(self.clusters, self.init, self.max_iterations, self.tolerance, self.tolerance_rule)
        if not 0 < self.tau < 1:
            raise ConfigError(f"tau: needs a number between 0 and 1, not {self.tau}")
        if self.seed < 0:
            raise ConfigError(f"seed: needs a number from 0 on, not {self.seed}")
        if self.scorer not in TAPS:
            raise ConfigError(f"scorer: unknown '{self.scorer}'{did_you_mean(self.scorer, TAPS)}")
        for name in ("images_per_class", "max_points", "long_side"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: needs at least one, or null for no limit, not {value}")

    def stream(self, class_name: str, purpose: str) -> np.random.Generator:
        """A generator of its own for each class and purpose: no draw depends on how many were made elsewhere."""
        return np.random.default_rng([self.seed, zlib.crc32(class_name.encode()), zlib.crc32(purpose.encode())])


@dataclass(frozen=True)
class SelectionParams:
    """Which centres become prototypes.

    Attributes:
        mu_f: a foreground centre is kept when its score is above this.
        context: (lo, hi), a context centre is kept when lo < score < hi.
        fallback: what to do when no foreground centre of a class passes: keep the ``best`` one, or raise an ``error``.
        use_context: subtract the context prototypes; without them the method is the paper's ablation LPCAM-F.
    """

    mu_f: float = 0.9
    context: tuple[float, float] = (0.05, 0.9)
    fallback: str = "best"
    use_context: bool = True

    def __post_init__(self):
        object.__setattr__(self, "context", tuple(float(value) for value in self.context))
        if not 0 <= self.mu_f < 1:
            raise ConfigError(f"mu_f: needs a number from 0 to below 1, not {self.mu_f}")
        if len(self.context) != 2 or not self.context[0] < self.context[1]:
            raise ConfigError(f"context: needs two numbers, the lower one first, not {list(self.context)}")
        if self.fallback not in FALLBACKS:
            raise ConfigError(f"fallback: unknown '{self.fallback}'{did_you_mean(self.fallback, FALLBACKS)}")


class Preset(NamedTuple):
    """Parameters of both steps."""

    prototypes: PrototypeParams
    selection: SelectionParams


_PUBLISHED = {"init": "random", "tolerance": 5.0, "tolerance_rule": "authors"}

PRESETS = {
    # The authors' code. It has neither the bound on the rounds nor the one on the points, and for VOC no fall-back.
    "voc": Preset(PrototypeParams(clusters=12, tau=0.1, **_PUBLISHED), SelectionParams(0.9, (0.05, 0.9))),
    "coco": Preset(
        PrototypeParams(clusters=20, tau=0.25, images_per_class=100, seed=666, **_PUBLISHED),
        SelectionParams(0.9, (0.0, 0.5)),
    ),
    # The paper's rule for the context, z < mu_b, on VOC. Scores are never 0, so a lower bound of 0 bounds nothing.
    # mu_b is a parameter; this is the upper bound of the code.
    "paper": Preset(PrototypeParams(clusters=12, tau=0.1, **_PUBLISHED), SelectionParams(0.9, (0.0, 0.9))),
}


def preset_of(entry: Mapping[str, Any]) -> Preset:
    """The preset that a config entry names, ``voc`` if none. Raises ``ConfigError`` for an unknown name."""
    name = entry.get("preset", "voc")
    if name not in PRESETS:
        raise ConfigError(f"preset: unknown '{name}'{did_you_mean(name, PRESETS)}")
    return PRESETS[name]


def prototype_params_from_config(entry: Mapping[str, Any]) -> PrototypeParams:
    """Parameters of ``cluster_class``: the entry's preset, single values replaced by the entry's keys."""
    return from_config(PrototypeParams, {**asdict(preset_of(entry).prototypes), **entry})


class Cell(NamedTuple):
    """One cell of an image's feature map: rows ``row * stride`` to ``(row + 1) * stride`` of the frame the network
    saw (which may hang over its border), and likewise for the column."""

    image_id: str
    row: int
    column: int


@dataclass(frozen=True)
class Clusters:
    """The clustered cells of one side, foreground or context, of a class.

    Attributes:
        centres: float32 (K, D), means of raw features; K may be smaller than asked for, and 0.
        score: float64 (K,), softmax score of the class, in (0, 1).
        members: int64 (K,), points of each cluster.
        points: points that were clustered.
        seen: cells met; more than ``points`` when the reservoir was full.
        iterations, converged, repaired: see ``KMeans``.
    """

    centres: np.ndarray
    score: np.ndarray
    members: np.ndarray
    points: int = 0
    seen: int = 0
    iterations: int = 0
    converged: bool = True
    repaired: int = 0

    def __post_init__(self):
        if not len(self.centres) == len(self.score) == len(self.members):
            raise ValueError(f"{len(self.centres)} centres, {len(self.score)} scores, {len(self.members)} sizes")


@dataclass(frozen=True)
class ClassPrototypes:
    """Centres of one class, all of them: ``select`` chooses.

    Attributes:
        class_name: of the class.
        foreground, context: the two sides.
        images: images used, counted as often as they were drawn.
        stride: of the feature map, pixels of the frame.
        nearest: for each foreground centre up to five members with the largest cosine, best first, of different
            images: pictures of what the prototype stands for.
    """

    class_name: str
    foreground: Clusters
    context: Clusters
    images: int = 0
    stride: int = 16
    nearest: tuple[tuple[Cell, ...], ...] = ()


# --- gathering -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Points:
    """Features of one side.

    Attributes:
        rows: float32 (N, D).
        where: int32 (N, 3), position in ``ids``, row and column of the cell.
        ids: the images.
        seen: cells met, at least N.
    """

    rows: torch.Tensor
    where: np.ndarray
    ids: Sequence[str]
    seen: int


class Reservoir:
    """Keep a uniform sample of a stream of rows, all of them while they are no more than the bound.

    Every row of the stream draws a random key, and those with the smallest keys stay (Vitter, "Random sampling with a
    reservoir", 1985, describes the family). Which rows stay depends only on the generator and the order of the stream,
    not on the pieces it comes in. Memory: the bound times one row, up to twice as much while it grows.

    Args:
        bound: rows kept at most; None keeps all.
        rng: draws the keys.
    """

    def __init__(self, bound: int | None, rng: np.random.Generator):
        self.bound, self._rng = bound, rng
        self.seen = self._count = 0
        self._rows: torch.Tensor | None = None
        self._where = np.zeros((0, 3), np.int32)
        self._keys = np.zeros(0)

    def add(self, rows: torch.Tensor, where: np.ndarray) -> None:
        """Add rows (n, D) and what is to be known about them, int (n, 3)."""
        keys = self._rng.random(len(rows))
        self.seen += len(rows)
        free = len(rows) if self.bound is None else min(len(rows), self.bound - self._count)
        self._append(rows[:free], where[:free], keys[:free])
        if free < len(rows):
            self._replace(rows[free:], where[free:], keys[free:])

    def _append(self, rows: torch.Tensor, where: np.ndarray, keys: np.ndarray) -> None:
        start, self._count = self._count, self._count + len(rows)
        if self._rows is None or self._count > len(self._rows):
            size = max(self._count, 2 * start)
            size = size if self.bound is None else min(size, self.bound)
            grown = rows.new_empty(size, rows.shape[1])
            if self._rows is not None:
                grown[:start] = self._rows[:start]
            self._rows = grown
            self._where, self._keys = np.resize(self._where, (size, 3)), np.resize(self._keys, size)
        self._rows[start : self._count] = rows
        self._where[start : self._count] = where
        self._keys[start : self._count] = keys

    def _replace(self, rows: torch.Tensor, where: np.ndarray, keys: np.ndarray) -> None:
        everyone = np.concatenate([self._keys, keys])
        stays = np.zeros(len(everyone), bool)
        stays[np.argpartition(everyone, self.bound - 1)[: self.bound]] = True
        out, come = np.flatnonzero(~stays[: self.bound]), np.flatnonzero(stays[self.bound :])
        self._rows[torch.from_numpy(out)] = rows[torch.from_numpy(come)]
        self._where[out], self._keys[out] = where[come], keys[come]

    def points(self, ids: Sequence[str], width: int) -> Points:
        """What was kept: in the order of the stream if that is all of it, else in no particular order."""
        rows = torch.zeros(0, width) if self._rows is None else self._rows[: self._count]
        return Points(rows, self._where[: self._count], ids, self.seen)


def split_cells(mask: np.ndarray | torch.Tensor, grid: Sequence[int], tau: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Divide the cells of a feature map by a CAM.

    Args:
        mask: float (H, W) in [0, 1], the CAM of the class in the photo's frame.
        grid: (h, w) of the feature map; the mask is resized to it by nearest neighbour (source row floor(i*H/h)).
        tau: the threshold.

    Returns:
        bool (h, w) of the cells above and of those below; a cell of exactly tau is in neither.
    """
    mask = torch.as_tensor(mask)
    small = functional.interpolate(mask[None, None], size=tuple(grid), mode="nearest")[0, 0]
    return small > tau, small < tau


def class_mask(masks: Store, image_id: str, class_index: int, size: tuple[int, int]) -> np.ndarray:
    """Normalised full-size CAM (H, W) of one class of one image.

    Raises:
        StoreError: the store does not have the image.
        DataError: its maps are for a photo of another size, or lack the class.
    """
    seed = checked_seed(masks, image_id, size)
    row = np.flatnonzero(seed.classes == class_index)
    if not len(row):
        raise DataError(
            f"{masks.path}: image '{image_id}' has no map of class '{masks.class_names[class_index]}' though its label "
            "names it; make the maps again"
        )
    return full_size_maps(replace(seed, classes=seed.classes[row], maps=[m[row] for m in seed.maps]))[0]


def images_of_class(catalog: Photos, class_index: int, params: PrototypeParams) -> dict[str, int]:
    """The images to use, sorted by id, and how often each counts."""
    positives = sorted(i for i in catalog.ids if catalog.label(i)[class_index])
    if params.images_per_class is None or not positives:
        return dict.fromkeys(positives, 1)
    rng = params.stream(catalog.class_names[class_index], "images")
    drawn = Counter(rng.integers(len(positives), size=params.images_per_class).tolist())
    return {positives[number]: drawn[number] for number in sorted(drawn)}


def collect(
    model: nn.Module,
    catalog: Photos,
    masks: Store,
    class_index: int,
    params: PrototypeParams,
    *,
    device: str | torch.device = "cpu",
    workers: int = 1,
    progress: Callable[[int], Any] | None = None,
) -> tuple[Points, Points]:
    """Gather the foreground and context features of one class.

    The images run one at a time in the order of their ids, on the CPU with one thread each (see
    ``camflow.localize.extract``), so the rows depend on the images, their CAMs, the weights and the seed only.

    Args:
        model: a ``camflow.models.host.Host``; moved to ``device`` and put into eval mode.
        catalog: the clustering set.
        masks: seed maps (``Store(stage="maps")``) that hold the class in every image that has it.
        class_index: the class.
        params: of the split and the sampling.
        device: where the network runs and the rows are kept.
        workers: threads that load photos and masks, and on the CPU also run the network.
        progress: called with the number of images done since its last call.

    Returns:
        (foreground, context), ordered image by image, row-major inside an image, unless the reservoir was full.

    Raises:
        StoreError: an image is missing in ``masks``.
        DataError: the classes do not match, or a feature is not finite; names the image.
    """
    check_classes(model, catalog)
    if masks.class_names != list(catalog.class_names):
        raise DataError(f"{masks.path}: its maps are of other classes than the dataset's; make the maps again")
    device = torch.device(device)
    model = model.to(device, memory_format=torch.channels_last).eval()
    table = normalisation_table(model.mean, model.std).to(device, next(model.parameters()).dtype)
    name = catalog.class_names[class_index]
    images = images_of_class(catalog, class_index, params)
    sizes = {i: (int(h), int(w)) for i, (h, w) in zip(catalog.ids, catalog.sizes, strict=True) if i in images}
    sides = [Reservoir(params.max_points, params.stream(name, side)) for side in ("foreground", "context")]

    def load(image_id: str) -> tuple[str, torch.Tensor, np.ndarray]:
        mask = class_mask(masks, image_id, class_index, sizes[image_id])
        photo = np.ascontiguousarray(catalog.image(image_id))
        pixels = rescale(photo, frame_size(sizes[image_id], params.long_side), 1.0)
        return image_id, torch.from_numpy(pixels.copy()), mask

    def run(item: tuple[str, torch.Tensor, np.ndarray]) -> tuple[str, torch.Tensor, np.ndarray]:
        image_id, pixels, mask = item
        with torch.inference_mode():  # a setting of the thread, hence here
            view = to_views(pixels[None].to(device), table, flip=False)[:, 0]
            host = given_labels(model, [np.flatnonzero(catalog.label(image_id))])
            features = host.features(view.contiguous(memory_format=torch.channels_last))[0].float()
        if not torch.isfinite(features).all():
            raise DataError(
                f"image '{image_id}': its features are not finite; has the training of the classifier diverged?"
            )
        return image_id, features, mask

    if images:  # catalog and store read their tables on first use, which two threads must not do at once
        load(next(iter(images)))
    with numerics(device, "float32"), ThreadPoolExecutor(max(1, workers)) as pool:
        if device.type == "cuda":
            done: Iterator = map(run, ordered(pool, load, images, ahead=max(1, workers) + 1))
        else:
            done = ordered(pool, lambda image_id: run(load(image_id)), images, ahead=2 * max(1, workers))
        for number, (image_id, features, mask) in enumerate(done):
            cells = features.permute(1, 2, 0)
            for side, chosen in zip(sides, split_cells(mask, features.shape[1:], params.tau), strict=True):
                row, column = np.nonzero(chosen.numpy())
                where = np.stack([np.full(len(row), number), row, column], axis=1).astype(np.int32)
                points = cells[chosen.to(device)]
                for _ in range(images[image_id]):
                    side.add(points, where)
            if progress is not None:
                progress(1)
    width = int(model.head.weight.shape[1])
    foreground, context = (side.points(list(images), width) for side in sides)
    return foreground, context


# --- clustering ------------------------------------------------------------------------------------------------------


def class_scores(centres: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Score centres as if they were pooled features of an image.

    Args:
        centres: float (K, D).
        weight: (C, D) or (C, D, 1, 1), the classifier's.
        bias: (C,), if it has one.

    Returns:
        float64 (K, C), softmax over the C foreground classes (there is no background class). In double precision
        because a hopeless score would underflow to 0 in single.
    """
    logits = centres.double() @ weight.detach().reshape(len(weight), -1).to(centres.device).double().T
    if bias is not None:
        logits = logits + bias.detach().to(logits)
    return torch.softmax(logits, dim=1)


def cluster_class(
    model: nn.Module,
    catalog: Photos,
    masks: Store,
    class_index: int,
    params: PrototypeParams,
    **options: Any,
) -> ClassPrototypes:
    """Gather, cluster and score one class; arguments and errors as in ``collect``.

    A class without images, or without a cell above tau, has no foreground centres; a warning says so, and its maps
    will be zero.
    """
    name = catalog.class_names[class_index]
    images = images_of_class(catalog, class_index, params)
    sides = collect(model, catalog, masks, class_index, params, **options)
    return cluster_points(model, name, class_index, sides, params, images=sum(images.values()))


def cluster_points(
    model: nn.Module, name: str, class_index: int, sides: tuple[Points, Points], params: PrototypeParams, *, images: int
) -> ClassPrototypes:
    """Cluster and score what ``collect`` gathered of a class from a number of images."""
    device = sides[0].rows.device
    clusters, nearest = [], ()
    with numerics(device, "float32"), torch.inference_mode():
        for side, points in zip(("foreground", "context"), sides, strict=True):
            found = kmeans(
                points.rows,
                params.clusters,
                init=params.init,
                seed=params.stream(name, f"{side} centres"),
                max_iterations=params.max_iterations,
                tolerance=params.tolerance,
                tolerance_rule=params.tolerance_rule,
            )
            score = class_scores(found.centres, *linear_scorer(model.head, params.scorer))[:, class_index]
            clusters.append(
                Clusters(
                    centres=found.centres.cpu().numpy(),
                    score=score.cpu().numpy(),
                    members=found.members.cpu().numpy(),
                    points=len(points.rows),
                    seen=points.seen,
                    iterations=found.iterations,
                    converged=found.converged,
                    repaired=found.repaired,
                )
            )
            if side == "foreground":
                nearest = tuple(nearest_cells(points, found, k) for k in range(len(found.centres)))
            if not found.converged:
                log.info(
                    "class '%s': the %s centres still moved after %d iterations", name, side, params.max_iterations
                )
    foreground, context = clusters
    if not len(foreground.centres):
        why = f"none of its {images} images has a cell above tau = {params.tau}" if images else "it has no image"
        log.warning("class '%s' has no foreground prototype: %s; its maps will be zero", name, why)
    return ClassPrototypes(name, foreground, context, images, int(model.stride), nearest)


def nearest_cells(points: Points, found: KMeans, cluster: int, count: int = NEAREST) -> tuple[Cell, ...]:
    """The members with the largest cosine to their centre, best first, at most one from each image."""
    members = torch.nonzero(found.assignment == cluster)[:, 0]
    cosine = unit(points.rows[members]) @ unit(found.centres[cluster])
    cells: dict[int, Cell] = {}
    for member in members[torch.argsort(cosine, descending=True, stable=True)].cpu().numpy():
        image, row, column = (int(n) for n in points.where[member])
        cells.setdefault(image, Cell(points.ids[image], row, column))
        if len(cells) == count:
            break
    return tuple(cells.values())


# --- selection -------------------------------------------------------------------------------------------------------


def kept(prototypes: ClassPrototypes, params: SelectionParams) -> tuple[np.ndarray, np.ndarray]:
    """Which centres of a class become prototypes: bool (K,) of the foreground, bool (K,) of the context.

    Args:
        prototypes: all centres with their scores.
        params: thresholds; both bounds of ``context`` are exclusive.

    Raises:
        DataError: no foreground centre passes and ``fallback`` is ``error``; names the class and its best score.
    """
    foreground, context = prototypes.foreground, prototypes.context
    low, high = params.context
    chosen = foreground.score > params.mu_f
    if len(chosen) and not chosen.any():
        best = int(np.argmax(foreground.score))
        if params.fallback == "error":
            raise DataError(
                f"class '{prototypes.class_name}': no prototype scores above mu_f = {params.mu_f}, the best is "
                f"{foreground.score[best]:.3g}; lower mu_f, set fallback: best, or train the classifier longer"
            )
        chosen[best] = True
    return chosen, (context.score > low) & (context.score < high) & params.use_context


def select(prototypes: ClassPrototypes, params: SelectionParams) -> tuple[np.ndarray, np.ndarray]:
    """The prototypes of a class: of the class itself (n_f, D) and of its context (n_b, D); arguments as in ``kept``.

    n_f is 0 only for a class without foreground centres, n_b may always be 0.
    """
    foreground, context = kept(prototypes, params)
    return prototypes.foreground.centres[foreground], prototypes.context.centres[context]


# --- files -----------------------------------------------------------------------------------------------------------


def write_prototypes(writer: StoreWriter, class_name: str, prototypes: ClassPrototypes) -> None:
    """Add one class to an open ``StoreWriter(stage="prototypes")``, under its name.

    The array is float32 (K_f + K_b, D), foreground centres first; everything else is in the attributes.
    """
    foreground, context = prototypes.foreground, prototypes.context
    attrs = {"images": prototypes.images, "stride": prototypes.stride, "nearest": json.dumps(prototypes.nearest)}
    for name, side in (("foreground", foreground), ("context", context)):
        attrs[f"{name}_score"] = np.asarray(side.score, np.float64)
        attrs[f"{name}_members"] = np.asarray(side.members, np.int64)
        for fact in ("points", "seen", "iterations", "converged", "repaired"):
            attrs[f"{name}_{fact}"] = int(getattr(side, fact))
    writer.write(class_name, np.concatenate([foreground.centres, context.centres]).astype(np.float32), **attrs)


def read_prototypes(store: Store, class_name: str) -> ClassPrototypes:
    """Read one class back. Raises ``StoreError`` when the store does not have it."""
    centres, attrs = store.read(class_name), store.attrs(class_name)
    ends = len(attrs["foreground_score"])
    sides = []
    for name, rows in (("foreground", centres[:ends]), ("context", centres[ends:])):
        facts = {fact: int(attrs[f"{name}_{fact}"]) for fact in ("points", "seen", "iterations", "repaired")}
        converged = bool(attrs[f"{name}_converged"])
        sides.append(Clusters(rows, attrs[f"{name}_score"], attrs[f"{name}_members"], converged=converged, **facts))
    nearest = tuple(tuple(Cell(*cell) for cell in cells) for cells in json.loads(attrs["nearest"]))
    return ClassPrototypes(class_name, *sides, int(attrs["images"]), int(attrs["stride"]), nearest)
