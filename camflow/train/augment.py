"""Seeded transforms of training images: small functions of arrays and a numpy generator.

The recipe of IRN (Ahn et al. 2019) and its descendants: long side drawn from a range (bicubic), normalise, mirror with
probability 1/2, crop or pad to a square with zeros AFTER normalisation (the mean colour) and 255 (ignore) in label
maps. A photo is uint8 ``(H, W, 3)``, an input float32 ``(H, W, 3)`` until ``to_chw``, a label map uint8 ``(H, W)`` or
None throughout.

Further augmentations register by name and place: ``photo`` ones see uint8 before normalisation, ``input`` ones the
normalised, cropped array.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from camflow.errors import ConfigError, did_you_mean
from camflow.train.hiding import hide_and_seek, pixel_dropout
from camflow.train.randaugment import rand_augment, random_erasing

IGNORE = 255

Augmentation = Callable[..., np.ndarray]
AUGMENTATIONS: dict[str, tuple[str, Augmentation]] = {}  # name -> (place, function(array, rng, **params) -> array)


def augmentation(name: str, place: str) -> Callable[[Augmentation], Augmentation]:
    """Register ``function(array, rng, **params) -> array`` under a config name; place is ``photo`` or ``input``."""

    def register(function: Augmentation) -> Augmentation:
        AUGMENTATIONS[name] = (place, function)
        return function

    return register


def check_augmentations(augment: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ``ConfigError`` for a name that is not registered."""
    for name in augment:
        if name not in AUGMENTATIONS:
            raise ConfigError(f"unknown augmentation '{name}'{did_you_mean(name, AUGMENTATIONS)}")


def apply_augmentations(
    array: np.ndarray, place: str, augment: Mapping[str, Mapping[str, Any]], rng: np.random.Generator
) -> np.ndarray:
    """Apply those of ``augment`` ({name: parameters}) that belong to ``place``, in alphabetical order."""
    for name in sorted(augment):
        where, function = AUGMENTATIONS[name]
        if where == place:
            array = function(array, rng, **augment[name])
    return array


# --- geometry --------------------------------------------------------------------------------------------------------


def resize(image: np.ndarray, size: tuple[int, int], *, nearest: bool = False) -> np.ndarray:
    """Resize uint8 ``(H, W[, 3])`` to ``size`` (height, width), bicubic as Pillow does it or nearest for labels."""
    if image.shape[:2] == tuple(size):
        return image
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), method))


def long_side_size(size: tuple[int, int], long: int) -> tuple[int, int]:
    """Return (height, width) with the longer side ``long`` and the shorter one rounded, at least 1."""
    factor = long / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def random_long_side(
    image: np.ndarray, label_map: np.ndarray | None, bounds: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None]:
    """Resize so that the longer side is uniform over the integers ``bounds[0] .. bounds[1]``, both included."""
    long = int(rng.integers(bounds[0], bounds[1] + 1))
    size = long_side_size(image.shape[:2], long)
    return resize(image, size), None if label_map is None else resize(label_map, size, nearest=True)


