"""Seed maps: what a localizer hands on, how it is stored, and the two published grids it is read on.

A localizer keeps its raw maps per scale at feature resolution. Everything later stages need (IRN's stride-4 and
full-size maps) is a cheap bilinear reading of them, while the full-size float32 maps themselves would take 50 times the
space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from camflow.errors import DataError
from camflow.store import Store

EPSILON = 1e-5  # added to the per-class maximum in the normalisation (IRN, PSA, AdvCAM)


@dataclass(frozen=True)
class SeedMaps:
    """Raw maps of the classes present in one image.

    Attributes:
        classes: (K,) class indices, 0-based, sorted.
        maps: one (K, h, w) array per scale, >= 0, before any normalisation. Empty when K = 0.
        size: (H, W) of the photo in pixels.
        frame: (H, W) of what the network saw at scale 1; differs from ``size`` when photos are resized first.
        stride: output stride of the network, pixels of the frame per cell at scale 1. The maps cover the frame rounded
            up to whole cells; 1 says that they cover just the frame, whatever their cells.
        absolute: the maps are scores in [0, 1] that keep their unit: readers do not divide them by their maximum.
    """

    classes: np.ndarray
    maps: list[np.ndarray]
    size: tuple[int, int]
    frame: tuple[int, int] | None = None
    stride: int = 16
    absolute: bool = False

    def __post_init__(self):
        if any(len(m) != len(self.classes) for m in self.maps):
            raise ValueError(f"{len(self.classes)} classes but maps of shapes {[m.shape for m in self.maps]}")

    def pack(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Return a float16 array (K, sum of h*w over the scales) and the attributes that ``unpack`` needs.

        Each class is divided by its peak over all scales, so float16 keeps 11 significant bits of every map however
        small its unit is (AdvCAM's maps are about 1000 times smaller than a CAM).

        Raises:
            ValueError: a value is negative or not finite.
        """
        count = len(self.classes)
        flat = [np.asarray(m).reshape(count, m.shape[1] * m.shape[2]) for m in self.maps]
        values = np.concatenate(flat, axis=1) if flat else np.zeros((count, 0), np.float32)
        if not np.isfinite(values).all() or (values < 0).any():
            raise ValueError("seed maps must be finite and not negative")
        peak = values.max(axis=1, initial=0).astype(np.float32)
        safe = np.where(peak > 0, peak, 1).astype(values.dtype)
        scaled = np.minimum(values / safe[:, None], 1).astype(np.float16)
        attrs = {
            "classes": np.asarray(self.classes, np.int32),
            "grids": np.array([m.shape[1:] for m in self.maps], np.int32).reshape(-1, 2),
            "peak": peak,
            "size": np.array(self.size, np.int32),
            "frame": np.array(self.frame or self.size, np.int32),
            "stride": np.int32(self.stride),
            "absolute": np.uint8(self.absolute),
        }
        return scaled, attrs

    @classmethod
    def unpack(cls, array: np.ndarray, attrs: Mapping[str, Any]) -> SeedMaps:
        """Rebuild float32 maps from ``pack``'s array and attributes."""
        peak = np.asarray(attrs["peak"], np.float32)
        grids = [tuple(int(n) for n in grid) for grid in np.asarray(attrs["grids"]).reshape(-1, 2)]
        ends = np.cumsum([h * w for h, w in grids])[:-1] if grids else []
        values = array.astype(np.float32) * peak[:, None]
        parts = np.split(values, ends, axis=1) if grids else []
        return cls(
            classes=np.asarray(attrs["classes"], np.int64).reshape(-1),
            maps=[part.reshape(len(peak), *grid) for part, grid in zip(parts, grids, strict=True)],
            size=_pair(attrs["size"]),
            frame=_pair(attrs["frame"]),
            stride=int(attrs["stride"]),
            absolute=bool(attrs.get("absolute", False)),
        )


def _pair(values: Any) -> tuple[int, int]:
    height, width = (int(n) for n in values)
    return height, width


def read_seed(store: Store, image_id: str) -> SeedMaps:
    """Read the seed maps of one image. Raises ``StoreError`` when the store does not have it."""
    return SeedMaps.unpack(store.read(image_id), store.attrs(image_id))


# --- the two published grids -----------------------------------------------------------------------------------------


def stride4_maps(seed: SeedMaps) -> np.ndarray:
    """IRN's ``cam``: (K, (H-1)//4 + 1, (W-1)//4 + 1) in [0, 1).

    Every scale is resized bilinearly (align_corners False) straight to the stride-4 grid, then summed and normalised.
    A map that covers more than the photo (its last cells hang over the border) is thereby squeezed by up to a cell,
    which ``full_size_maps`` does not do: the two grids sample the same map differently, as in the published code.
    """
    height, width = ((n - 1) // 4 + 1 for n in seed.size)
    return in_unit(seed, summed_maps(seed, (height, width)))


def full_size_maps(seed: SeedMaps) -> np.ndarray:
    """IRN's ``high_res``: (K, H, W) in [0, 1).

    Every scale is resized bilinearly to the frame rounded up to whole cells (for stride 16: 16*ceil(H/16),
    16*ceil(W/16)), the scales are summed, the overhang is cropped. When the network saw a resized photo, the result is
    then resized to the photo. Normalised last.
    """
    frame = seed.frame or seed.size
    canvas = tuple(-(-n // seed.stride) * seed.stride for n in frame)
    total = summed_maps(seed, canvas)[:, : frame[0], : frame[1]]
    if frame != tuple(seed.size):
        total = _resize(total, seed.size)
    return in_unit(seed, total)


def in_unit(seed: SeedMaps, maps: np.ndarray) -> np.ndarray:
    """What was read of a seed, (K, h, w), in the unit of its scores: max-normalised unless the seed is ``absolute``."""
    return maps if seed.absolute else normalise(maps)


def normalise(maps: np.ndarray) -> np.ndarray:
    """Divide each class of (K, H, W) by (its maximum + 1e-5); a class without positive activation is exactly zero."""
    peak = maps.max(axis=(1, 2), keepdims=True, initial=0)
    return np.where(peak > 0, maps / (peak + maps.dtype.type(EPSILON)), maps.dtype.type(0))


def summed_maps(seed: SeedMaps, size: tuple[int, ...]) -> np.ndarray:
    """Sum over the scales, each resized bilinearly (align_corners False) straight to ``size``: (K, *size)."""
    total = np.zeros((len(seed.classes), *size), seed.maps[0].dtype if seed.maps else np.float32)
    for maps in seed.maps:
        total += _resize(maps, size)
    return total


def _resize(maps: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    if not len(maps):
        return np.zeros((0, *size), maps.dtype)
    tensor = torch.from_numpy(np.ascontiguousarray(maps))[None]
    return functional.interpolate(tensor, size=tuple(size), mode="bilinear", align_corners=False)[0].numpy()


def checked_seed(store: Store, image_id: str, size: tuple[int, int] | None = None) -> SeedMaps:
    """Read the seed maps of one image and check that they belong to a photo of ``size``.

    Raises:
        StoreError: the store does not have the image.
        DataError: the maps were made from a photo of another size.
    """
    seed = read_seed(store, image_id)
    if size is not None and seed.size != tuple(int(n) for n in size):
        found, wanted = "x".join(map(str, seed.size)), "x".join(str(int(n)) for n in size)
        raise DataError(
            f"image '{image_id}': its seed maps are for {found} pixels, the photo has {wanted}; make the maps again"
        )
    return seed
