"""Hidden segments of a sequence: the temporal Hide-and-Seek of Singh and Lee (ICCV 2017, arXiv 1704.04232).

The sequence is cut into equal segments (2000 steps into 20 of 100), each hidden with probability .5, anew each time.
What is hidden becomes the mean feature of the training set, for the reason given in ``camflow.train.hiding``.
"""

from __future__ import annotations

import numpy as np


def hidden_steps(draws: np.ndarray, p: float, steps: int) -> np.ndarray:
    """Which steps are hidden, bool (T,).

    Args:
        draws: uniform numbers in [0, 1), one per segment (S,), S <= T. A segment is hidden when its number is below
            ``p``.
        p: probability with which a segment is hidden.
        steps: T. If S does not divide it, segments differ by one step.
    """
    return (draws < p)[np.arange(steps) * len(draws) // steps]


def hide_segments(
    sequence: np.ndarray, fill: np.ndarray, rng: np.random.Generator, *, segments: int = 20, p: float = 0.5
) -> np.ndarray:
    """Hide random segments of a sequence (T, D); ``fill`` (D,) is what hidden steps become."""
    hidden = hidden_steps(rng.random(segments), p, len(sequence))
    return np.where(hidden[:, None], fill.astype(sequence.dtype), sequence)
