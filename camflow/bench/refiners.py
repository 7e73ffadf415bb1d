"""Comparisons of IRN: the random walk of its scores, and the path maxima of its training."""

from __future__ import annotations

import re
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from torch.nn import functional

from camflow.bench.compare import TOLERANCE, Comparison, Row, Side, agree, compare, row, skipped
from camflow.bench.made import examples
from camflow.evaluate.boundary import boundary_distance
from camflow.models.irn import STRIDE
from camflow.refine.neighbours import neighbours, overlap, shift, source_window
from camflow.refine.walk import WalkParams, edge_affinities, semantic_scores
from camflow.train.irn import path_maximum

WALK = WalkParams()  # as published: radius 5, beta 10, 2^8 steps
WALK_ROUNDING = 1e-4  # of scores up to 1
CROP, RADIUS = 512, 10  # of IRN's training
GRADIENT_ROUNDING = 1e-5  # of the largest; thousands of float32 are added up in one cell
STATUS = Path("/proc/self/status")


# --- the walk --------------------------------------------------------------------------------------------------------


def walk(size: tuple[int, int], budget: float, folder: Path) -> list[Row]:
    """From boundaries to walked scores: on the photo's grid against single steps, on half of it against dense powers.

    On the grid of 94x125 cells of a 375x500 photo the dense matrix has 138 million entries and its eight squarings are
    26 TFLOP, so there its memory is worked out, not measured, and its seconds are left to the smaller grid. What is timed
    is float32, as released; after eight squarings the columns of that no longer sum to one, and its scores are off by
    more than the walk's, so the walk is held to agree with the same in float64.
    """
    edge, maps = _scene(size, STRIDE)
    quick = partial(semantic_scores, edge, maps, WALK)
    grown = _growth(quick)  # the first call, while this process is small
    slow = partial(walk_in_steps, edge, maps, WALK)
    same = agree("walk-steps", [slow()], [quick()], WALK_ROUNDING)
    sides = (f"{2**WALK.exp_times} sparse steps", slow), ("Chebyshev", quick)
    rows = [compare("walk-steps", *sides, images=1, same=same, budget=budget)]
    if grown is None:
        rows.append(skipped("walk-memory", f"no {STATUS} on this system"))
    else:
        matrices = 2 * np.dtype(np.float32).itemsize * edge.size**2 / 2**20
        names = "dense matrix and its square (worked out)", "sparse walk"
        ratio = matrices / grown
        rows.append(row("walk-memory", *names, [matrices, grown], "MB", "A not run", (ratio, ratio), 1))

    edge, maps = _scene(size, 2 * STRIDE)
    quick, slow = partial(semantic_scores, edge, maps, WALK), partial(walk_densely, edge, maps, WALK)
    exact = walk_densely(edge.astype(np.float64), maps, WALK)
    same = f"{agree('walk-dense', [exact], [quick()], WALK_ROUNDING)} (A in float64)"
    agree("walk-dense", [slow()], [exact], TOLERANCE)
    sides = (f"dense matrix squared {WALK.exp_times} times", slow), ("sparse, Chebyshev", quick)
    return [*rows, compare("walk-dense", *sides, images=1, same=same, budget=budget)]


def walk_densely(edge: np.ndarray, maps: np.ndarray, params: WalkParams) -> np.ndarray:
    """Walked scores (K, h, w) the way the released code makes them, T squared ``exp_times`` times; in edge's dtype."""
    weights = _powers(edge, params).toarray()
    matrix = torch.from_numpy(weights / weights.sum(axis=0))
    for _ in range(params.exp_times):
        matrix = matrix @ matrix
    scores = torch.from_numpy((maps * (1 - edge)).reshape(len(maps), -1))
    return (scores @ matrix).numpy().reshape(maps.shape)


def walk_in_steps(edge: np.ndarray, maps: np.ndarray, params: WalkParams) -> np.ndarray:
    """The same by 2^exp_times products of the sparse T with the scores: those that ``camflow.refine.walk`` makes fewer of.

    In float64, as there. Returns float32 (K, h, w).
    """
    powers = _powers(edge, params).astype(np.float64)
    sums = torch.from_numpy(powers.sum(axis=0))[:, None]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse", UserWarning)  # torch calls the layout beta
        parts = map(torch.from_numpy, (powers.indptr, powers.indices, powers.data))
        weights = torch.sparse_csr_tensor(*parts, powers.shape, check_invariants=False)
    scores = torch.from_numpy((maps * (1 - edge)).reshape(len(maps), -1).T.astype(np.float64))
    for _ in range(2**params.exp_times):
        scores = (weights @ scores).div_(sums)
    return np.ascontiguousarray(scores.numpy().T, np.float32).reshape(maps.shape)


