"""Which cells of a grid are paired, and the line of cells between the two of a pair.

Pairs are named by a source cell and an offset (dy, dx) into the lower half plane, so that each unordered pair within
the radius occurs once: PSA (Ahn and Kwak, CVPR 2018) and IRN (Ahn, Cho and Kwak, CVPR 2019).
The path of an offset are the cells of the box between source and destination that lie less than one cell from the
straight line between them, as in IRN's code; IRN's affinity of a pair is one minus the largest boundary on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from camflow.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The offsets of one radius with their paths.

    Attributes:
        radius: two cells are paired when their distance is below it.
        search: (P, 2) int64 offsets (dy, dx) row by row: PSA's order of pairs.
        offsets: the same offsets by length of path, then in search order: IRN's order of pairs.
        paths: per entry of ``offsets`` the (L, 2) int64 cells of the path relative to the source, destination first.
    """

    radius: int
    search: np.ndarray
    offsets: np.ndarray
    paths: tuple[np.ndarray, ...]


@lru_cache(maxsize=16)
def neighbours(radius: int) -> Neighbours:
    """The pairs within a radius: 34 offsets and 242 path cells for 5, 152 and 2134 for 10.

    Raises ``ConfigError`` for a radius below 2, which pairs nothing.
    """
    if radius < 2 or radius != int(radius):
        raise ConfigError(f"radius: needs an integer of at least 2 cells, not {radius}")
    search = search_offsets(int(radius))
    paths = [path_cells(dy, dx) for dy, dx in search.tolist()]
    order = sorted(range(len(paths)), key=lambda index: len(paths[index]))
    return Neighbours(int(radius), search, search[order], tuple(paths[index] for index in order))


def search_offsets(radius: int) -> np.ndarray:
    """(P, 2) int64 offsets (dy, dx) with dy > 0, or dy = 0 and dx > 0, shorter than the radius; row by row."""
    reach = range(1 - radius, radius)
    rows = [(0, dx) for dx in range(1, radius)]
    rows += [(dy, dx) for dy in range(1, radius) for dx in reach if dy * dy + dx * dx < radius * radius]
    return np.array(rows, np.int64).reshape(-1, 2)


def path_cells(dy: int, dx: int) -> np.ndarray:
    """(L, 2) int64 cells between (0, 0) and (dy, dx), both included, destination first.

    A cell (y, x) of the box spanned by the two belongs to the path when its squared distance to the line through them,
    (dy x - dx y)^2 / (dy^2 + dx^2), is below 1.
    """
    box = [(y, x) for y in _between(dy) for x in _between(dx) if (dy * x - dx * y) ** 2 < dy * dy + dx * dx]
    return np.array(sorted(box, key=lambda cell: (-abs(cell[0]) - abs(cell[1]), cell)), np.int64)


def _between(end: int) -> range:
    return range(min(0, end), max(0, end) + 1)


def source_window(grid: tuple[int, int], radius: int) -> tuple[slice, slice]:
    """Rows and columns of the cells whose every destination lies on the grid: 0..h-r and r-1..w-r, both included.

    Both papers pair only these as sources. Cells of the margins then occur as destinations alone, and pairs of two
    margin cells are missing.

    Raises:
        ConfigError: the grid is too small to have such a cell.
    """
    height, width = grid
    if height < radius or width < 2 * radius - 1:
        raise ConfigError(
            f"a grid of {height}x{width} cells has no pairs of radius {radius}; "
            f"use a larger crop (at least {radius}x{2 * radius - 1} cells) or a smaller radius"
        )
    return slice(0, height - radius + 1), slice(radius - 1, width - radius + 1)


def shift(window: tuple[slice, slice], dy: int, dx: int) -> tuple[slice, slice]:
    """A window moved by an offset."""
    rows, columns = window
    return slice(rows.start + dy, rows.stop + dy), slice(columns.start + dx, columns.stop + dx)


def overlap(grid: tuple[int, int], dy: int, dx: int) -> tuple[slice, slice]:
    """The sources (y, x) of a grid whose destination (y + dy, x + dx) lies on the grid; empty slices when none does."""
    height, width = grid
    columns = slice(max(0, -dx), max(max(0, -dx), width - max(0, dx)))
    return slice(0, max(0, height - dy)), columns
