"""Random walks of class scores over a grid of cells: PSA (Ahn and Kwak, CVPR 2018) and IRN (Ahn, Cho and Kwak, CVPR
2019), in the form their released codes run.

Cells i and j within a radius have an affinity a_ij = a_ji in [0, 1], a_ii = 1. With P = A^beta (element-wise) and D the
diagonal of P's column sums, T = P D^-1 moves scores x, one row per class, as

    y = x T^(2^n),        so one step is        y_j = sum_i x_i P_ij / d_j

Columns sum to one, so every cell takes a weighted average and a constant stays what it is.

The published code squares the N x N matrix n times, 26 TFLOP for a 375x500 photo. Here T is never multiplied by itself:
it has at most 69 entries per column, and the power is applied to the vectors, all classes as one block. On top of that
T^(2^n) is expanded in Chebyshev polynomials of T, whose eigenvalues are real and lie in [-1, 1] because T is stochastic
and similar to the symmetric D^-1/2 P D^-1/2. The coefficients are those of a simple random walk, so all beyond a few
times sqrt(2^n) are below rounding (Sachdeva and Vishnoi, "Faster Algorithms via Approximation Theory", 2014, chapter
3): 256 steps take about 100 products for float32 maps and 130 for float64, at unchanged accuracy.

What can be kept for sweeps. The edge map gives the affinities again in milliseconds, an ``Affinities`` gives a
``Transition`` for any beta, a ``Transition`` walks any maps (gamma) for any number of steps, and the walked scores of
``semantic_scores`` serve every threshold.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from camflow.errors import ConfigError, did_you_mean
from camflow.refine.driver import Refined, class_ids
from camflow.refine.neighbours import neighbours, overlap, shift, source_window

BORDERS = ("irn", "psa")


@dataclass(frozen=True)
class WalkParams:
    """Parameters of IRN's walk; the defaults are IRN's.

    Attributes:
        radius: cells closer than this are connected.
        beta: exponent of the affinities.
        exp_times: the walk takes 2^exp_times steps.
        gamma: exponent of the max-normalised maps before the walk.
        threshold: background score against walked scores whose largest is 1.
    """

    radius: int = 5
    beta: float = 10.0
    exp_times: int = 8
    gamma: float = 1.0
    threshold: float = 0.25

    def __post_init__(self):
        neighbours(self.radius)
        if self.beta <= 0 or self.gamma <= 0:
            raise ConfigError(f"irn: beta and gamma are above 0, not {self.beta} and {self.gamma}")
        if self.exp_times < 0 or self.exp_times != int(self.exp_times):
            raise ConfigError(f"irn: exp_times is an integer of at least 0, not {self.exp_times}")
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"irn: threshold lies in [0, 1], not {self.threshold}")


PUBLISHED: dict[str, WalkParams] = {
    "irn": WalkParams(),
    "advcam": WalkParams(gamma=1.5),
    "lpcam": WalkParams(threshold=0.35),
    "amn": WalkParams(gamma=1.3),  # for COCO a threshold of .22
}


def walk_params(preset: str = "irn", **overrides: Any) -> WalkParams:
    """A published parameter set, some of it replaced. Raises ``ConfigError`` for a name that is not published."""
    if preset not in PUBLISHED:
        raise ConfigError(f"irn: unknown preset '{preset}'{did_you_mean(preset, PUBLISHED)}")
    return replace(PUBLISHED[preset], **overrides)


# --- affinities ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Affinities:
    """Affinities of all pairs of a grid.

    Attributes:
        weights: (P, h, w) float, in [0, 1]: [p, y, x] is the affinity of (y, x) and (y, x) + offset p, offsets in
            search order; 0 where the pair is missing.
        radius: of the pairs.
    """

    weights: np.ndarray
    radius: int

    def __post_init__(self):
        if self.weights.ndim != 3 or len(self.weights) != len(neighbours(self.radius).search):
            raise ValueError(f"{self.weights.shape} are no affinities of radius {self.radius}")

    @property
    def grid(self) -> tuple[int, int]:
        return self.weights.shape[1], self.weights.shape[2]

    def transition(self, beta: float) -> Transition:
        """The walk's matrix for an exponent."""
        return Transition(_power(self.weights, beta), self.radius)


