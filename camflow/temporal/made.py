"""The embedded set of feature sequences: actions with a telling core, vague limbs, and backgrounds.

Every video is a pure function of (seed, split, index), so its bytes do not depend on how many there are. An action has
three phases. Its core has a feature of its own that is hard to miss. What comes before and after it, the limbs, has a
weaker feature, half of it shared with another class: a network that looks for the core alone gets every label right
and every segment too short, which is what hiding is to mend. Background stretches have features that tell nothing,
some of them as strong as a core. An unfinished action, limbs without a core, is annotated as ambiguous.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from camflow.errors import ConfigError
from camflow.store import StoreWriter
from camflow.temporal.data import Video, write_sequences

SPLITS = ("train", "val")
NAMES = ("bow", "climb", "drum", "fling", "hop", "juggle", "kneel", "lunge")
BACKGROUNDS = 6  # features that tell nothing
DURATION = (60.0, 120.0)  # seconds of a video
LENGTH = (10.0, 20.0)  # seconds of an action
GAP = 4.0  # least seconds between two things that happen
CORE = (0.25, 0.4)  # share of an action's length
ACTIONS = (0.5, 0.3, 0.2)  # probability of 1, 2, 3 actions
SECOND_CLASS = 0.15  # probability that a video of several actions has a second class
UNFINISHED = 0.3  # probability of an ambiguous stretch


@dataclass(frozen=True)
class MadeParams:
    """What to draw; every field is a key of the config.

    Attributes:
        seed: of everything.
        train, val: numbers of videos.
        classes: C, three to eight.
        features: D.
        rate: features per second before resampling.
        steps: T, to which every video is resampled.
        core, limb, noise: length of the core's and the limbs' features, standard deviation of a feature's noise.
    """

    seed: int = 0
    train: int = 120
    val: int = 80
    classes: int = 6
    features: int = 32
    rate: float = 4.0
    steps: int = 200
    core: float = 4.0
    limb: float = 2.0
    noise: float = 0.25

    def __post_init__(self):
        if not 3 <= self.classes <= len(NAMES):  # of two, each would share all of its limbs with the other
            raise ConfigError(f"made.classes must be from 3 to {len(NAMES)}, not {self.classes}")
        if self.features < 2 * self.classes + BACKGROUNDS:
            raise ConfigError(f"made.features must be at least {2 * self.classes + BACKGROUNDS} for that many classes")
        for name in ("train", "val", "steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"made.{name} must be at least 1, not {getattr(self, name)}")
        if not self.rate > 0:
            raise ConfigError(f"made.rate must be above 0 features per second, not {self.rate}")

    @property
    def class_names(self) -> tuple[str, ...]:
        return NAMES[: self.classes]


def draw_video(params: MadeParams, split: str, index: int) -> tuple[Video, np.ndarray]:
    """Draw one video: its annotations and float32 features [n, D], n = duration times rate."""
    rng = np.random.default_rng([params.seed, SPLITS.index(split), index])
    duration = round(float(rng.uniform(*DURATION)), 2)
    count = int(rng.choice(len(ACTIONS), p=ACTIONS)) + 1
    first = index % params.classes
    second = (first + int(rng.integers(1, params.classes))) % params.classes
    classes = [first] * count
    if count > 1 and rng.random() < SECOND_CLASS:
        classes[-1] = second
    unfinished = rng.random() < UNFINISHED
    lengths = rng.uniform(*LENGTH, count + unfinished)
    order = rng.permutation(count + unfinished)
    places = _places(duration, lengths, order, rng)

    directions = _directions(params)
    n = max(1, round(duration * params.rate))
    seconds = (np.arange(n) + 0.5) / params.rate
    signal = _background(params, directions[2 * params.classes :], seconds, rng)
    segments, ambiguous = [], []
    for number, (start, end) in enumerate(places):
        inside = (seconds >= start) & (seconds < end)
        whole = number < count
        c = classes[number] if whole else first
        signal[inside] = params.limb * _limb(directions, c, params.classes)
        share, offset = rng.uniform(*CORE), rng.uniform(0.3, 0.7)
        if whole:
            begin = start + offset * (1 - share) * (end - start)
            core = (seconds >= begin) & (seconds < begin + share * (end - start))
            signal[core] = params.core * directions[c]
            segments.append((c, start, end))
        else:
            ambiguous.append((start, end))
    signal += params.noise * rng.standard_normal(signal.shape)
    video = Video(
        f"{split}_{index:05d}",
        tuple(sorted(set(classes))),
        np.array(sorted(segments, key=lambda row: row[1]), np.float64),
        np.array(ambiguous, np.float64).reshape(-1, 2),
        n / params.rate,
    )
    return video, signal.astype(np.float32)


def _places(
    duration: float, lengths: np.ndarray, order: np.ndarray, rng: np.random.Generator
) -> list[tuple[float, float]]:
    """Start and end of each thing that happens, apart from each other; times have two decimals."""
    lengths = lengths * min(1.0, (duration - GAP * (len(lengths) + 1)) / lengths.sum())
    free = duration - lengths.sum() - GAP * (len(lengths) + 1)
    gaps = GAP + free * np.diff(np.sort(rng.random(len(lengths))), prepend=0)
    places, now = [(0.0, 0.0)] * len(lengths), 0.0
    for gap, item in zip(gaps, order, strict=True):
        start, now = now + gap, now + gap + lengths[item]
        places[item] = round(start, 2), round(now, 2)
    return places


def _directions(params: MadeParams) -> np.ndarray:
    """Orthonormal features (2 C + backgrounds, D): cores, limbs, backgrounds."""
    rng = np.random.default_rng([params.seed, len(SPLITS)])
    square = np.linalg.qr(rng.standard_normal((params.features, params.features)))[0]
    return square[: 2 * params.classes + BACKGROUNDS]


def _limb(directions: np.ndarray, c: int, classes: int) -> np.ndarray:
    """Unit feature of a class's limbs: its own, and as much that it shares with the next class."""
    own, shared = directions[classes + c], directions[classes + (c + 1) % classes]
    return (own + shared) / np.sqrt(2)


def _background(
    params: MadeParams, directions: np.ndarray, seconds: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Stretches of 3 to 9 s, each of one background feature of any strength up to a core's, float64 [n, D]."""
    ends = rng.uniform(3, 9, int(DURATION[1] / 3) + 1).cumsum()
    which = rng.integers(BACKGROUNDS, size=len(ends) + 1)
    strength = rng.uniform(0, params.core, len(ends) + 1)
    stretch = np.searchsorted(ends, seconds)
    return strength[stretch, None] * directions[which[stretch]]


def made_videos(params: MadeParams, split: str) -> Iterator[tuple[Video, np.ndarray]]:
    """Yield the videos of a split with their features."""
    if split not in SPLITS:
        raise ConfigError(f"the made sequences have the splits {' and '.join(SPLITS)}, not '{split}'")
    return (draw_video(params, split, index) for index in range(getattr(params, split)))


def write_made(params: MadeParams, split: str, writer: StoreWriter) -> None:
    """Write a split into an open ``StoreWriter(stage="sequences", class_names=params.class_names)``."""
    write_sequences(made_videos(params, split), writer, steps=params.steps)
