"""The embedded dataset "parts": drawn creatures with a telling head and a vague body, in VOC layout.

Every image is a pure function of (seed, split, index), so its bytes do not depend on how many images there are. An
image is built back to front from *sprites* (a colour, a coverage and a head mask on a small window): a background, a
few distractors, one to three creatures, perhaps a distractor in front, then light and noise. `docs/parts.md` says what
each ingredient is there for.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image
from tqdm import tqdm

from camflow.data.palette import voc_palette, write_label_map
from camflow.errors import ConfigError, DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPLITS = ("train", "val")
NAMES = ("marlu", "tokka", "brindo", "quib", "zefra", "oonk", "pellow", "drusk", "yaffin", "gromo", "lisset", "vunt")
WATER_CLASS = 0  # the class that lives at the water: the one context that co-occurs
STRAY_WATER = 0.06  # share of the images without that class that show water nonetheless
OBJECT_COUNTS = (0.45, 0.37, 0.18)  # probability of 1, 2, 3 creatures
SAME_CLASS = 0.2  # probability that a further creature repeats a class that is already there
MIN_VISIBLE, MIN_HEAD = 0.5, 0.5  # least share of a creature, and of its head, that those in front may leave visible
MIN_FRAMED = 0.7  # least share of a creature inside the frame
PLACE_TRIES = 12
MARKER = "parts.json"  # the parameters, and the proof that a folder is ours to replace


@dataclass(frozen=True)
class PartsParams:
    """What to draw; every field is a key of the config."""

    seed: int = 0
    train: int = 1600  # images
    val: int = 300  # images
    size: int = 96  # side of the square images, pixels
    classes: int = 6
    context: float = 0.8  # probability of water where class 0 is present

    def __post_init__(self) -> None:
        _check_int("seed", self.seed, 0, 2**63 - 1)
        _check_int("train", self.train, 1, 99_999)
        _check_int("val", self.val, 1, 99_999)
        _check_int("size", self.size, 48, 1024)
        _check_int("classes", self.classes, 2, len(NAMES))
        number = isinstance(self.context, int | float) and not isinstance(self.context, bool)
        if not number or not 0 <= self.context <= 1:
            raise ConfigError(f"parts.context must be a number from 0 to 1, not {self.context!r}.")

    @property
    def class_names(self) -> tuple[str, ...]:
        return NAMES[: self.classes]


def _check_int(key: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"parts.{key} must be a whole number from {low} to {high}, not {value!r}.")


# ---------------------------------------------------------------------------------------------------- creatures


@dataclass(frozen=True)
class Species:
    """What the creatures of one class have in common. Hues are in turns (0 to 1)."""

    name: str
    head_shape: str  # key of HEAD_SHAPES
    head_hue: float
    head_marking: int  # 0: dark rim, 1: pale half
    texture: str  # key of TEXTURES; shared by the two classes of a pair
    body_hue: float  # mean over the class; the spread within a class is about as large as the shift within a pair
    girth: float  # mean ratio of the body's height to its length


# Radius of the outline at angle a (radians) over the nominal head radius.
HEAD_SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "disc": lambda a: np.ones_like(a),
    "triangle": lambda a: _polygon_radius(a, 3) * 1.25,
    "star": lambda a: 0.95 + 0.3 * np.cos(5 * a),
    "square": lambda a: _polygon_radius(a, 4) * 1.2,
    "clover": lambda a: 0.95 + 0.28 * np.cos(3 * a),
    "bow": lambda a: 0.9 + 0.38 * np.cos(2 * a),
}
HEAD_HUES = (0.00, 0.15, 0.84, 0.50, 0.33, 0.68)  # red, yellow, magenta, cyan, green, blue
PAIR_HUES = (0.09, 0.28, 0.62, 0.95, 0.45, 0.77)  # body colours, one per pair of classes

# Tone of the coat (-1 dark to 1 pale) at body coordinates u (along) and v (down), in half body lengths.
TEXTURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "stripes": lambda u, v: np.sin(14 * u + 2 * np.sin(3 * v)),
    "spots": lambda u, v: 1.6 * np.sin(11 * u) * np.sin(11 * v) - 0.3,
    "chevrons": lambda u, v: np.sin(12 * (u + 0.9 * np.abs(v))),
    "rings": lambda u, v: np.sin(15 * np.hypot(u, v)),
    "net": lambda u, v: np.maximum(np.sin(12 * (u + v)), np.sin(12 * (u - v))),
    "bands": lambda u, v: np.sin(16 * v),
}


def _polygon_radius(angle: np.ndarray, sides: int) -> np.ndarray:
    sector = 2 * math.pi / sides
    return math.cos(sector / 2) / np.cos(angle % sector - sector / 2)


@lru_cache(maxsize=len(NAMES))
def species(index: int) -> Species:
    """Class `index`: a head of its own, a body that differs from its neighbour's (index ^ 1) only on average."""
    side = -1 if index % 2 == 0 else 1
    block = index // 6  # classes 7 to 12 reuse the hues and shapes of heads in other combinations
    return Species(
        name=NAMES[index],
        head_shape=tuple(HEAD_SHAPES)[(index + 2 * block) % 6],
        head_hue=HEAD_HUES[index % 6],
        head_marking=(index + block) % 2,
        texture=tuple(TEXTURES)[index // 2],
        body_hue=PAIR_HUES[index // 2] + 0.03 * side,
        girth=0.66 + 0.04 * side,
    )


REACH = 1.65  # no tail, foot or head is farther from the middle of the trunk, in half trunk lengths


@dataclass(frozen=True)
class Sprite:
    """Something to paint on a window of (h, w) pixels."""

    colour: np.ndarray  # (h, w, 3) float32 RGB, 0 to 1
    cover: np.ndarray  # (h, w) float32, share of the pixel covered; soft at the outline
    head: np.ndarray  # (h, w) bool

    @property
    def solid(self) -> np.ndarray:
        """(h, w) bool: the pixels that count as the object."""
        return self.cover >= 0.5


def _hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """RGB (3,) float32 of one colour; the hue in turns, any real."""
    ramp = np.abs((hue + np.array([0, 2 / 3, 1 / 3])) % 1 * 6 - 3) - 1
    return (value * (1 - saturation + saturation * np.clip(ramp, 0, 1))).astype(np.float32)


def _capsule(x: np.ndarray, y: np.ndarray, a: tuple, b: tuple, radius: float) -> np.ndarray:
    """Signed distance to the segment from a to b thickened by `radius` (negative inside)."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    t = np.clip(((x - a[0]) * dx + (y - a[1]) * dy) / (dx * dx + dy * dy), 0, 1)
    return np.hypot(x - a[0] - t * dx, y - a[1] - t * dy) - radius


def _window(half: float) -> tuple[np.ndarray, np.ndarray]:
    """Open pixel grid around (0, 0): x (1, n), y (n, 1) float32, n = 2 * ceil(half) + 1."""
    axis = np.arange(-math.ceil(half), math.ceil(half) + 1, dtype=np.float32)
    return axis[None, :], axis[:, None]


def _turned(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    c, s = math.cos(angle), math.sin(angle)
    return c * x + s * y, c * y - s * x


def _coat(texture: str, u: np.ndarray, v: np.ndarray, hue: float, rng: np.random.Generator) -> np.ndarray:
    """(h, w, 3) float32: two muted tones of one hue in a pattern, lit from above."""
    stretch, shift = rng.uniform(0.8, 1.25), rng.uniform(-0.3, 0.3, 2)
    tone = np.tanh(2.5 * TEXTURES[texture](stretch * u + shift[0], stretch * v + shift[1]))
    contrast = rng.uniform(0.12, 0.3)
    light = 1 - contrast + contrast * tone - 0.22 * np.clip(v, -1, 1)
    return light[..., None] * _hsv(hue, rng.uniform(0.25, 0.55), rng.uniform(0.5, 0.85))


def _body_distance(u: np.ndarray, v: np.ndarray, girth: float, neck: tuple, rng: np.random.Generator) -> np.ndarray:
    """Signed distance to trunk, legs, tail and neck, in half body lengths; exact at the outline of the limbs only."""
    trunk = (np.hypot(u, v / girth) - 1) * girth
    parts = [trunk, _capsule(u, v, (0.6, -0.1), neck, 0.16)]
    for hip in (-0.6, -0.25, 0.3, 0.65):
        foot = (hip + rng.uniform(-0.25, 0.25), girth + rng.uniform(0.15, 0.3))
        parts.append(_capsule(u, v, (hip, 0.5 * girth), foot, 0.09))
    tip = (rng.uniform(-1.35, -1.15), rng.uniform(-0.7, 0.3))
    parts.append(_capsule(u, v, (-0.85, 0.0), tip, 0.07))
    return np.minimum.reduce(parts)


def _paint_head(p: np.ndarray, q: np.ndarray, kind: Species, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Signed distance (n,) in head radii and colour (n, 3) of a head, at points (n,) in head radii from its centre."""
    radius, angle = np.hypot(p, q), np.arctan2(q, p)
    distance = radius - HEAD_SHAPES[kind.head_shape](angle)
    hue = kind.head_hue + rng.normal(0, 0.02)
    colour = np.tile(_hsv(hue, rng.uniform(0.65, 1.0), rng.uniform(0.7, 1.0)), (len(p), 1))
    if kind.head_marking == 0:
        colour[distance > -0.28] *= 0.35
    else:
        colour[q > 0.1] = 0.35 * colour[q > 0.1] + 0.65
    eye = np.hypot(p - 0.15, q + 0.25)
    colour[eye < 0.36] = 0.95
    colour[eye < 0.2] = 0.05
    return distance, colour


def draw_creature(kind: Species, scale: float, rng: np.random.Generator) -> Sprite:
    """One creature in a random pose; `scale` is half the length of its trunk, in pixels."""
    x, y = _window(REACH * scale)
    facing = 1 if rng.random() < 0.5 else -1
    u, v = _turned(facing * x / scale, y / scale, float(np.clip(rng.normal(0, 0.15), -0.3, 0.3)))
    girth = float(np.clip(rng.normal(kind.girth, 0.06), 0.5, 0.85))
    lift = rng.uniform(-0.9, 0.1)  # how high it holds its head, radians above the horizon
    neck = (0.85 * math.cos(lift), 0.8 * math.sin(lift))
    body = _body_distance(u, v, girth, neck, rng)
    colour = _coat(kind.texture, u, v, kind.body_hue + rng.normal(0, 0.035), rng)
    head_radius = rng.uniform(0.22, 0.28)
    p, q = _turned((u - neck[0]) / head_radius, (v - neck[1]) / head_radius, rng.normal(0, 0.25))
    near = p * p + q * q < 1.6**2  # the widest outline and its soft rim; the rest of the window needs no head
    head_distance, head_colour = _paint_head(p[near], q[near], kind, rng)
    head_cover = np.zeros_like(u)
    head_cover[near] = np.clip(0.5 - head_distance * head_radius * scale, 0, 1)
    colour[near] += head_cover[near, None] * (head_colour - colour[near])
    cover = np.maximum(np.clip(0.5 - body * scale, 0, 1), head_cover)
    return _cropped(Sprite(colour.astype(np.float32), cover.astype(np.float32), head_cover >= 0.5))


def draw_distractor(textures: tuple[str, ...], scale: float, rng: np.random.Generator) -> Sprite:
    """A stone, a crate or a wedge of no class, plain or in the coat of some creature, but without limbs and head."""
    x, y = _window(1.5 * scale)
    u, v = _turned(x / scale, y / scale, rng.uniform(0, 2 * math.pi))
    girth = rng.uniform(0.4, 1.0)
    shape = rng.integers(3)
    if shape == 0:
        distance = (np.hypot(u, v / girth) - 1) * girth
    elif shape == 1:
        distance = np.maximum(np.abs(u) - 0.9, np.abs(v) - 0.9 * girth)
    else:
        distance = np.hypot(u, v) - _polygon_radius(np.arctan2(v, u), 3) * 1.2
    if rng.random() < 0.4:
        colour = _coat(textures[rng.integers(len(textures))], u, v, rng.random(), rng)
    else:
        plain = _hsv(rng.random(), rng.uniform(0.05, 0.6), rng.uniform(0.3, 0.9))
        colour = (1 - 0.25 * np.clip(v, -1, 1))[..., None] * plain
    cover = np.clip(0.5 - distance * scale, 0, 1)
    return _cropped(Sprite(colour.astype(np.float32), cover.astype(np.float32), np.zeros(cover.shape, bool)))


def _cropped(sprite: Sprite) -> Sprite:
    rows, columns = np.flatnonzero(sprite.cover.any(1)), np.flatnonzero(sprite.cover.any(0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Sprite(sprite.colour[box], sprite.cover[box], sprite.head[box])


# --------------------------------------------------------------------------------------------------- backgrounds


@lru_cache(maxsize=32)
def _upsampler(cells: int, size: int) -> np.ndarray:
    """(size, cells + 1) float32 matrix that interpolates `cells + 1` knots to `size` samples, smoothly."""
    position = (np.arange(size) + 0.5) / size * cells
    knot = np.minimum(position.astype(int), cells - 1)
    t = position - knot
    t = t * t * (3 - 2 * t)
    matrix = np.zeros((size, cells + 1), np.float32)
    matrix[np.arange(size), knot] = 1 - t
    matrix[np.arange(size), knot + 1] = t
    return matrix


def _clouds(size: int, cells_y: int, cells_x: int, rng: np.random.Generator) -> np.ndarray:
    """(size, size) float32 smooth noise of about unit variance at the knots, with that many cells per side."""
    knots = rng.standard_normal((cells_y + 1, cells_x + 1), dtype=np.float32)
    return _upsampler(cells_y, size) @ knots @ _upsampler(cells_x, size).T


def _ground(size: int, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Tone (size, size) of a background, roughly -1 to 1, by kind."""
    slow = _clouds(size, 3, 3, rng)
    if kind == "meadow":  # upright blades
        return 0.4 * slow + 0.5 * _clouds(size, 10, 40, rng)
    if kind == "sand":  # grains
        return 0.5 * slow + 0.35 * _clouds(size, 44, 44, rng)
    if kind == "rock":  # veins
        return 0.4 * slow + 1.2 * np.exp(-6 * np.abs(_clouds(size, 7, 7, rng))) - 0.4
    if kind == "heath":  # tufts
        return 0.4 * slow + 0.6 * np.tanh(3 * _clouds(size, 14, 14, rng))
    rows = np.arange(size, dtype=np.float32)[:, None] / size  # water: horizontal waves
    return 0.25 * slow + 0.6 * np.sin(2 * math.pi * (rng.uniform(7, 11) * rows) + 1.5 * _clouds(size, 5, 5, rng))


GROUND_HUES = {"meadow": 0.27, "sand": 0.12, "rock": 0.6, "heath": 0.92, "water": 0.55}
GROUND_SATURATION = {"meadow": 0.45, "sand": 0.4, "rock": 0.1, "heath": 0.25, "water": 0.55}
DRY = ("meadow", "sand", "rock", "heath")


def draw_background(size: int, kind: str, rng: np.random.Generator) -> np.ndarray:
    """(size, size, 3) float32 photo of bare ground, 0 to 1."""
    base = _hsv(
        GROUND_HUES[kind] + rng.normal(0, 0.03),
        GROUND_SATURATION[kind] * rng.uniform(0.7, 1.3),
        rng.uniform(0.45, 0.7),
    )
    return (1 + rng.uniform(0.2, 0.4) * _ground(size, kind, rng))[..., None] * base


# -------------------------------------------------------------------------------------------------------- scenes


@dataclass
class Scene:
    """One image in the making, and its truth."""

    photo: np.ndarray  # (size, size, 3) float32, 0 to 1
    instance: np.ndarray  # (size, size) uint8, 0 background, k the k-th creature
    head: np.ndarray  # (size, size) bool: visible head pixels
    classes: list[int] = field(default_factory=list)  # class index of each creature
    areas: list[tuple[int, int]] = field(default_factory=list)  # its pixels and head pixels in the frame, if unhidden
    cut: list[bool] = field(default_factory=list)  # does it reach over the frame

    def visible(self) -> np.ndarray:
        """(creatures + 1, 2) int: visible pixels and visible head pixels of each instance, the background first."""
        return _count(self.instance, self.head, len(self.classes) + 1)


def _count(instance: np.ndarray, head: np.ndarray, length: int) -> np.ndarray:
    """(length, 2) int: pixels and head pixels of each instance number."""
    return np.stack([np.bincount(part.ravel(), minlength=length) for part in (instance, instance[head])], axis=1)


def _frame(sprite: Sprite, x: int, y: int, size: int) -> tuple[tuple, tuple]:
    """Index of the part of the photo that the sprite covers with its corner at (x, y), and of that part of it."""
    h, w = sprite.cover.shape
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, size), min(y + h, size)
    return np.s_[y0:y1, x0:x1], np.s_[y0 - y : y1 - y, x0 - x : x1 - x]


def _leaves_enough(scene: Scene, sprite: Sprite, on: tuple, of: tuple) -> bool:
    """Would the sprite at this place stay recognisable itself, and leave those behind it so?"""
    solid = sprite.solid
    if solid[of].sum() < MIN_FRAMED * solid.sum():
        return False
    lost = _count(scene.instance[on] * solid[of], scene.head[on], len(scene.classes) + 1)[1:]
    if not lost.any():
        return True
    least = np.array(scene.areas) * (MIN_VISIBLE, MIN_HEAD)
    return bool((scene.visible()[1:] - lost >= least).all())


def _offset(size: int, head: np.ndarray, cut: bool, rng: np.random.Generator) -> int:
    """Where along one axis a sprite starts: the frame may cut (a quarter of) its body, but not its head.

    `head` (n,) bool tells where along the axis the sprite has head pixels. A sprite longer than the frame fills it.
    """
    n = len(head)
    over = max(n - size, n // 4 if cut else 0)
    low, high = -over, size - n + over
    if head.any():
        first, last = np.flatnonzero(head)[[0, -1]]
        low, high = max(low, -first), min(high, size - 1 - last)
    return int(rng.integers(low, high + 1))


def place(scene: Scene, sprite: Sprite, class_index: int | None, rng: np.random.Generator) -> bool:
    """Paint the sprite at a random free-enough place; False if none of a few places will do."""
    size = len(scene.photo)
    for left in reversed(range(PLACE_TRIES)):
        # The last try keeps the sprite in the frame, where a first creature always has room: no image is empty.
        x, y = (_offset(size, sprite.head.any(axis), bool(left), rng) for axis in (0, 1))
        on, of = _frame(sprite, x, y, size)
        if _leaves_enough(scene, sprite, on, of):
            break
    else:
        return False
    solid, cover = sprite.solid, sprite.cover[of][..., None]
    scene.photo[on] += cover * (sprite.colour[of] - scene.photo[on])
    if class_index is not None:
        scene.classes.append(class_index)
        scene.areas.append((int(solid[of].sum()), int(sprite.head[of].sum())))
        scene.cut.append(bool(solid[of].sum() < solid.sum()))
    scene.instance[on][solid[of]] = 0 if class_index is None else len(scene.classes)
    scene.head[on][solid[of]] = sprite.head[of][solid[of]]
    return True


def choose_classes(n_classes: int, rng: np.random.Generator) -> list[int]:
    """Class indices of the creatures of one image, 1 to 3 of them."""
    count = 1 + int(rng.choice(3, p=OBJECT_COUNTS))
    chosen = [int(rng.integers(n_classes))]
    while len(chosen) < count:
        repeat = rng.random() < SAME_CLASS
        chosen.append(chosen[int(rng.integers(len(chosen)))] if repeat else int(rng.integers(n_classes)))
    return chosen


def illuminate(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 photo under a coloured light that falls off to one side, with sensor noise."""
    size = len(photo)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    angle, slope = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.25)
    light = rng.uniform(0.75, 1.15) * (1 + slope * (math.cos(angle) * axis[None, :] + math.sin(angle) * axis[:, None]))
    cast = rng.normal(1, 0.04, 3).astype(np.float32)
    noise = rng.uniform(0.01, 0.04) * rng.standard_normal(photo.shape, dtype=np.float32)
    return (np.clip(photo * light[..., None].astype(np.float32) * cast + noise, 0, 1) * 255 + 0.5).astype(np.uint8)


def draw_scene(params: PartsParams, split: str, index: int) -> tuple[np.ndarray, Scene]:
    """The photo, uint8 (size, size, 3), and the truth of image `index` of a split."""
    rng = np.random.default_rng([params.seed, SPLITS.index(split), index])
    size, unit = params.size, params.size / 96
    wanted = choose_classes(params.classes, rng)
    wet = rng.random() < (params.context if WATER_CLASS in wanted else STRAY_WATER)
    ground = "water" if wet else DRY[rng.integers(len(DRY))]
    scene = Scene(
        photo=draw_background(size, ground, rng).astype(np.float32),
        instance=np.zeros((size, size), np.uint8),
        head=np.zeros((size, size), bool),
    )
    textures = tuple(dict.fromkeys(species(k).texture for k in range(params.classes)))
    for _ in range(rng.integers(1, 4)):
        place(scene, draw_distractor(textures, unit * rng.uniform(6, 16), rng), None, rng)
    for k in wanted:
        scale = unit * 18 * 2 ** rng.uniform(0, 1)
        place(scene, draw_creature(species(k), scale, rng), k, rng)
    if rng.random() < 0.3:
        place(scene, draw_distractor(textures, unit * rng.uniform(5, 10), rng), None, rng)
    return illuminate(scene.photo, rng), scene


# --------------------------------------------------------------------------------------------------------- files


def image_id(split: str, index: int) -> str:
    """`train_00001` is image 0 of train."""
    return f"{split}_{index + 1:05d}"


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """xmin, ymin, xmax, ymax of a non-empty mask: 1-based and inclusive, as VOC counts."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]) + 1, int(rows[0]) + 1, int(columns[-1]) + 1, int(rows[-1]) + 1


def _box_xml(mask: np.ndarray, indent: str) -> str:
    tags = ("xmin", "ymin", "xmax", "ymax")
    inner = "".join(f"{indent}\t<{tag}>{value}</{tag}>\n" for tag, value in zip(tags, _box(mask), strict=True))
    return f"{indent}<bndbox>\n{inner}{indent}</bndbox>\n"


def annotation_xml(name: str, scene: Scene, class_names: tuple[str, ...]) -> str:
    """The VOC annotation of an image: every creature with its box, and its head as a VOC `part`."""
    height, width = scene.instance.shape
    visible = scene.visible()
    lines = [
        f"<annotation>\n\t<folder>parts</folder>\n\t<filename>{escape(name)}.png</filename>\n",
        f"\t<size>\n\t\t<width>{width}</width>\n\t\t<height>{height}</height>\n\t\t<depth>3</depth>\n\t</size>\n",
        "\t<segmented>1</segmented>\n",
    ]
    for k, class_index in enumerate(scene.classes, start=1):
        mask = scene.instance == k
        occluded = int(visible[k, 0] < scene.areas[k - 1][0])
        box, head_box = _box_xml(mask, "\t\t"), _box_xml(mask & scene.head, "\t\t\t")
        lines.append(
            f"\t<object>\n\t\t<name>{escape(class_names[class_index])}</name>\n\t\t<pose>Unspecified</pose>\n"
            f"\t\t<truncated>{int(scene.cut[k - 1])}</truncated>\n\t\t<occluded>{occluded}</occluded>\n"
            f"\t\t<difficult>0</difficult>\n{box}"
            f"\t\t<part>\n\t\t\t<name>head</name>\n{head_box}\t\t</part>\n\t</object>\n"
        )
    return "".join([*lines, "</annotation>\n"])


def _write_image(root: Path, name: str, photo: np.ndarray, scene: Scene, params: PartsParams) -> list[str]:
    """Write photo, masks and boxes of one image; return the names of the classes in it, in class order."""
    # Noise does not compress: a higher level costs time and saves nothing.
    Image.fromarray(photo).save(root / "JPEGImages" / f"{name}.png", compress_level=1)
    class_of = np.array([0, *(k + 1 for k in scene.classes)], np.uint8)
    for folder, label_map in (("SegmentationClass", class_of[scene.instance]), ("SegmentationObject", scene.instance)):
        write_label_map(root / folder / f"{name}.png", label_map)
    (root / "Annotations" / f"{name}.xml").write_text(annotation_xml(name, scene, params.class_names), encoding="utf-8")
    return [params.class_names[k] for k in sorted(set(scene.classes))]


def _write_dataset(root: Path, params: PartsParams) -> None:
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject", "Annotations", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    labels: dict[str, list[str]] = {}
    with tqdm(total=params.train + params.val, desc="drawing parts", unit="img") as bar:
        for split, count in zip(SPLITS, (params.train, params.val), strict=True):
            names = [image_id(split, index) for index in range(count)]
            for index, name in enumerate(names):
                labels[name] = _write_image(root, name, *draw_scene(params, split, index), params)
                bar.update()
            (root / "ImageSets/Segmentation" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    (root / "labels.json").write_text(json.dumps(labels, indent=0) + "\n", encoding="utf-8")
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in params.class_names), encoding="utf-8")
    (root / MARKER).write_text(json.dumps(asdict(params), indent=2) + "\n", encoding="utf-8")


def generate_parts(folder: Path, params: PartsParams) -> None:
    """Draw the dataset into `folder`, all or nothing.

    An earlier "parts" dataset there is replaced. Any other folder with something in it is left alone.

    Raises:
        DataError: `folder` holds something that this function did not make.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; the parts dataset needs a folder of that name.")
    occupied = folder.is_dir() and any(folder.iterdir())
    if occupied and not (folder / MARKER).is_file():
        raise DataError(
            f"{folder} holds files that are not a parts dataset ({MARKER} is missing); name another folder."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Named like every temporary file, so that `camflow gc` finds what a kill left.
    workshop = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    workshop.mkdir()
    try:
        _write_dataset(workshop / "new", params)
        if occupied:
            os.replace(folder, workshop / "old")
        os.replace(workshop / "new", folder)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------- a look


def contact_sheet(folder: Path, n: int = 24, split: str = "val") -> Figure:
    """The first `n` photos of a split with the outline of every creature in its class colour, and their labels."""
    from matplotlib.figure import Figure  # here, since drawing the dataset needs no matplotlib

    folder = Path(folder)
    names = (folder / "ImageSets/Segmentation" / f"{split}.txt").read_text().split()[:n]
    labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    palette = voc_palette() / 255
    columns = min(6, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(2 * columns, 2.2 * rows), layout="constrained")
    for axes, name in zip(figure.subplots(rows, columns, squeeze=False).flat, names, strict=False):
        axes.imshow(np.asarray(Image.open(folder / "JPEGImages" / f"{name}.png")), interpolation="nearest")
        instance = np.asarray(Image.open(folder / "SegmentationObject" / f"{name}.png"))
        class_map = np.asarray(Image.open(folder / "SegmentationClass" / f"{name}.png"))
        for k in range(1, instance.max() + 1):
            colour = palette[class_map[instance == k][0]]
            axes.contour(instance == k, levels=[0.5], colors=[colour], linewidths=1)
        axes.set_title(", ".join(labels[name]), fontsize=8)
    for axes in figure.axes:
        axes.set_axis_off()
    return figure
