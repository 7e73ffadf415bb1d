"""Spherical k-means as LPCAM uses it (Chen & Sun, CVPR 2023, section 3.2): points are assigned by cosine, centres are
plain means.

Assignment: the centre with the largest cosine. Since dividing a point by its own length does not change which centre
that is, only the K centres are normalised and the points are used as they are: one matrix product (N, D) x (D, K), no
normalised copy of the points, no (N, K, D) array.

Update: a centre is the arithmetic mean of its raw members, so that it is a feature vector of ordinary length that the
classifier can score. Long members weigh more in it.

Three things the published clustering leaves open (it then loops for ever): a cluster that loses all its members takes
over the point farthest from its own centre; the number of rounds is bounded; rows of zeros, which have no direction,
belong to no cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from camflow.errors import ConfigError, did_you_mean

INITS = ("kmeans++", "random")
TOLERANCE_RULES = ("unit", "authors")

CHUNK = 32768  # rows in one matrix product; bounds the memory, and fixes the order of summation
COINCIDENT = 1e-6  # cosine distances below this are rounding: the directions count as equal


@dataclass(frozen=True, eq=False)
class KMeans:
    """A clustering of N points.

    Attributes:
        centres: (K, D), the mean of each cluster's members in the points' dtype (at least float32). K is smaller than
            asked for when there are fewer points, or fewer different directions; 0 when there is none.
        assignment: (N,) int64, the cluster of each point, -1 for rows of zeros. ``centres`` are the means of exactly
            these members; no cluster is empty.
        iterations: rounds of assignment and update that were run.
        converged: whether the stop rule was met within the bound.
        repaired: how often an empty cluster was given a new point.
    """

    centres: torch.Tensor
    assignment: torch.Tensor
    iterations: int
    converged: bool
    repaired: int

    @property
    def members(self) -> torch.Tensor:
        """(K,) int64, the number of points of each cluster."""
        return _sizes(self.assignment, len(self.centres))


def kmeans(
    points: torch.Tensor,
    k: int,
    *,
    init: str = "kmeans++",
    seed: int | np.random.Generator = 0,
    init_index: torch.Tensor | np.ndarray | None = None,
    max_iterations: int = 100,
    tolerance: float = 1e-3,
    tolerance_rule: str = "unit",
) -> KMeans:
    """Cluster points by direction. The same points and seed give the same result on the same device.

    Args:
        points: float (N, D) on any device, finite; the work is done there.
        k: clusters wanted.
        init: the first centres are points: ``random`` ones (as published), or ``kmeans++`` (Arthur & Vassilvitskii,
            SODA 2007), each drawn with a probability proportional to its cosine distance from those chosen before,
            which is half the squared Euclidean distance of the unit vectors.
        seed: of the draw, or a NumPy generator.
        init_index: (K,) row numbers to start from instead of a draw.
        max_iterations: bound on the rounds.
        tolerance, tolerance_rule: stop when, from one round to the next,
            ``unit``: no centre's unit vector has moved by ``tolerance`` or more (does not depend on the features'
            scale); ``authors``: (sum over the centres of the L2 shift)^2 < ``tolerance``, the published rule.

    Raises:
        ConfigError: an unknown name or a number out of range.
        ValueError: a point is not finite, or ``init_index`` does not fit the points.
    """
    check_options(k, init, max_iterations, tolerance, tolerance_rule)
    lengths = _lengths(points)
    if not torch.isfinite(lengths).all():
        raise ValueError("points must be finite")
    if init_index is not None:
        start = torch.as_tensor(init_index, device=points.device).long()
        if len(start) and (int(start.min()) < 0 or int(start.max()) >= len(points)):
            raise ValueError(f"init_index names rows beyond the {len(points)} points")
    else:
        start = (_spread if init == "kmeans++" else _random)(points, lengths, k, np.random.default_rng(seed))

    centres = _distinct(_wide(points[start]))
    assignment = torch.full((len(points),), -1, dtype=torch.int64, device=points.device)
    if not len(centres) or not bool((lengths > 0).any()):
        return KMeans(centres[:0], assignment, 0, True, 0)
    iterations, converged, repaired = 0, False, 0
    while not converged and iterations < max_iterations:
        iterations += 1
        assignment, cosine = assign(points, centres, lengths)
        repaired += _repair(assignment, cosine, len(centres))
        old, centres = centres, _means(points, assignment, centres)
        converged = _moved(old, centres, tolerance_rule) < tolerance
    # Clusters that could not be repaired are left empty until now, so that the old and new centres correspond.
    kept = _sizes(assignment, len(centres)) > 0
    renumbered = torch.cumsum(kept, 0) - 1
    assignment = torch.where(assignment >= 0, renumbered[assignment.clamp(min=0)], assignment)
    return KMeans(centres[kept], assignment, iterations, converged, repaired)


def check_options(k: int, init: str, max_iterations: int, tolerance: float, tolerance_rule: str) -> None:
    """Raise ``ConfigError`` naming the first option of ``kmeans`` that cannot be honoured."""
    if k < 1:
        raise ConfigError(f"clusters: needs at least one, not {k}")
    if init not in INITS:
        raise ConfigError(f"init: unknown '{init}'{did_you_mean(init, INITS)}")
    if max_iterations < 1:
        raise ConfigError(f"max_iterations: needs at least one, not {max_iterations}")
    if not tolerance > 0:
        raise ConfigError(f"tolerance: needs a number above 0, not {tolerance}")
    if tolerance_rule not in TOLERANCE_RULES:
        raise ConfigError(f"tolerance_rule: unknown '{tolerance_rule}'{did_you_mean(tolerance_rule, TOLERANCE_RULES)}")


def assign(
    points: torch.Tensor, centres: torch.Tensor, lengths: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest centre of every point by cosine.

    Args:
        points: float (N, D).
        centres: float (K, D), K >= 1; a centre of zeros has cosine 0 with everything.
        lengths: (N,) L2 norms of the points, when they are known already.

    Returns:
        assignment (N,) int64, -1 for a row of zeros, and its cosine (N,), 0 for a row of zeros.
    """
    lengths = _lengths(points) if lengths is None else lengths
    directions = unit(_wide(centres)).T.contiguous()
    best = [(chunk @ directions).max(dim=1) for chunk in _chunks(points)]
    if not best:
        return torch.zeros(0, dtype=torch.int64, device=points.device), lengths
    product, index = torch.cat([b.values for b in best]), torch.cat([b.indices for b in best])
    some = lengths > 0
    cosine = torch.where(some, product / lengths.where(some, torch.ones_like(lengths)), 0)
    return torch.where(some, index, -1), cosine


