"""Class-agnostic saliency maps scored as CASM is: boxes, continuous F1, the saliency metric, the pointing game.

Zolna, Geras, Cho, "Classifier-agnostic saliency map extraction", CVIU 196 (2020), with the rules that its
public code runs; options give those of the follow-up (Phang, Park, Geras, arXiv 2010.09750). The saliency metric is
Dabkowski and Gal's (NeurIPS 2017), the pointing game Zhang et al.'s (ECCV 2016).

The frame is a square: the photo's short side becomes ``resize`` pixels, then the central ``frame`` pixels are cut out.
A mask has values in [0, 1]. It may be coarser than the frame by a whole factor, for which it stands as its nearest
neighbour enlargement; everything is then exact without making that. Boxes are x1, y1, x2, y2 in pixels of the frame,
half-open. No box is ever drawn: areas and intersections are arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch.nn import functional
from torchvision.transforms import functional as transforms

from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.evaluate.scores import FORMAT, plain
from camflow.localize.extract import normalisation_table, numerics, to_views
from camflow.localize.maps import SeedMaps, checked_seed, normalise
from camflow.store import Store

EPSILON = 1e-6  # in the quotients of F1, and how far a quantile keeps from 0 and 1
LEAST_AREA = 0.05  # share of the frame below which the saliency metric does not reward smaller boxes
TOP = 5

CHOICES = {
    "normalise": ("none", "max"),
    "interpolation": ("bilinear", "nearest"),
    "binarise": ("quantile", "mean"),
    "box": ("whole", "short"),
}


@dataclass(frozen=True)
class FrameParams:
    """How seed maps become a mask of the frame, and the mask a binary one.

    Attributes:
        frame: side of the frame in pixels.
        resize: what the photo's short side becomes before the frame is cut out; None is the frame's side.
        normalise: ``none`` takes maps as they are, which must be in [0, 1] (those of a masker); ``max`` divides each
            class by its maximum within the frame (CAMs).
        interpolation: of maps: ``bilinear``, or ``nearest`` as CASM's masks are enlarged.
        binarise: ``quantile`` keeps about the share of pixels that is the mask's mean (CASM); ``mean`` keeps what
            exceeds the mean (the follow-up).
    """

    frame: int = 224
    resize: int | None = None
    normalise: str = "none"
    interpolation: str = "bilinear"
    binarise: str = "quantile"

    def __post_init__(self):
        for name, options in CHOICES.items():
            value = getattr(self, name, options[0])
            if value not in options:
                raise ConfigError(f"{name}: unknown '{value}'{did_you_mean(value, options)}")
        if self.frame < 1 or self.short_side < self.frame:
            raise ConfigError(f"frame: {self.frame} pixels do not fit a short side of {self.short_side}; raise resize")

    @property
    def short_side(self) -> int:
        """Pixels of the resized photo's short side."""
        return self.frame if self.resize is None else self.resize


@dataclass(frozen=True)
class SaliencyParams(FrameParams):
    """How saliency maps are scored.

    Attributes:
        clip: whether the part of a true box outside the frame is left out of its area. The published code leaves it in,
            which alone moves results by up to 20 points.
        box: ``whole`` is the tight box; ``short`` lacks its last row and column (the follow-up's code).
        tolerance: pixels of the frame that a point may lie outside a box in the pointing game; 0 asks for a point
            inside, 15 is common (there pixels of the photo).
    """

    clip: bool = False
    box: str = "whole"
    tolerance: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        if self.tolerance < 0:
            raise ConfigError(f"tolerance: must not be negative, not {self.tolerance}")


# --- into the frame --------------------------------------------------------------------------------------------------


