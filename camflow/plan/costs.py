"""What a plan will cost, from what jobs like its own have cost: time, cores, GPUs, disk. Nothing is assumed of a job
that no job like it has run before.

A job's time is a start (Python, imports, the check of its key) and its stage, which grows with the images times epochs
that it goes through and shrinks with the cores, or for networks the GPUs, it has for itself. Both are read off the
finished jobs that are most like it: same rule, same networks, same kind of device; of these the ones of the same
settings and dataset, else of the same settings, else all. Sizes grow with the images for what is kept image by image.
"""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from camflow.plan.records import Record, Work

HERE, SAME, OTHER = "same settings and dataset", "same settings, other data", "other settings"


@dataclass(frozen=True)
class Job:
    """A job of Snakemake's plan.

    Attributes:
        id: its number. needs: those of the jobs it waits for.
        rule: its rule.
        run: whether it would run; else what it makes is there.
        threads, gpus: what it gets.
        stored: bytes of its outputs that are there.
        measured: whether jobs of its rule leave a record. Links, figures and tables are quick and leave none.
        work: what it has to do; None where nothing is measured.
    """

    id: int
    rule: str
    run: bool
    threads: int = 1
    gpus: int = 0
    needs: tuple[int, ...] = ()
    stored: int = 0
    measured: bool = True
    work: Work | None = None


@dataclass(frozen=True)
class Estimate:
    """What a job will cost, and what that stands on.

    Attributes:
        seconds: of time while it runs. size: bytes that it will write.
        tier: how like it the jobs behind this are: HERE, SAME or OTHER.
        stretch: how many times the work of the largest of them it is. What a stage does once counts as if it grew with
            the images, so a large stretch makes an estimate too high.
        records: those jobs.
    """

    seconds: float
    size: float
    tier: str
    stretch: float
    records: tuple[Record, ...]


def estimate(job: Job, records: Sequence[Record]) -> Estimate | None:
    """The cost of a job, from the finished jobs most like it; None where there are none or its images are not known."""
    work = job.work
    if work is None or not work.known:
        return None
    like = [
        item
        for item in records
        if (item.work.rule, item.work.networks) == (work.rule, work.networks)
        and bool(item.gpus) == bool(job.gpus)
        and item.work.known
        and item.work.units > 0
        and (item.work.images is None) == (work.images is None)
    ]
    same = [item for item in like if item.work.settings == work.settings]
    here = [item for item in same if item.work.dataset == work.dataset]
    if not like:
        return None
    tier, found = next((tier, group) for tier, group in ((HERE, here), (SAME, same), (OTHER, like)) if group)
    start = statistics.fmean(max(item.seconds - item.stage, 0.0) for item in found)
    rate = sum(item.stage * _width(item) for item in found) / sum(item.work.units for item in found)
    seconds = start + rate * work.units / _width(job)
    stretch = work.units / max(item.work.units for item in found)
    return Estimate(seconds, _size(work, found), tier, stretch, tuple(found))


def _width(item: Job | Record) -> int:
    """What the stage of a job is spread over: its GPUs, or its cores where it has none."""
    return item.gpus or item.threads or 1


def _size(work: Work, found: Sequence[Record]) -> float:
    if work.grows and work.images is not None:
        return sum(item.size for item in found) * work.images / sum(item.work.images for item in found)
    return statistics.fmean(item.size for item in found)


# --- all of them -----------------------------------------------------------------------------------------------------


@dataclass
class Stage:
    """The jobs of one rule.

    Attributes:
        cached: jobs whose results are there, and ``stored`` their bytes.
        run: jobs to run; of these ``unknown`` without an estimate.
        core_seconds, gpu_seconds, new: cores and GPUs kept busy and bytes written by those with an estimate.
        tiers: how many of the estimates stand on what. records: the finished jobs they stand on.
        stretch: the largest of theirs.
        measured: whether jobs of the rule leave a record.
    """

    rule: str
    measured: bool = True
    cached: int = 0
    stored: int = 0
    run: int = 0
    unknown: int = 0
    core_seconds: float = 0.0
    gpu_seconds: float = 0.0
    new: float = 0.0
    stretch: float = 0.0
    tiers: dict[str, int] = field(default_factory=dict)
    records: set[Record] = field(default_factory=set)