def unit(rows: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """Divide by the L2 norm along ``dim``; a vector of zeros stays zero."""
    length = torch.linalg.vector_norm(rows, dim=dim, keepdim=True)
    return rows / length.where(length > 0, torch.ones_like(length))


# --- first centres ---------------------------------------------------------------------------------------------------


def _random(points: torch.Tensor, lengths: torch.Tensor, k: int, rng: np.random.Generator) -> torch.Tensor:
    """Rows of k different points, of all when there are fewer."""
    rows = torch.nonzero(lengths > 0)[:, 0].cpu().numpy()
    chosen = rng.choice(rows, min(k, len(rows)), replace=False) if len(rows) else rows
    return torch.as_tensor(chosen, dtype=torch.int64, device=points.device)


def _spread(points: torch.Tensor, lengths: torch.Tensor, k: int, rng: np.random.Generator) -> torch.Tensor:
    """Rows of up to k points by k-means++; fewer when all points lie on the directions chosen already."""
    rows = torch.nonzero(lengths > 0)[:, 0].cpu().numpy()
    chosen = [int(rng.choice(rows))] if len(rows) else []
    distance = np.where((lengths > 0).cpu().numpy(), np.inf, 0.0)
    while chosen and len(chosen) < k:
        _, cosine = assign(points, points[chosen[-1]][None], lengths)
        distance = np.minimum(distance, 1 - cosine.double().cpu().numpy())
        distance[distance < COINCIDENT] = 0
        if not distance.any():
            break
        total = np.cumsum(distance)
        # min: the product may round up to the total itself, which lies behind the last point.
        target = min(rng.random() * total[-1], np.nextafter(total[-1], 0))
        chosen.append(int(np.searchsorted(total, target, side="right")))
    return torch.as_tensor(chosen, dtype=torch.int64, device=points.device)


def _distinct(centres: torch.Tensor) -> torch.Tensor:
    """Replace every centre in the direction of an earlier one by zeros, so that its cluster is empty and is repaired.

    Otherwise rounding would scatter the points of one direction over the equal centres.
    """
    directions = unit(centres)
    equal = torch.tril(1 - directions @ directions.T < COINCIDENT, diagonal=-1).any(dim=1)
    return torch.where(equal[:, None], 0, centres)


# --- one round -------------------------------------------------------------------------------------------------------


def _repair(assignment: torch.Tensor, cosine: torch.Tensor, k: int) -> int:
    """Give each empty cluster the farthest point that is not the last of its own cluster. Changes ``assignment``.

    Points that coincide with their centre stay where they are: a second cluster of the same direction would only count
    it twice. Returns how many clusters got a point.
    """
    sizes = _sizes(assignment, k).cpu().numpy()
    empty = np.flatnonzero(sizes == 0)
    if not len(empty):
        return 0
    distance = np.where((assignment >= 0).cpu().numpy(), 1 - cosine.double().cpu().numpy(), 0)
    owner = assignment.cpu().numpy()
    farthest = iter(np.argsort(-distance, kind="stable"))  # stable: equal distances by row
    done = 0
    for cluster in empty:
        point = next((p for p in farthest if sizes[owner[p]] > 1 or distance[p] < COINCIDENT), None)
        if point is None or distance[point] < COINCIDENT:
            break
        sizes[owner[point]] -= 1
        assignment[int(point)] = int(cluster)
        done += 1
    return done


def _means(points: torch.Tensor, assignment: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Mean of each cluster's raw members, (K, D); an empty cluster keeps its centre."""
    k = len(before)
    clusters = torch.arange(k, device=points.device)
    total = torch.zeros(before.shape, dtype=torch.float64, device=points.device)
    start = 0
    for chunk in _chunks(points):
        # A product with the 0/1 membership matrix: unlike index_add it is deterministic on a GPU, too.
        belongs = (assignment[start : start + len(chunk), None] == clusters).to(chunk.dtype)
        total += belongs.T @ chunk
        start += len(chunk)
    sizes = _sizes(assignment, k)[:, None]
    means = (total / sizes.clamp(min=1)).to(before.dtype)
    return torch.where(sizes > 0, means, before)


def _moved(old: torch.Tensor, new: torch.Tensor, rule: str) -> float:
    if rule == "authors":
        return float(torch.linalg.vector_norm(new - old, dim=1).sum() ** 2)
    return float(torch.linalg.vector_norm(unit(new) - unit(old), dim=1).max())


def _sizes(assignment: torch.Tensor, k: int) -> torch.Tensor:
    # Not bincount: that is not deterministic on a GPU, and torch can be told to refuse it.
    return torch.stack([(assignment == cluster).sum() for cluster in range(k)]) if k else assignment.new_zeros(0)


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _chunks(points: torch.Tensor) -> Iterator[torch.Tensor]:
    for start in range(0, len(points), CHUNK):
        yield _wide(points[start : start + CHUNK])


def _lengths(points: torch.Tensor) -> torch.Tensor:
    parts = [torch.linalg.vector_norm(chunk, dim=1) for chunk in _chunks(points)]
    return torch.cat(parts) if parts else _wide(points.new_zeros(0))