def edge_affinities(edge: np.ndarray, radius: int = 5, borders: str = "irn") -> Affinities:
    """IRN's affinities, 1 - the largest boundary on the path between two cells.

    Args:
        edge: (h, w) float boundary map in [0, 1].
        radius: of the pairs.
        borders: ``irn``: the grid is surrounded by boundaries, so all pairs inside it count and none leads out.
            ``psa``: pairs whose source has no full neighbourhood are missing, as in PSA's code.
    """
    if borders not in BORDERS:
        raise ConfigError(f"unknown borders '{borders}'{did_you_mean(borders, BORDERS)}")
    if edge.ndim != 2 or edge.dtype.kind != "f":
        raise ValueError(f"a float (h, w) boundary map is needed, not {edge.dtype} {edge.shape}")
    near, grid = neighbours(radius), edge.shape
    place = {(dy, dx): index for index, (dy, dx) in enumerate(near.search.tolist())}
    weights = np.zeros((len(near.search), *grid), edge.dtype)
    window = source_window(grid, radius) if borders == "psa" else None
    for (dy, dx), path in zip(near.offsets.tolist(), near.paths, strict=True):
        sources = overlap(grid, dy, dx) if window is None else window
        highest = edge[shift(sources, dy, dx)].copy()
        for y, x in path[1:].tolist():
            np.maximum(highest, edge[shift(sources, y, x)], out=highest)
        np.subtract(1, highest, out=weights[place[dy, dx]][sources])
    return Affinities(weights, radius)


def pair_affinities(values: np.ndarray, grid: tuple[int, int], radius: int = 5) -> Affinities:
    """Arrange the affinities (P, sources) of PSA's network: offsets in search order, sources of ``source_window``."""
    window = source_window(grid, radius)
    weights = np.zeros((len(values), *grid), values.dtype)
    weights[:, window[0], window[1]] = values.reshape(len(values), *weights[:, window[0], window[1]].shape[1:])
    return Affinities(weights, radius)


def _power(values: np.ndarray, exponent: float) -> np.ndarray:
    """values^exponent; whole exponents by multiplication, which is several times faster than the general power."""
    if exponent != int(exponent) or not 1 <= exponent <= 64:
        return values ** values.dtype.type(exponent)
    result, square, rest = None, values, int(exponent)
    while rest:
        if rest & 1:
            result = square if result is None else result * square
        rest >>= 1
        if rest:
            square = square * square
    return result


# --- the walk --------------------------------------------------------------------------------------------------------


class Transition:
    """T = P D^-1 of one image, ready to be applied; build with ``Affinities.transition``.

    P is kept and every product divided by P's own column sums, instead of storing the quotients: rounded quotients do
    not sum to one, and over 256 steps the scores drift by that. Sums are always formed in float64: in float32 they
    cost as much time (a product waits for memory), and Chebyshev's recursion enlarges their rounding to 1e-4.

    Args:
        weights: (P, h, w) entries of P for each offset, in search order; walked scores have their dtype.
        radius: of the pairs.
    """

    def __init__(self, weights: np.ndarray, radius: int):
        self.grid = (int(weights.shape[1]), int(weights.shape[2]))
        starts, columns, entry = _pattern(self.grid, radius)
        values = np.append(weights.reshape(-1).astype(np.float64), 1.0)[entry]
        self.dtype = weights.dtype
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse", UserWarning)  # torch calls the layout beta, once per process
            self._matrix = torch.sparse_csr_tensor(
                torch.from_numpy(starts),
                torch.from_numpy(columns),
                torch.from_numpy(values),
                (len(starts) - 1,) * 2,
                check_invariants=False,
            )

    def dense(self) -> np.ndarray:
        """T itself, (N, N): for tests on small grids."""
        matrix = self._matrix.to_dense().numpy()
        return matrix / matrix.sum(axis=0)

    def walk(self, maps: np.ndarray, exp_times: int) -> np.ndarray:
        """Scores (K, h, w) after 2^exp_times steps, in the affinities' dtype.

        Against the dense power: within 1e-6 for float32 affinities, 1e-11 for float64, of scores up to 1.
        """
        count = len(maps)
        if tuple(maps.shape[1:]) != self.grid:
            raise ValueError(f"maps of {maps.shape} on a grid of {self.grid}")
        if not count:
            return np.zeros(maps.shape, self.dtype)
        block = torch.from_numpy(np.ascontiguousarray(maps.reshape(count, -1).T, np.float64))
        result = self._polynomial(block, 2**exp_times)
        return np.ascontiguousarray(result.numpy().T, self.dtype).reshape(maps.shape)

    def _polynomial(self, block: torch.Tensor, steps: int) -> torch.Tensor:
        """T^steps applied to (N, K)."""
        # The sums come from the same product as the scores, so that their rounding cancels for a map of ones.
        sums = self._matrix @ torch.ones_like(block)
        coefficients = chebyshev(steps, 1e-9 if self.dtype == np.float32 else 1e-16)
        if len(coefficients) > 0.8 * steps:  # few steps: nothing to gain
            for _ in range(steps):
                block = (self._matrix @ block).div_(sums)
            return block
        before, now = block, (self._matrix @ block).div_(sums)
        total = before * coefficients[0] + now * coefficients[1]
        for coefficient in coefficients[2:]:
            before, now = now, (self._matrix @ now).div_(sums).mul_(2).sub_(before)  # T_k+1 = 2 x T_k - T_k-1
            if coefficient:
                total.add_(now, alpha=coefficient)
        return total