def random_scale(
    image: np.ndarray, label_map: np.ndarray | None, bounds: tuple[float, float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None]:
    """Resize both sides by a factor uniform over ``bounds``."""
    factor = rng.uniform(*bounds)
    size = max(1, round(image.shape[0] * factor)), max(1, round(image.shape[1] * factor))
    return resize(image, size), None if label_map is None else resize(label_map, size, nearest=True)


def random_flip(
    image: np.ndarray, label_map: np.ndarray | None, rng: np.random.Generator, p: float = 0.5
) -> tuple[np.ndarray, np.ndarray | None]:
    """Mirror left to right with probability ``p``."""
    if rng.random() >= p:
        return image, label_map
    return image[:, ::-1], None if label_map is None else label_map[:, ::-1]


def random_crop_pad(
    image: np.ndarray, label_map: np.ndarray | None, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None]:
    """Cut a ``size`` x ``size`` window at random; a side shorter than that is put at a random place in the padding.

    Padding is 0 in the image, which is the mean colour after normalisation, and 255 in the label map.
    """
    spans = [_window(length, size, rng) for length in image.shape[:2]]
    canvas = (slice(*spans[0][0]), slice(*spans[1][0]))
    source = (slice(*spans[0][1]), slice(*spans[1][1]))
    out = np.zeros((size, size, *image.shape[2:]), image.dtype)
    out[canvas] = image[source]
    if label_map is None:
        return out, None
    labels = np.full((size, size), IGNORE, label_map.dtype)
    labels[canvas] = label_map[source]
    return out, labels


def _window(length: int, size: int, rng: np.random.Generator) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (start, stop) in the canvas and (start, stop) in the image along one side."""
    offset = int(rng.integers(0, abs(length - size) + 1))
    common = min(length, size)
    inside = (offset, offset + common)
    return ((0, common), inside) if length >= size else (inside, (0, common))


# --- values ----------------------------------------------------------------------------------------------------------


def normalize(photo: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Return (photo/255 - mean)/std, evaluated in double and rounded to float32."""
    return ((photo / 255.0 - np.asarray(mean)) / np.asarray(std)).astype(np.float32)


def to_chw(image: np.ndarray) -> np.ndarray:
    """Return channels first, contiguous."""
    return np.ascontiguousarray(image.transpose(2, 0, 1))


@augmentation("colour_jitter", "photo")
def colour_jitter(
    photo: np.ndarray,
    rng: np.random.Generator,
    *,
    brightness: float = 0.3,
    contrast: float = 0.3,
    saturation: float = 0.3,
    hue: float = 0.1,
) -> np.ndarray:
    """Change brightness, contrast and saturation by factors in [1 - a, 1 + a] and hue by [-hue, hue] turns.

    The four come in random order. Defaults are those of PSA and SEAM.
    """
    image = Image.fromarray(photo)
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    factors = [rng.uniform(max(0.0, 1 - amount), 1 + amount) for amount in (brightness, contrast, saturation)]
    turn = rng.uniform(-hue, hue)
    for choice in rng.permutation(4):
        image = enhancers[choice](image).enhance(factors[choice]) if choice < 3 else _turn_hue(image, turn)
    return np.asarray(image)


def _turn_hue(image: Image.Image, turn: float) -> Image.Image:
    hsv = np.array(image.convert("HSV"))
    hsv[..., 0] += np.uint8(round(turn * 255) % 256)  # wraps around, as hue does
    return Image.frombytes("HSV", image.size, hsv.tobytes()).convert("RGB")


augmentation("hide_and_seek", "input")(hide_and_seek)
augmentation("pixel_dropout", "input")(pixel_dropout)
augmentation("rand_augment", "photo")(rand_augment)
augmentation("random_erasing", "input")(random_erasing)


# --- the recipe ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainTransform:
    """Photo (and label map) -> normalised square training input.

    Attributes:
        mean, std: of the network.
        crop: side of the square in pixels.
        scale: bounds of the longer side before cropping; None resizes the photo to the square directly.
        hflip: probability of mirroring.
        augment: {name: parameters} of registered augmentations.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: int = 512
    scale: tuple[int, int] | None = (320, 640)
    hflip: float = 0.5
    augment: Mapping[str, Mapping[str, Any]] | None = None

    def __call__(
        self, photo: np.ndarray, rng: np.random.Generator, label_map: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return float32 ``(3, crop, crop)`` and the label map ``(crop, crop)`` (or None)."""
        if self.scale is None:
            size = (self.crop, self.crop)
            photo = resize(photo, size)
            label_map = None if label_map is None else resize(label_map, size, nearest=True)
        else:
            photo, label_map = random_long_side(photo, label_map, self.scale, rng)
        augment = self.augment or {}
        photo = apply_augmentations(photo, "photo", augment, rng)
        image = normalize(photo, self.mean, self.std)
        image, label_map = random_flip(image, label_map, rng, self.hflip)
        image, label_map = random_crop_pad(image, label_map, self.crop, rng)
        image = apply_augmentations(image, "input", augment, rng)
        return to_chw(image), None if label_map is None else np.ascontiguousarray(label_map)


# --- part of a photo ------------------------------------------------------------------------------------------------


def crop_box(size: tuple[int, int], area: tuple[float, float], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw (top, left, height, width) of a part of a photo: Inception's crop, as torchvision has it.

    Share of the area uniform in ``area``, ratio of the sides log-uniform in [3/4, 4/3]; after ten boxes that do not fit
    the largest central one with a ratio in these bounds.
    """
    height, width = size
    low, high = 3 / 4, 4 / 3
    for _ in range(10):
        pixels = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    h, w = min(height, max(1, round(width / low))), min(width, max(1, round(height * high)))
    return (height - h) // 2, (width - w) // 2, h, w


@dataclass(frozen=True)
class ResizedCrop(TrainTransform):
    """Photo -> training input: a random part of it (``crop_box``), resized to the square; ``scale`` is None.

    Attributes:
        area: bounds of the part's share of the photo.
    """

    area: tuple[float, float] = (0.08, 1.0)

    def __call__(
        self, photo: np.ndarray, rng: np.random.Generator, label_map: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        top, left, height, width = crop_box(photo.shape[:2], self.area, rng)
        part = (slice(top, top + height), slice(left, left + width))
        return super().__call__(photo[part], rng, None if label_map is None else label_map[part])