def crop_boxes(boxes: np.ndarray, size: Any, frame: int, resize: int | None = None) -> np.ndarray:
    """Move boxes from the photo into the frame: scaled, moved by the cut (not rounded), then truncated towards 0.

    Args:
        boxes: (M, 4) x1, y1, x2, y2 in pixels of the photo.
        size: H, W of the photo, or (M, 2) of each box's photo.
        frame, resize: as in ``FrameParams``.

    Returns:
        int64 (M, 4); what lies outside the frame is not cut off.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    wide_high = np.broadcast_to(np.asarray(size, np.float64), (len(boxes), 2))[:, ::-1]
    scale = (frame if resize is None else resize) / wide_high.min(axis=1, keepdims=True)
    cut = (wide_high * scale - frame) / 2
    return np.trunc(boxes * scale - np.tile(cut, 2)).astype(np.int64)


def clip_boxes(boxes: np.ndarray, frame: int) -> np.ndarray:
    """Cut boxes (M, 4) off at the frame; one that lies outside has no area left."""
    return np.clip(boxes, 0, frame)


def crop_photo(photo: np.ndarray, params: FrameParams) -> np.ndarray:
    """The frame of a uint8 photo (H, W, 3), uint8 (S, S, 3); resized by Pillow's bilinear filter."""
    resized = transforms.resize(Image.fromarray(photo), params.short_side)
    return np.asarray(transforms.center_crop(resized, params.frame))