@lru_cache(maxsize=64)
def chebyshev(power: int, tail: float) -> tuple[float, ...]:
    """Coefficients c_0, c_1, ... of x^power in Chebyshev polynomials, cut where the rest sums to less than ``tail``.

    x^s = 2^-s sum_j C(s, j) T_|s - 2j|(x): a distribution over k = |s - 2j|, namely how far a simple random walk gets.
    What is kept is scaled to sum to one, so that constants stay constant.
    """
    share = [0.0] * (power % 2)
    ways = 1.0  # C(power, (power - k) / 2) in units of the first; only proportions matter
    for k in range(power % 2, power + 1, 2):
        share += [ways if k == 0 else 2 * ways, 0.0]
        ways *= (power - k) / (power + k + 2)
        if ways < 1e-30:
            break
    total, rest = math.fsum(share), 0.0
    while len(share) > 2 and rest + share[-1] < tail * total:
        rest += share.pop()
    total = math.fsum(share)
    return tuple(value / total for value in share)


@lru_cache(maxsize=4)
def _pattern(grid: tuple[int, int], radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The matrix's structure in CSR form: row starts, columns, and which entry of [weights, 1] stands there.

    It depends on the grid alone, and many photos of a dataset share one.
    """
    height, width = grid
    search = neighbours(radius).search
    pairs, cells = len(search), height * width
    # The neighbours of a cell from above left to below right, so that columns come out sorted; -1: itself.
    offsets = np.concatenate([-search[::-1], [[0, 0]], search])
    pair = np.concatenate([np.arange(pairs)[::-1], [-1], np.arange(pairs)])
    rows = np.arange(height)[:, None, None] + offsets[:, 0]
    columns = np.arange(width)[:, None] + offsets[:, 1]
    inside = (rows >= 0) & (rows < height) & ((columns >= 0) & (columns < width))
    neighbour = rows * width + columns
    own = np.arange(cells).reshape(height, width, 1)
    # A pair's weight stands at its source: the cell itself for offsets downwards, the neighbour for those upwards.
    entry = np.where(pair < 0, pairs * cells, pair * cells + np.minimum(own, neighbour))
    starts = np.concatenate([[0], np.cumsum(inside.sum(axis=2))])
    return starts.astype(np.int32), neighbour[inside].astype(np.int32), entry[inside].astype(np.int32)


# --- semantic masks --------------------------------------------------------------------------------------------------


def semantic_scores(
    edge: np.ndarray, maps: np.ndarray, params: WalkParams, transition: Transition | None = None
) -> np.ndarray:
    """IRN's walked scores (K, h, w) float on the stride-4 grid: (maps^gamma * (1 - edge)) T^(2^n).

    Args:
        edge: (h, w) float boundary map.
        maps: (K, h, w) max-normalised maps, ``camflow.localize.maps.stride4_maps``.
        params: of the walk; its threshold is not used.
        transition: that of ``edge`` for ``params.beta``, when it is at hand.

    Raises:
        ValueError: the maps lie on another grid than the boundaries.
    """
    if maps.shape[1:] != edge.shape:
        raise ValueError(f"maps on a grid of {maps.shape[1:]} cells, boundaries on {edge.shape}; make both again")
    if transition is None:
        transition = edge_affinities(edge, params.radius).transition(params.beta)
    maps = maps.astype(edge.dtype, copy=False)
    strong = maps if params.gamma == 1 else maps ** maps.dtype.type(params.gamma)
    return transition.walk(strong * (1 - edge), params.exp_times)


def enlarge(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (K, h, w) from stride 4 to pixels: four times bilinearly (align_corners False), cropped to (K, H, W)."""
    if not len(scores):
        return np.zeros((0, *size), scores.dtype)
    tensor = torch.from_numpy(np.ascontiguousarray(scores))[None]
    large = functional.interpolate(tensor, scale_factor=4, mode="bilinear", align_corners=False)[0]
    if large.shape[1] < size[0] or large.shape[2] < size[1]:
        raise ValueError(f"scores of {scores.shape} do not cover {size} pixels at stride 4")
    return large[:, : size[0], : size[1]].numpy()


def semantic_labels(scores: np.ndarray, classes: np.ndarray, size: tuple[int, int], threshold: float) -> Refined:
    """IRN's pseudo-mask: enlarged scores divided by their largest over ALL classes, arg-max against the threshold.

    Ties go to the background, then to the earlier class. Without a class or any positive score all is background.

    Args:
        scores: (K, h, w) of ``semantic_scores``.
        classes: (K,) 0-based class indices.
        size: (H, W) of the photo.
        threshold: background score.
    """
    if not len(scores) or scores.max() <= 0:
        return Refined(np.zeros(size, np.uint8), np.ones(size, np.float32))
    best, winner = _strongest(scores, size)
    best /= best.max()
    kept = best > best.dtype.type(threshold)
    labels = class_ids(np.where(kept, winner + 1, 0), classes)
    return Refined(labels, np.maximum(best, best.dtype.type(threshold)).astype(np.float32))


def _strongest(scores: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The largest enlarged score (H, W) and its index; one class at a time, so that memory does not grow with K."""
    best, winner = enlarge(scores[:1], size)[0].copy(), np.zeros(size, np.int32)
    for index in range(1, len(scores)):
        large = enlarge(scores[index : index + 1], size)[0]
        better = large > best
        best[better], winner[better] = large[better], index
    return best, winner


# --- instance masks --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InstanceParams:
    """Parameters of instance masks; the defaults are IRN's.

    Attributes:
        steps: refinements of each cell's centroid.
        weak: cells whose displacement is shorter than this many cells may be centroids.
        min_area: share of the photo below which a mask's score is 0.
    """

    steps: int = 300
    weak: float = 2.5
    min_area: float = 0.01

    def __post_init__(self):
        if self.steps < 0 or self.weak <= 0 or not 0 <= self.min_area < 1:
            raise ConfigError("irn: instance masks need steps of at least 0, weak above 0 and min_area in [0, 1)")


@dataclass(frozen=True, eq=False)
class Instances:
    """Instance masks of one image: ``masks`` (n, H, W) bool, ``classes`` (n,) int64 0-based, ``scores`` (n,) float32
    in [0, 1]."""

    masks: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


def centroids(displacement: np.ndarray, steps: int = 300) -> np.ndarray:
    """Follow the displacement field from every cell: int64 (2, h, w) rows and columns of the cell arrived at.

    c <- c + D(c), D read bilinearly, c kept on the grid, ``steps`` times; then rounded.

    Args:
        displacement: (2, h, w) float, (dy, dx) in cells from each cell to its centroid.
        steps: number of refinements; stops sooner when nothing moves.
    """
    _, height, width = displacement.shape
    field = displacement.astype(np.float32)
    place = np.mgrid[:height, :width].astype(np.float32)
    top = np.array([height - 1, width - 1], np.float32).reshape(2, 1, 1)
    for _ in range(steps):
        moved = np.clip(place + _sample(field, place), 0, top)
        if np.array_equal(moved, place):
            break
        place = moved
    return np.rint(place).astype(np.int64)


def _sample(field: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Bilinear values (2, h, w) of a field at (2, h, w) places on its grid."""
    _, height, width = field.shape
    low = place.astype(np.int64)  # places are never negative
    high_y, high_x = np.minimum(low[0] + 1, height - 1), np.minimum(low[1] + 1, width - 1)
    part_y, part_x = place - low
    flat = field.reshape(2, -1)
    upper, lower = low[0] * width, high_y * width
    above = flat[:, upper + low[1]] * (1 - part_x) + flat[:, upper + high_x] * part_x
    below = flat[:, lower + low[1]] * (1 - part_x) + flat[:, lower + high_x] * part_x
    return above * (1 - part_y) + below * part_y


def instance_map(displacement: np.ndarray, params: InstanceParams | None = None) -> np.ndarray:
    """Group cells by where their centroid lies: int64 (h, w) of ids 0..I-1.

    Cells with a weak displacement form 4-connected components, around which centroids gather; a cell belongs to the
    component its centroid lies in. Those whose centroid lies in none form a group as well.
    """
    params = params or InstanceParams()
    weak = np.sqrt((displacement**2).sum(axis=0)) < params.weak
    components, _ = ndimage.label(weak)
    row, column = centroids(displacement, params.steps)
    return np.unique(components[row, column], return_inverse=True)[1].reshape(weak.shape)


def instance_masks(
    edge: np.ndarray,
    displacement: np.ndarray,
    maps: np.ndarray,
    classes: np.ndarray,
    size: tuple[int, int],
    walk: WalkParams,
    params: InstanceParams | None = None,
    transition: Transition | None = None,
) -> Instances:
    """IRN's pseudo instance masks: the maps of each (class, instance) are walked separately.

    The winners' masks are split into 4-connected components, each scored by its largest walked score; those smaller
    than ``min_area`` score 0 and stay in the list, as published.

    Args:
        edge: (h, w) float boundary map on the stride-4 grid.
        displacement: (2, h, w) float.
        maps: (K, h, w) max-normalised maps.
        classes: (K,) 0-based class indices.
        size: (H, W) of the photo.
        walk: parameters of the walk; published with gamma 1 also where the semantic masks have another.
        params: of the instances.
        transition: that of ``edge`` for ``walk.beta``, when it is at hand.
    """
    params = params or InstanceParams()
    none = Instances(np.zeros((0, *size), bool), np.zeros(0, np.int64), np.zeros(0, np.float32))
    if not len(maps):
        return none
    ids = instance_map(displacement, params)
    members = [ids == index for index in range(ids.max() + 1)]
    parts = [(int(c), m * member) for c, m in zip(classes, maps, strict=True) for member in members]
    parts = [(c, part) for c, part in parts if part.any()]  # an empty part cannot win
    if not parts:
        return none
    scores = semantic_scores(edge, np.stack([part for _, part in parts]), walk, transition)
    if scores.max() <= 0:
        return none
    best, winner = _strongest(scores, size)
    best /= best.max()
    winner[best <= best.dtype.type(walk.threshold)] = -1
    return _components(best, winner, np.array([c for c, _ in parts], np.int64), params.min_area)


def _components(best: np.ndarray, winner: np.ndarray, classes: np.ndarray, min_area: float) -> Instances:
    masks, found, scores = [], [], []
    for index in np.unique(winner[winner >= 0]):
        labels, count = ndimage.label(winner == index)
        for number in range(1, count + 1):
            mask = labels == number
            masks.append(mask)
            found.append(classes[index])
            scores.append(best[mask].max() if mask.sum() >= min_area * mask.size else 0.0)
    stacked = np.stack(masks) if masks else np.zeros((0, *best.shape), bool)
    return Instances(stacked, np.array(found, np.int64), np.array(scores, np.float32))
