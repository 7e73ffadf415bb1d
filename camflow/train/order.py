"""Which sample comes when, and with which random numbers: functions of (seed, epoch, sample id) alone.

Nothing here depends on how many workers, processes or restarts a run had.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np


def derive_seed(*parts: object) -> int:
    """Return a 63-bit seed from any printable parts, the same on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def sample_generator(seed: int, epoch: int, sample_id: str) -> np.random.Generator:
    """Return the generator that augments one sample in one epoch."""
    return np.random.default_rng(derive_seed("sample", seed, epoch, sample_id))


def epoch_order(ids: Sequence[str], seed: int, epoch: int) -> list[int]:
    """Return the indices of ``ids`` in the order of an epoch: sorted by a hash of (seed, epoch, id)."""
    return sorted(range(len(ids)), key=lambda index: (derive_seed("order", seed, epoch, ids[index]), ids[index]))


def epoch_batches(ids: Sequence[str], seed: int, epoch: int, batch_size: int, drop_last: bool) -> list[list[int]]:
    """Cut an epoch's order into batches; a smaller last one is kept when it is the only one or ``drop_last`` is off."""
    order = epoch_order(ids, seed, epoch)
    return [
        order[start : start + batch_size]
        for start in range(0, steps_per_epoch(len(order), batch_size, drop_last) * batch_size, batch_size)
    ]


def steps_per_epoch(samples: int, batch_size: int, drop_last: bool) -> int:
    """Return how many batches an epoch has."""
    return max(1, samples // batch_size) if drop_last else -(-samples // batch_size)


def split(items: Sequence[int], parts: int) -> list[list[int]]:
    """Cut into ``parts`` runs whose lengths differ by at most one, the longer ones first; some may be empty."""
    return [list(run) for run in np.array_split(np.asarray(items, dtype=np.int64), parts)]


class MicroBatches:
    """The batch sampler of one process: lists of (epoch, index), ``accumulate`` of them per optimiser step at most.

    Args:
        ids: sample ids.
        seed, batch_size, drop_last, accumulate: see ``TrainSettings``.
        rank, world: this process among all; each takes its run of every batch.
    """

    def __init__(
        self, ids: Sequence[str], *, seed: int, batch_size: int, drop_last: bool, accumulate: int, rank: int, world: int
    ):
        self.ids, self.seed, self.batch_size, self.drop_last = ids, seed, batch_size, drop_last
        self.accumulate, self.rank, self.world = accumulate, rank, world
        self.steps: list[list[list[int]]] = []

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration walks through."""
        self.epoch = epoch
        batches = epoch_batches(self.ids, self.seed, epoch, self.batch_size, self.drop_last)
        self.sizes = [len(batch) for batch in batches]
        runs = [split(batch, self.world)[self.rank] for batch in batches]
        self.steps = [[part for part in split(run, self.accumulate) if part] for run in runs]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for parts in self.steps:
            for part in parts:
                yield [(self.epoch, index) for index in part]

    def __len__(self) -> int:
        return sum(map(len, self.steps))