def class_agnostic_mask(seed: SeedMaps, params: FrameParams, image_id: str = "") -> np.ndarray:
    """The maximum over the classes of an image's maps in the frame: float32 (S, S) in [0, 1].

    The pixels' centres are looked up in each scale's map once, whatever its resolution; scales are averaged. Without a
    class the mask is zero.

    Raises:
        DataError: a value exceeds 1 and ``normalise`` is ``none``; names the image.
    """
    side = params.frame
    if not len(seed.classes):
        return np.zeros((side, side), np.float32)
    frame = seed.frame or seed.size
    covered = [-(-n // seed.stride) * seed.stride / n for n in frame]  # the last cells hang over the border
    axes = [_positions(n, min(seed.size), params) / c for n, c in zip(seed.size, covered, strict=True)]
    rows, columns = np.meshgrid(*(2 * axis - 1 for axis in axes), indexing="ij")
    grid = torch.from_numpy(np.stack([columns, rows], axis=-1)).float()[None]
    options = {"mode": params.interpolation, "padding_mode": "border", "align_corners": False}
    total = sum(
        functional.grid_sample(torch.from_numpy(np.ascontiguousarray(m, np.float32))[None], grid, **options)[0]
        for m in seed.maps
    )
    maps = (total / len(seed.maps)).numpy()
    if params.normalise == "max":
        maps = normalise(maps)
    elif maps.max() > 1 + 1e-3:  # maps are stored with the relative rounding of float16
        raise DataError(
            f"image '{image_id}': its map reaches {maps.max():.3g}, a mask at most 1; set normalise: max for maps "
            "that are no masks"
        )
    return np.minimum(maps.max(axis=0), 1)


def _positions(length: int, short: int, params: FrameParams) -> np.ndarray:
    """Where the centres of the frame's pixels lie along an axis of the photo, 0 to 1; torchvision's rounding."""
    resized = params.short_side if length == short else int(params.short_side * length / short)
    start = round((resized - params.frame) / 2)
    return (start + 0.5 + np.arange(params.frame)) / resized


# --- mask -> box -----------------------------------------------------------------------------------------------------


def binarise(masks: np.ndarray, rule: str = "quantile", frame: int = 224) -> np.ndarray:
    """Binary masks of the area that the masks' means ask for, or of what exceeds the mean.

    With N pixels of the frame and mean a, ``quantile`` keeps what exceeds the k-th smallest value, k = 1 + int((N - 1)
    (1 - a) + .5), kept within [1e-6, 1 - 1e-6]. A constant mask keeps nothing, a mask of ones everything.

    Args:
        masks: (N, h, w) in [0, 1].
        rule: ``quantile`` or ``mean``.
        frame: side of the frame; a multiple of h and of w.

    Returns:
        bool (N, h, w).
    """
    masks = np.asarray(masks)
    flat = masks.reshape(len(masks), -1)
    means = flat.mean(axis=1, dtype=np.float64)
    if rule == "mean":
        return masks > means[:, None, None]
    pixels, copies = frame * frame, _copies(masks[0], frame) ** 2 if len(masks) else 1
    ranks = 1 + ((pixels - 1) * (1 - means) + 0.5).astype(np.int64)
    places = np.clip(-(-ranks // copies), 1, flat.shape[1]) - 1
    theta = [np.partition(row, place)[place] for row, place in zip(flat, places, strict=True)]
    return masks > np.clip(np.asarray(theta, np.float64), EPSILON, 1 - EPSILON)[:, None, None]


def largest_component(binary: np.ndarray) -> np.ndarray:
    """The largest 4-connected component of a binary mask (h, w), the first one of equals; empty if that is empty."""
    labels, count = ndimage.label(binary)
    if count == 0:
        return np.zeros_like(binary, dtype=bool)
    return labels == np.bincount(labels.ravel())[1:].argmax() + 1


def saliency_box(binary: np.ndarray, frame: int = 224, rule: str = "whole") -> np.ndarray:
    """Box around the largest component of a binary mask (h, w): int64 (4,) in pixels of the frame, zeros if empty."""
    component, copies = largest_component(binary), _copies(binary, frame)
    if not component.any():
        return np.zeros(4, np.int64)
    columns, rows = (np.flatnonzero(component.any(axis=axis)) for axis in (0, 1))
    box = copies * np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.int64)
    return box - [0, 0, 1, 1] if rule == "short" else box


def _copies(mask: np.ndarray, frame: int) -> int:
    """How many pixels of the frame a value of the mask stands for, along each axis."""
    if mask.shape[0] != mask.shape[1] or frame % mask.shape[0]:
        raise ValueError(f"a mask of {mask.shape} does not divide a frame of {frame} pixels")
    return frame // mask.shape[0]


def _enlarged(mask: np.ndarray, frame: int) -> np.ndarray:
    copies = _copies(mask, frame)
    return mask if copies == 1 else mask.repeat(copies, axis=0).repeat(copies, axis=1)


# --- boxes against boxes ---------------------------------------------------------------------------------------------


def box_area(boxes: np.ndarray) -> np.ndarray:
    """Areas of boxes (M, 4), 0 for inverted ones."""
    return np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0)


def _intersection(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    corners = [np.maximum(boxes[:, :2], others[:, :2]), np.minimum(boxes[:, 2:], others[:, 2:])]
    return box_area(np.concatenate(corners, axis=1))


def box_iou(predicted: np.ndarray, truth: np.ndarray, frame: int, *, clip: bool = False) -> np.ndarray:
    """IoU of boxes within the frame with true boxes, pair by pair: float64 (M,).

    Args:
        predicted: (M, 4) or (4,), within the frame.
        truth: (M, 4), of ``crop_boxes``.
        frame: side of the frame.
        clip: whether true boxes count within the frame only; their intersections always do.
    """
    truth = clip_boxes(truth, frame) if clip else truth
    predicted = np.broadcast_to(predicted, truth.shape)
    shared = _intersection(predicted, truth)
    union = box_area(predicted) + box_area(truth) - shared
    return shared / np.maximum(union, 1)


def mask_f1(mask: np.ndarray, truth: np.ndarray, frame: int, *, clip: bool = False) -> np.ndarray:
    """F1 of a continuous mask (h, w) with each true box (M, 4): float64 (M,).

    Precision is the share of the mask's sum that lies in the box, recall the mean of the mask over the box.
    """
    sums = np.zeros((frame + 1, frame + 1))
    sums[1:, 1:] = _enlarged(mask, frame).cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    x1, y1, x2, y2 = clip_boxes(truth, frame).T
    inside = sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1]
    return _f1(inside, sums[-1, -1], truth, frame, clip)


def _f1(inside: np.ndarray, total: Any, truth: np.ndarray, frame: int, clip: bool) -> np.ndarray:
    area = box_area(clip_boxes(truth, frame) if clip else truth)
    precision, recall = inside / (total + EPSILON), inside / np.maximum(area, 1)
    return 2 * precision * recall / (precision + recall + EPSILON)


def points_at(mask: np.ndarray, truth: np.ndarray, frame: int, tolerance: float = 0.0) -> bool:
    """Pointing game: whether the mask's first maximum is in a true box, or within ``tolerance`` pixels of one.

    A mask that is the same everywhere points nowhere: a miss.
    """
    if mask.min() == mask.max():
        return False
    row, column = np.unravel_index(int(mask.argmax()), mask.shape)
    point = _copies(mask, frame) * np.array([column, row])
    boxes = clip_boxes(truth, frame)
    boxes = boxes[box_area(boxes) > 0]
    distance = np.maximum(np.maximum(boxes[:, :2] - point, point - (boxes[:, 2:] - 1)), 0)
    return bool((np.hypot(*distance.T) <= tolerance).any())


def over_boxes(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maximum and mean over the boxes of each image: (N,) each.

    Args:
        values: (M,), image after image.
        counts: (N,) boxes of each image, at least 1.
    """
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    values = np.asarray(values, np.float64)
    return np.maximum.reduceat(values, starts), np.add.reduceat(values, starts) / counts


def localisation(iou: np.ndarray, f1: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """``le``, localisation error: share of images without a box at IoU > .5; ``f1``, ``f1a``: mean over images of the
    best and of the mean F1 of an image's boxes. Arguments as in ``over_boxes``."""
    (hit, _), (best, mean) = over_boxes(iou > 0.5, counts), over_boxes(f1, counts)
    return {"le": float(1 - hit.mean()), "f1": float(best.mean()), "f1a": float(mean.mean())}


def constant_boxes(truth: np.ndarray, counts: np.ndarray, frame: int, *, clip: bool = False) -> dict[str, Any]:
    """What the same box for every image scores, as mask and as box: the rows ``max_box`` and ``centre_box``.

    ``max_box`` is the whole frame, ``centre_box`` the central square of half its area (158 of 224 pixels).

    Args:
        truth: (M, 4), of ``crop_boxes``, image after image.
        counts: (N,) boxes of each image, at least 1.
        frame: side of the frame.
        clip: as in ``box_iou``.
    """
    side = round(frame * 0.5**0.5)
    start = (frame - side) // 2
    boxes = {"max_box": (0, frame), "centre_box": (start, start + side)}
    rows = {}
    for name, (low, high) in boxes.items():
        box = np.broadcast_to(np.array([low, low, high, high]), truth.shape)
        f1 = _f1(_intersection(box, truth), (high - low) ** 2, truth, frame, clip)
        rows[name] = localisation(box_iou(box, truth, frame, clip=clip), f1, counts)
    return rows


# --- the saliency metric ---------------------------------------------------------------------------------------------


def saliency_metric(
    logits: torch.Tensor, right: np.ndarray, area: np.ndarray, frame: int
) -> tuple[np.ndarray, np.ndarray]:
    """The two terms of SM = sm1 - sm2: log(max(area share, .05)) and the log of the right classes' probability.

    Args:
        logits: (M, D) of the crops.
        right: bool (M, D), the outputs that stand for a class of the image; their probabilities are added.
        area: (M,) pixels of the crops within the frame.
        frame: side of the frame.

    Returns:
        sm1 and sm2, float64 (M,).
    """
    share = np.clip(np.asarray(area, np.float64) / frame**2, LEAST_AREA, 1)
    return np.log(share), right_log_probability(logits, right)


def right_log_probability(logits: torch.Tensor, right: np.ndarray) -> np.ndarray:
    """Log of the summed softmax probabilities of the outputs where ``right`` (M, D) is set: float64 (M,)."""
    chances = logits.double().log_softmax(dim=1)
    allowed = torch.from_numpy(np.array(right, bool)).to(chances.device)
    return chances.masked_fill(~allowed, -torch.inf).logsumexp(dim=1).cpu().numpy()


def crop_resize(image: torch.Tensor, boxes: np.ndarray, frame: int) -> torch.Tensor:
    """Cut boxes out of an image (3, S, S) and resize each to the frame, bicubic: (M, 3, frame, frame).

    The cubic is OpenCV's (a = -.75, no antialiasing). A box without area stands for the whole frame.
    """
    crops = []
    for x1, y1, x2, y2 in clip_boxes(np.asarray(boxes), frame).tolist():
        cut = image[:, y1:y2, x1:x2] if x2 > x1 and y2 > y1 else image
        crops.append(functional.interpolate(cut[None], (frame, frame), mode="bicubic", align_corners=False))
    return torch.cat(crops)


# --- statistics ------------------------------------------------------------------------------------------------------


def mask_statistics(mask: np.ndarray, frame: int) -> dict[str, float]:
    """Mean, entropy (bits per pixel) and total variation (mean squared step right plus down) of a mask (h, w)."""
    mask = _enlarged(np.asarray(mask, np.float64), frame)
    open_ = mask[(mask > 0) & (mask < 1)]
    return {
        "mean": float(mask.mean()),
        "entropy": float(-(open_ * np.log2(open_)).sum() / mask.size),
        "tv": float((np.diff(mask, axis=1) ** 2).mean() + (np.diff(mask, axis=0) ** 2).mean()),
    }


# --- one image -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageScore:
    """What one mask scores.

    Attributes:
        box: int64 (4,).
        iou, f1: float64 (M,), with each true box.
        points: whether the pointing game is won.
        facts: ``mask_statistics``, and ``binary``, the share of the frame that the binary mask covers.
    """

    box: np.ndarray
    iou: np.ndarray
    f1: np.ndarray
    points: bool
    facts: dict[str, float]


def score_mask(mask: np.ndarray, truth: np.ndarray, params: SaliencyParams) -> ImageScore:
    """Score a mask (h, w) in [0, 1] against true boxes (M, 4) of ``crop_boxes``."""
    binary = binarise(mask[None], params.binarise, params.frame)[0]
    box = saliency_box(binary, params.frame, params.box)
    return ImageScore(
        box,
        box_iou(box, truth, params.frame, clip=params.clip),
        mask_f1(mask, truth, params.frame, clip=params.clip),
        points_at(mask, truth, params.frame, params.tolerance),
        {**mask_statistics(mask, params.frame), "binary": float(binary.mean())},
    )


# --- a whole catalog -------------------------------------------------------------------------------------------------


class Boxes(Protocol):
    """What is read from a catalog."""

    class_names: Sequence[str]
    split: str
    dataset: str
    ids: Sequence[str]

    def size(self, image_id: str) -> tuple[int, int]: ...

    def label(self, image_id: str) -> np.ndarray: ...

    def boxes(self, image_id: str) -> np.ndarray: ...

    def image(self, image_id: str) -> np.ndarray: ...


class Recogniser(Protocol):
    """A classification network and what its outputs mean, see ``camflow.evaluate.masked_accuracy``.

    Attributes:
        name: for the conditions of a score.
        columns: bool (C, D), which of its D outputs stand for each class of the catalog.
        mean, std: normalisation of its input.
        device: where it runs.
    """

    name: str
    columns: np.ndarray
    mean: Sequence[float]
    std: Sequence[float]
    device: torch.device

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


def score_saliency(
    maps_store: Store,
    catalog: Boxes,
    confidence_store: Store | None,
    params: SaliencyParams,
    *,
    recogniser: Recogniser | None = None,
    progress: Callable[[int], Any] | None = None,
) -> dict[str, Any]:
    """Score the class-agnostic maps of a catalog's images, one image after the other.

    Args:
        maps_store: seed maps, at least of the images that have a box.
        catalog: images, boxes and class names. A box counts whatever its class, since the maps know none; an image
            is recognised when a class that it shows is among the best.
        confidence_store: one float (C,) array an image, the scores of a classifier; for ``om``. None leaves it out.
        params: frame and rules.
        recogniser: network of the saliency metric, which reads the photos; None leaves it out. An empty mask is
            measured as the whole frame, so that it earns nothing by being small.
        progress: called with 1 after every image.

    Returns:
        Shares in [0, 1]: ``le`` (localisation error), ``om_top1``, ``om_top5`` (the same with the class recognised, as
        in ILSVRC), ``f1``, ``f1a``, ``pointing``; ``sm``: ``sm``, ``sm1``, ``sm2``, ``accuracy`` of the predicted box
        and ``truth``, the same of the true ones; ``mask``: mean, standard deviation over images of the mean, entropy
        and total variation, mean of the binary mask, share of empty ones; ``constant``: see ``constant_boxes``;
        ``conditions``. What was not asked for is None.

    Raises:
        StoreError: an image is missing in a store.
        DataError: no image has a box; maps or confidences do not fit; names the image.
    """
    scored, truths, skipped = _Sums(), [], 0
    for image_id in catalog.ids:
        boxes = catalog.boxes(image_id)
        if progress is not None:
            progress(1)
        if not len(boxes):
            skipped += 1
            continue
        size = catalog.size(image_id)
        truth = crop_boxes(boxes[:, 1:], size, params.frame, params.resize)
        mask = class_agnostic_mask(checked_seed(maps_store, image_id, size), params, image_id)
        score = score_mask(mask, truth, params)
        scored.add(score)
        truths.append(truth)
        present = catalog.label(image_id).astype(bool)
        if confidence_store is not None:
            scored.add_confidence(confidence_store.read(image_id), present, score, image_id)
        if recogniser is not None:
            scored.add_metric(_crop_terms(recogniser, catalog.image(image_id), present, score.box, truth, params))
    if not truths:
        raise DataError(
            f"split '{catalog.split}' of '{catalog.dataset}' has no boxes to score against; "
            "score a split that has them, or add boxes to the dataset"
        )
    counts, all_boxes = np.array([len(t) for t in truths]), np.concatenate(truths)
    return plain(
        {
            "format": FORMAT,
            "kind": "saliency",
            **scored.result(counts),
            "constant": constant_boxes(all_boxes, counts, params.frame, clip=params.clip),
            "conditions": {
                "dataset": catalog.dataset,
                "split": catalog.split,
                "n_images": len(counts),
                "n_images_without_box": skipped,
                "n_boxes": len(all_boxes),
                "frame": f"short side {params.short_side}, centre {params.frame}",
                "normalise": params.normalise,
                "interpolation": params.interpolation,
                "binarise": params.binarise,
                "connectivity": 4,
                "truth_area": "within the frame" if params.clip else "of the whole box",
                "hit": "IoU > 0.5",
                "box": params.box,
                "tolerance": params.tolerance,
                "recogniser": recogniser.name if recogniser is not None else None,
                "class_names": list(catalog.class_names),
            },
        }
    )


def _crop_terms(
    recogniser: Recogniser,
    photo: np.ndarray,
    present: np.ndarray,
    box: np.ndarray,
    truth: np.ndarray,
    params: SaliencyParams,
) -> dict[str, float]:
    """sm1 and sm2 of the predicted box, whether it is recognised, and the same as means over the true boxes."""
    frame = params.frame
    whole = np.array([0, 0, frame, frame], np.int64)
    boxes = np.concatenate([box[None], clip_boxes(truth, frame)])
    boxes = np.where((box_area(boxes) > 0)[:, None], boxes, whole)
    table = normalisation_table(recogniser.mean, recogniser.std).to(recogniser.device)
    pixels = torch.from_numpy(crop_photo(photo, params).copy()).to(recogniser.device)
    with numerics(recogniser.device, "float32"), torch.inference_mode():
        logits = recogniser(crop_resize(to_views(pixels[None], table, flip=False)[0, 0], boxes, frame)).cpu()
    right = np.broadcast_to(recogniser.columns[present].any(axis=0), logits.shape)
    sm1, sm2 = saliency_metric(logits, right, box_area(boxes), frame)
    hit = np.take_along_axis(right, logits.argmax(dim=1, keepdim=True).numpy(), axis=1)[:, 0]
    return {
        "sm1": sm1[0], "sm2": sm2[0], "accuracy": hit[0],
        "truth_sm1": sm1[1:].mean(), "truth_sm2": sm2[1:].mean(), "truth_accuracy": hit[1:].mean(),
    }  # fmt: skip


class _Sums:
    """What is kept of the images scored so far: a few numbers of each."""

    def __init__(self):
        self.iou: list[np.ndarray] = []
        self.f1: list[np.ndarray] = []
        self.points: list[bool] = []
        self.empty: list[bool] = []
        self.facts: list[dict[str, float]] = []
        self.right: dict[int, list[tuple[bool, bool]]] = {1: [], TOP: []}  # recognised, and recognised and localised
        self.terms: list[dict[str, float]] = []

    def add(self, score: ImageScore) -> None:
        self.iou.append(score.iou)
        self.f1.append(score.f1)
        self.points.append(score.points)
        self.empty.append(score.facts["binary"] == 0)
        self.facts.append(score.facts)

    def add_confidence(self, values: np.ndarray, present: np.ndarray, score: ImageScore, image_id: str) -> None:
        if values.shape != present.shape or not np.isfinite(values).all():
            raise DataError(
                f"image '{image_id}': its confidences {values.shape} are not {len(present)} finite numbers, one a "
                "class; make them again"
            )
        order = np.argsort(-values, kind="stable")
        for count, known in self.right.items():
            right = bool(present[order[:count]].any())
            known.append((right, right and bool((score.iou > 0.5).any())))

    def add_metric(self, terms: dict[str, float]) -> None:
        self.terms.append(terms)

    def result(self, counts: np.ndarray) -> dict[str, Any]:
        facts = {key: np.array([f[key] for f in self.facts]) for key in self.facts[0]}
        rates = {count: np.mean(known, axis=0) for count, known in self.right.items() if known}
        return {
            **localisation(np.concatenate(self.iou), np.concatenate(self.f1), counts),
            "om_top1": 1 - rates[1][1] if rates else None,
            "om_top5": 1 - rates[TOP][1] if rates else None,
            "top1": rates[1][0] if rates else None,
            "top5": rates[TOP][0] if rates else None,
            "pointing": np.mean(self.points),
            "sm": self._metric(),
            "mask": {
                "mean": facts["mean"].mean(),
                "std": facts["mean"].std(ddof=1) if len(counts) > 1 else None,
                "entropy": facts["entropy"].mean(),
                "tv": facts["tv"].mean(),
                "binary_mean": facts["binary"].mean(),
                "empty": np.mean(self.empty),
            },
        }

    def _metric(self) -> Mapping[str, Any] | None:
        if not self.terms:
            return None
        mean = {key: float(np.mean([terms[key] for terms in self.terms])) for key in self.terms[0]}
        own, truth = ({k: mean[f"{p}{k}"] for k in ("sm1", "sm2", "accuracy")} for p in ("", "truth_"))
        return {"sm": own["sm1"] - own["sm2"], **own, "truth": {"sm": truth["sm1"] - truth["sm2"], **truth}}