def _powers(edge: np.ndarray, params: WalkParams) -> sparse.csr_array:
    """P = A^beta of all cells, (N, N) in edge's dtype."""
    found = edge_affinities(edge, params.radius).weights ** edge.dtype.type(params.beta)
    cells = np.arange(edge.size).reshape(edge.shape)
    sources, targets, values = [], [], []
    for (dy, dx), weights in zip(neighbours(params.radius).search.tolist(), found, strict=True):
        window = overlap(edge.shape, dy, dx)
        sources.append(cells[window].ravel())
        targets.append(cells[shift(window, dy, dx)].ravel())
        values.append(weights[window].ravel())
    pairs = np.concatenate(values), (np.concatenate(sources), np.concatenate(targets))
    half = sparse.coo_array(pairs, shape=(edge.size, edge.size)).tocsr()
    return (half + half.T + sparse.eye_array(edge.size, dtype=edge.dtype)).tocsr()


def _scene(size: tuple[int, int], stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Boundaries (h, w) and maps (3, h, w) of background and two classes, float32, of a made photo at a stride."""
    truth = examples(size, 1)[0].truth
    edge = np.exp(-boundary_distance(truth) / stride)[::stride, ::stride]
    labels = np.unique(truth)
    maps = (truth[::stride, ::stride] == labels[:, None, None]).astype(np.float32)
    return np.ascontiguousarray(edge, np.float32), maps


def _growth(work: Side) -> float | None:
    """MB (2^20 bytes) by which the process's peak then lies above what it held before; None: cannot tell here."""
    if not STATUS.exists():
        return None
    before = _memory("VmRSS")
    work()
    return max(_memory("VmHWM") - before, 4 / 1024)  # a page, should nothing have grown


def _memory(field: str) -> float:
    """MB of a field of Linux's process status. Not getrusage's peak: a process inherits that of the one it came from."""
    (kilobytes,) = re.findall(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    return int(kilobytes) / 1024


# --- path maxima -----------------------------------------------------------------------------------------------------


def path_maxima(size: tuple[int, int], budget: float, folder: Path) -> list[Row]:
    """Largest value on every path, forward and backward: gathered and pooled, or by ranks over shifted grids."""
    name, side = "path-maximum", min(CROP // STRIDE, *size)
    generator = torch.Generator().manual_seed(0)
    # All different: of equal cells the two sides may give the gradient to another.
    values = (torch.randperm(side * side, generator=generator) / side**2).view(1, side, side).requires_grad_()
    cells = path_indices((side, side), RADIUS)
    slopes = torch.randn(path_maximum(values, RADIUS).shape, generator=generator)

    def results(found: torch.Tensor) -> list[np.ndarray]:
        (gradient,) = torch.autograd.grad(found, values, slopes)
        return [found.detach().numpy(), gradient.numpy()]

    def gathered() -> list[np.ndarray]:
        return results(gathered_maximum(values, cells).view(slopes.shape))

    def ranked() -> list[np.ndarray]:
        return results(path_maximum(values, RADIUS))

    a, b = gathered(), ranked()
    agree(name, a[:1], b[:1])  # the values, to the bit
    largest = np.abs(a[1]).max()
    same = agree(name, [a[1] / largest], [b[1] / largest], GRADIENT_ROUNDING)
    sides = ("gather and max-pool every path", gathered), ("ranks over shifted grids", ranked)
    return [compare(name, *sides, images=1, same=f"{same} (gradient)", budget=budget)]


def path_indices(grid: tuple[int, int], radius: int) -> list[torch.Tensor]:
    """Of every path the flat cells (L, sources) int64, destination first: made once, as the released code does."""
    cells = torch.arange(grid[0] * grid[1]).view(grid)
    window = source_window(grid, radius)
    paths = neighbours(radius).paths
    return [torch.stack([cells[shift(window, y, x)].flatten() for y, x in path.tolist()]) for path in paths]


def gathered_maximum(values: torch.Tensor, cells: list[torch.Tensor]) -> torch.Tensor:
    """Largest value on every path (B, P, sources) as the released code finds it: gather all cells, then max-pool.

    Args:
        values: (B, h, w) float.
        cells: of ``path_indices``.
    """
    flat = values.flatten(1)
    # index_select, as there: its backward pass is several times faster than that of indexing
    taken = (flat.index_select(1, path.flatten()).view(-1, 1, *path.shape) for path in cells)
    pooled = [functional.max_pool2d(one, (one.shape[2], 1)).flatten(2) for one in taken]
    return torch.cat(pooled, dim=1)


REFINERS: dict[str, Comparison] = {"walk": walk, "path-maximum": path_maxima}
