"""Timing two ways to the same result in turns: A the straightforward way, B the way taken (or offered) here.

Every comparison runs both sides once and raises when they disagree, before anything is timed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from camflow.errors import CamflowError

LEAST, MOST = 3, 7  # repeats of each side
TOLERANCE = 1e-3  # where the order of summation differs, or values pass through float16

Row = dict[str, Any]
Side = Callable[[], Any]
Comparison = Callable[[tuple[int, int], float, Path], list[Row]]  # (size of the photos, seconds of repeats, folder)


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


def skipped(name: str, why: str) -> Row:
    """Stands for a row that cannot be measured on this machine."""
    return {"name": name, "skipped": why}


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
