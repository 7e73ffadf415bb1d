"""Label maps from class regions and a saliency map: Wei et al., "Object Region Mining with Adversarial Erasing", CVPR
2017, section 3.1, where the regions are those that erasing mined and the saliency that of Jiang et al., CVPR 2013.

Every pixel starts as ignored. It becomes background where the saliency is low and no class has a region, and a class
where just that class has one. What low means depends on the image: rooms are full of things that draw attention without
being of any class, so that images with an "indoor" class take a lower threshold.

The paper does not say what happens where the regions of two classes overlap, nor where a region is not salient; both are
parameters.

Where the saliency comes from is up to the caller: grey files of a detector (``PngSaliency``), or seed maps
(``MapSaliency``), of another recipe or the very ones that are assembled. Both know nothing of classes afterwards. A
detector trained on masks is further supervision and must be said with the results.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.localize.maps import SeedMaps, checked_seed, full_size_maps
from camflow.refine.driver import IGNORE, Photos, Refined, class_ids, write_in_order
from camflow.store import Store, StoreWriter

CONFLICTS = ("ignore", "smaller_region", "max_heat")
UNSALIENT = ("foreground", "ignore")


@dataclass(frozen=True)
class AssembleParams:
    """Parameters of assembling; the thresholds are the paper's as far as known.

    Attributes:
        saliency_threshold: saliency below it is low.
        indoor_threshold: the same for images with one of ``indoor_classes``.
        indoor_classes: class names. The paper names but some of VOC's (sofa, dining table), so there is no default.
        conflicts: where regions of several classes overlap: ``ignore`` the pixel, give it to the ``smaller_region``, or
            to the class of ``max_heat``. Ties go to the earlier class.
        unsalient: a class's pixel of low saliency stays ``foreground``, or is ignored (``ignore``).
    """

    saliency_threshold: float = 0.12
    indoor_threshold: float = 0.06
    indoor_classes: tuple[str, ...] = ()
    conflicts: str = "ignore"
    unsalient: str = "foreground"

    def __post_init__(self):
        object.__setattr__(self, "indoor_classes", tuple(self.indoor_classes))
        for name in ("saliency_threshold", "indoor_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: lies from 0 to 1, not at {getattr(self, name)}")
        for name, options in (("conflicts", CONFLICTS), ("unsalient", UNSALIENT)):
            value = getattr(self, name)
            if value not in options:
                raise ConfigError(f"{name}: unknown '{value}'{did_you_mean(value, options)}")

    def background_threshold(self, classes: Sequence[int], class_names: Sequence[str]) -> float:
        """What saliency is low in an image with these classes (0-based indices).

        Raises ``ConfigError`` for an indoor class that is not among the ``class_names``.
        """
        for name in self.indoor_classes:
            if name not in class_names:
                raise ConfigError(f"indoor_classes: unknown class '{name}'{did_you_mean(name, class_names)}")
        indoor = any(class_names[c] in self.indoor_classes for c in classes)
        return self.indoor_threshold if indoor else self.saliency_threshold


# --- saliency --------------------------------------------------------------------------------------------------------


class Saliency(Protocol):
    """Where saliency is read from; sent to worker processes, hence picklable."""

    def saliency(self, image_id: str, size: tuple[int, int]) -> np.ndarray:
        """Saliency of an image whose photo has ``size`` (H, W): float32 (H, W) in [0, 1]."""


@dataclass(frozen=True)
class MapSaliency:
    """Seed maps as saliency: the maximum of the normalised full-size maps over the image's classes.

    With the maps that are assembled themselves, background is where all of them are low. An image without classes is
    nowhere salient.
    """

    store: Store

    def saliency(self, image_id: str, size: tuple[int, int]) -> np.ndarray:
        """See ``Saliency``. Raises ``StoreError`` without maps of the image, ``DataError`` for maps of another size."""
        return full_size_maps(checked_seed(self.store, image_id, size)).max(axis=0, initial=0).astype(np.float32)


@dataclass(frozen=True)
class PngSaliency:
    """Files ``<folder>/<id>.png``: grey, 8 bit (255 is 1) or 16 bit (65535 is 1)."""

    folder: Path

    def saliency(self, image_id: str, size: tuple[int, int]) -> np.ndarray:
        """See ``Saliency``. Raises ``DataError`` for a missing or damaged file, colours, and another size."""
        path = Path(self.folder) / f"{image_id}.png"
        try:
            with Image.open(path) as image:
                image.load()
                mode, values = image.mode, np.asarray(image.convert("L") if image.mode == "1" else image)
        except FileNotFoundError as error:
            raise DataError(f"{path}: does not exist; every image needs a saliency map of its name") from error
        except (OSError, SyntaxError, ValueError) as error:  # what the decoder raises on damaged bytes
            raise DataError(f"{path}: cannot be decoded ({error}); make the saliency map again") from error
        if mode not in ("1", "L") and not mode.startswith("I"):
            raise DataError(f"{path}: a saliency map is a grey image, this file has mode {mode}; convert it to grey")
        if values.shape != tuple(size):
            found, wanted = ("x".join(str(int(n)) for n in pair) for pair in (values.shape, size))
            raise DataError(f"{path}: has {found} pixels, the photo has {wanted}; make the saliency map again")
        return values.astype(np.float32) / np.float32(65535 if mode.startswith("I") else 255)


# --- one image -------------------------------------------------------------------------------------------------------


def assemble(
    maps: np.ndarray, classes: np.ndarray, regions: np.ndarray, saliency: np.ndarray, low: float, params: AssembleParams
) -> Refined:
    """Put a label map together.

    Args:
        maps: float (K, H, W) in [0, 1], the classes' heat; K may be 0.
        classes: (K,) 0-based class indices.
        regions: bool (K, H, W).
        saliency: float (H, W) in [0, 1].
        low: saliency below it is low.
        params: what to do about overlaps and unsalient regions.

    Returns:
        Label map of {0, the classes' ids, 255}; the confidence is the class's heat, 1 - saliency of background, and 0
        where the pixel is ignored.
    """
    count = regions.sum(axis=0)
    unsalient = saliency < low
    winner = np.zeros(saliency.shape, np.intp)  # 0 background, k the k-th class
    heat = np.zeros(saliency.shape, np.float32)
    if len(regions):
        if params.conflicts == "smaller_region":
            area = regions.sum(axis=(1, 2))[:, None, None]
            order = np.where(regions, -area, np.iinfo(area.dtype).min)
        else:
            order = np.where(regions, maps, -1)
        winner = np.where(count > 0, order.argmax(axis=0) + 1, 0)
        heat = np.take_along_axis(maps, np.maximum(winner - 1, 0)[None], axis=0)[0]
    ignored = (count == 0) & ~unsalient
    if params.conflicts == "ignore":
        ignored |= count > 1
    if params.unsalient == "ignore":
        ignored |= (count > 0) & unsalient
    labels = class_ids(winner, classes)
    labels[ignored] = IGNORE
    confidence = np.where(ignored, 0, np.where(winner > 0, heat, 1 - saliency))
    return Refined(labels, confidence.astype(np.float32))


def assemble_seed(
    seed: SeedMaps, saliency: np.ndarray, class_names: Sequence[str], threshold: float, params: AssembleParams
) -> Refined:
    """Assemble one image from its seed maps; a class's region is where its normalised map is above ``threshold``.

    As in the other refiners the comparison happens in the dtype of the maps. Unlike there, an image without classes or
    activation is background only where it is not salient.

    Args:
        saliency: float (H, W) of the photo's size.
        class_names: of the dataset, in order.
    """
    maps = full_size_maps(seed)
    low = params.background_threshold(seed.classes, class_names)
    return assemble(maps, seed.classes, maps > maps.dtype.type(threshold), saliency, low, params)


# --- a whole catalog -------------------------------------------------------------------------------------------------


def assemble_maps(
    maps_store: Store,
    catalog: Photos,
    source: Saliency,
    params: AssembleParams,
    threshold: float,
    writer: StoreWriter,
    *,
    confidence: StoreWriter | None = None,
    jobs: int = 1,
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Assemble every image of a catalog into an open ``StoreWriter(stage="masks")``; photos are not read.

    Args:
        maps_store: seed maps, at least of the catalog's images.
        source: where saliency is read from.
        threshold: of the regions; for maps of erasing ``ErasingParams.level``.
        others: as in ``camflow.refine.driver.refine_maps``.

    Raises:
        ConfigError: an indoor class is not one of the maps'.
        StoreError: an image is missing in a store.
        DataError: maps or saliency are of another size than the photo, or a saliency file cannot be read.
    """
    params.background_threshold([], maps_store.class_names)  # a misspelt class is known before the first image

    def write(image_id: str, labels: np.ndarray, score: np.ndarray | None) -> None:
        writer.write(image_id, labels)
        if confidence is not None:
            confidence.write(image_id, score)

    work = functools.partial(
        _assembled, source, params, float(threshold), tuple(maps_store.class_names), confidence is not None
    )
    write_in_order(work, maps_store, catalog, write, jobs=jobs, progress=progress)


def _assembled(
    source: Saliency,
    params: AssembleParams,
    threshold: float,
    class_names: Sequence[str],
    keep_confidence: bool,
    image_id: str,
    seed: SeedMaps,
) -> tuple[np.ndarray, np.ndarray | None]:
    made = assemble_seed(seed, source.saliency(image_id, seed.size), class_names, threshold, params)
    score = np.rint(np.clip(made.confidence, 0, 1) * 255).astype(np.uint8) if keep_confidence else None
    return made.labels, score