@dataclass(frozen=True)
class Costs:
    """A plan's stages in the order in which they come up, and how long it takes on some cores and GPUs."""

    stages: list[Stage]
    wall_seconds: float

    @property
    def unknown(self) -> int:
        """Jobs that a time could be given for if one like them had run."""
        return sum(stage.unknown for stage in self.stages)


def sum_up(jobs: Sequence[Job], records: Sequence[Record], cores: int, gpus: int) -> Costs:
    """Sum up a plan by rule, and play it through on so many cores and GPUs."""
    stages: dict[str, Stage] = {}
    seconds: dict[int, float] = {}
    for job in _in_order(jobs):
        stage = stages.setdefault(job.rule, Stage(job.rule, job.measured))
        if not job.run:
            stage.cached += 1
            stage.stored += job.stored
            continue
        stage.run += 1
        found = estimate(job, records) if job.measured else None
        if found is None:
            stage.unknown += job.measured
            continue
        seconds[job.id] = found.seconds
        stage.core_seconds += found.seconds * job.threads
        stage.gpu_seconds += found.seconds * job.gpus
        stage.new += found.size
        stage.tiers[found.tier] = stage.tiers.get(found.tier, 0) + 1
        stage.stretch = max(stage.stretch, found.stretch)
        stage.records.update(found.records)
    return Costs(list(stages.values()), wall_seconds([job for job in jobs if job.run], seconds, cores, gpus))


def wall_seconds(jobs: Sequence[Job], seconds: Mapping[int, float], cores: int, gpus: int) -> float:
    """When the last job ends if each starts as soon as what it needs is made and cores and GPUs are free.

    Of several that could start, the longest goes first. Jobs without a time take none.
    """
    by_id = {job.id: job for job in jobs}
    waits = {job.id: by_id.keys() & set(job.needs) for job in jobs}
    followers: dict[int, list[int]] = {number: [] for number in by_id}
    for number, others in waits.items():
        for other in others:
            followers[other].append(number)
    ready: dict[bool, list[tuple[float, int]]] = {True: [], False: []}  # those that want a GPU, and the others
    running: list[tuple[float, int]] = []
    clock, free = 0.0, [cores, gpus]

    def queue(number: int) -> None:
        heapq.heappush(ready[bool(by_id[number].gpus)], (-seconds.get(number, 0.0), number))

    def takes(number: int) -> tuple[int, int]:
        return min(by_id[number].threads, cores), min(by_id[number].gpus, gpus)

    for number, others in waits.items():
        if not others:
            queue(number)
    while any(ready.values()) or running:
        for wants_gpu, heap in ready.items():
            passed_over = []
            while heap and free[0] and (free[1] or not wants_gpu or not gpus):
                negative, number = heapq.heappop(heap)
                threads, cards = takes(number)
                if threads <= free[0] and cards <= free[1]:
                    free = [free[0] - threads, free[1] - cards]
                    heapq.heappush(running, (clock - negative, number))
                else:
                    passed_over.append((negative, number))
            for item in passed_over:
                heapq.heappush(heap, item)
        clock = running[0][0]
        while running and running[0][0] == clock:  # all that end now, before the next are chosen
            _, done = heapq.heappop(running)
            free = [have + back for have, back in zip(free, takes(done), strict=True)]
            for number in followers[done]:
                waits[number].discard(done)
                if not waits[number]:
                    queue(number)
    return clock


def _in_order(jobs: Sequence[Job]) -> list[Job]:
    """The jobs by the length of the longest way to each, then by rule."""
    by_id = {job.id: job for job in jobs}
    depth: dict[int, int] = {}
    for start in by_id:
        stack = [start]
        while stack:  # not recursion: rounds of erasing make long chains
            number = stack[-1]
            open_ones = [other for other in by_id[number].needs if other in by_id and other not in depth]
            if open_ones:
                stack.extend(open_ones)
                continue
            depth[number] = 1 + max((depth[other] for other in by_id[number].needs if other in by_id), default=0)
            stack.pop()
    return sorted(jobs, key=lambda job: (depth[job.id], job.rule, job.id))
