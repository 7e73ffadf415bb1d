"""Training of segmentation networks on label maps, true or made: DeepLab-v2 (Chen et al., TPAMI 2018) and
DeepLab-LargeFOV (Chen et al., ICLR 2015), as the second stage of weakly-supervised methods uses them.

With logits z_s of the input at scale s, each on its own grid, and z_max their maximum on the grid of scale 1,

    loss = sum_s CE(z_s) + CE(z_max)                                    train_scales 1, .75, .5 as released

and CE(z) alone where ``train_scales`` has one scale. CE is one of

    plain      mean over the pixels that have a label
    balanced   mean over images of (mean over their foreground pixels + mean over their background pixels), a missing
               part being 0: the balanced seed loss of DSRG (Huang et al., CVPR 2018, equation 2)

Labels are brought to each grid as Pillow's nearest resizing does: cell i reads pixel floor((i + 1/2) H / h).

Iterations. Published runs count iterations, the loop counts epochs: epochs = iterations x batch / images, e.g. 20000 x
10 / 10582 = 19. The released code refreshes the poly schedule every 10 iterations, here it is every one. It resizes
photos bilinearly and pads at the right and the bottom; here it is bicubic, and the photo lies anywhere in the padding.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, Unpack

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.evaluate.confusion import confusion_matrix, miou
from camflow.models.dtypes import at_least_single
from camflow.models.large_fov import WIDTH
from camflow.models.segmenter import Segmenter, build_segmenter, fuse_max, resize_logits, save_segmenter, scale_logits
from camflow.train import distributed
from camflow.train.augment import (
    IGNORE,
    apply_augmentations,
    check_augmentations,
    long_side_size,
    normalize,
    random_crop_pad,
    random_flip,
    resize,
    to_chw,
)
from camflow.train.groups import published_groups
from camflow.train.loop import Task
from camflow.train.metrics import Row
from camflow.train.settings import TrainSettings
from camflow.train.tofile import Run, train_to_file

log = logging.getLogger(__name__)

SCALE_PICKS = ("one_of", "uniform")
LOSS_GRIDS = ("network", "image")
SELECTS = ("last", "best")


# --- losses ----------------------------------------------------------------------------------------------------------


def nearest_labels(labels: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Resize label maps (B, H, W) to ``size`` (h, w): cell i reads pixel floor((i + 1/2) H / h), as Pillow does."""
    rows, columns = (
        torch.from_numpy(_nearest(n, to)).to(labels.device) for n, to in zip(labels.shape[1:], size, strict=True)
    )
    return labels[:, rows[:, None], columns]


def _nearest(n: int, to: int) -> np.ndarray:
    """The pixel that each of ``to`` cells reads of ``n``, int64.

    Pillow adds the step up in double precision, which decides the cases where (i + 1/2) n / to is a whole number.
    """
    steps = np.full(to, n / to)
    steps[0] /= 2
    return np.cumsum(steps).astype(np.int64)


def match_grid(logits: torch.Tensor, labels: torch.Tensor, grid: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Bring logits (B, K, h, w) and labels (B, H, W) to one grid.

    ``network``: the labels to that of the logits; ``image``: the logits, bilinear, to that of the labels.
    """
    if grid == "image":
        return resize_logits(logits, labels.shape[1:]), labels
    return logits, nearest_labels(labels, logits.shape[2:])


def pixel_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropies (B, h, w) of logits (B, K, h, w) and labels (B, h, w) in 0 .. K-1; 0 where the label is 255."""
    return functional.cross_entropy(logits, labels.long(), ignore_index=IGNORE, reduction="none")


def plain_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over all pixels of the batch that have a label; 0 where none has. Shapes: ``pixel_losses``."""
    return pixel_losses(logits, labels).sum() / (labels != IGNORE).sum().clamp(min=1)


def balanced_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean over images of the mean over foreground pixels plus the mean over background pixels.

    An image without the one or the other has 0 for it. Shapes: ``pixel_losses``.
    """
    losses = pixel_losses(logits, labels)
    background = labels == 0
    foreground = ~background & (labels != IGNORE)
    parts = [(losses * part).sum(dim=(1, 2)) / part.sum(dim=(1, 2)).clamp(min=1) for part in (foreground, background)]
    return (parts[0] + parts[1]).mean()


LOSSES = {"plain": plain_loss, "balanced": balanced_loss}


# --- parameters ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class SegmentParams(TrainSettings):
    """Parameters of the training of a segmentation network; the defaults are DeepLab-v2's on VOC, see ``PRESETS``.

    Attributes:
        architecture, backbone, weights, output_stride, dilate, width, rates, head_width, freeze_bn: see
            ``camflow.models.segmenter.build_segmenter``.
        crop: side of the square training input in pixels.
        long_side: longer side of a photo at scale 1; None keeps its size. Validation images have this size as well.
        scale: factors by which a photo is resized before cropping.
        scale_pick: ``one_of`` draws one of the factors, ``uniform`` one between the first and the last of two.
        hflip: probability of mirroring.
        augment: {name: parameters} of further augmentations.
        train_scales: scales at which the network sees an input, the first 1; with several there is one loss for each
            and one for their maximum.
        loss: ``plain`` or ``balanced``.
        loss_grid: ``network``: labels are resized to the network's grid; ``image``: logits to the input's size.
        select: ``last``, or ``best``: the weights with the highest val_miou are written, which is a choice made on the
            validation images' true masks.
    """

    epochs: int = 19
    batch_size: int = 10
    accumulate: int = 2
    lr: float = 2.5e-4
    weight_decay: float = 5e-4
    architecture: str = "deeplab_v2"
    backbone: str = "resnet101_caffe"
    weights: str = "none"
    output_stride: int | None = 8
    dilate: bool = True
    width: int = 24
    rates: tuple[int, ...] | None = None
    head_width: int = WIDTH
    freeze_bn: bool = True
    crop: int = 321
    long_side: int | None = None
    scale: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5)
    scale_pick: str = "one_of"
    hflip: float = 0.5
    augment: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    train_scales: tuple[float, ...] = (1.0, 0.75, 0.5)
    loss: str = "plain"
    loss_grid: str = "network"
    select: str = "last"

    def __post_init__(self):
        super().__post_init__()
        for name, options in (
            ("scale_pick", SCALE_PICKS),
            ("loss", tuple(LOSSES)),
            ("loss_grid", LOSS_GRIDS),
            ("select", SELECTS),
        ):
            value = getattr(self, name)
            if value not in options:
                raise ConfigError(f"unknown {name} '{value}'{did_you_mean(value, options)}")
        for name in ("scale", "train_scales"):
            object.__setattr__(self, name, tuple(float(s) for s in getattr(self, name)))
            if not getattr(self, name) or min(getattr(self, name)) <= 0:
                raise ConfigError(f"{name} needs at least one factor above 0, not {list(getattr(self, name))}")
        if self.rates is not None:
            object.__setattr__(self, "rates", tuple(self.rates))
        if self.train_scales[0] != 1:
            raise ConfigError(f"train_scales starts with 1, not {list(self.train_scales)}")
        if self.scale_pick == "uniform" and (len(self.scale) != 2 or self.scale[0] > self.scale[1]):
            raise ConfigError(f"scale_pick: uniform needs two factors, the smaller first, not {list(self.scale)}")
        for name in ("crop", "long_side"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}")
        if not 0 <= self.hflip <= 1:
            raise ConfigError(f"hflip is a probability, not {self.hflip}")
        check_augmentations(self.augment)

    def build(self, n_classes: int) -> Segmenter:
        """Build the network with its initial weights."""
        if self.weights == "none" and self.freeze_bn:
            log.warning("weights: none with freeze_bn leaves the batch norms as they are drawn")
        names = ("weights", "output_stride", "dilate", "width", "rates", "head_width", "freeze_bn", "seed")
        return build_segmenter(
            self.architecture, self.backbone, n_classes, **{name: getattr(self, name) for name in names}
        )

    def frame(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) of a photo at scale 1."""
        return size if self.long_side is None else long_side_size(size, self.long_side)


_DEEPLAB_V2: dict[str, Any] = {
    "architecture": "deeplab_v2",
    "backbone": "resnet101_caffe",
    "epochs": 19,  # 20k iterations on VOC's 10582 images
    "batch_size": 10,
    "accumulate": 2,
    "lr": 2.5e-4,
    "schedule": "poly",
    "power": 0.9,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "crop": 321,
    "scale": (0.5, 0.75, 1.0, 1.25, 1.5),
    "scale_pick": "one_of",
    "train_scales": (1.0, 0.75, 0.5),
    "loss": "plain",
}
_LARGE_FOV: dict[str, Any] = {
    "architecture": "large_fov",
    "backbone": "vgg16_large_fov",
    "epochs": 17,  # 6k iterations of 30
    "batch_size": 30,
    "accumulate": 1,
    "lr": 1e-3,
    "schedule": "step",
    "gamma": 0.1,
    "step_every": 11,  # the 4000th iteration
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "crop": 321,
    "scale": (1.0,),
    "scale_pick": "one_of",
    "train_scales": (1.0,),
    "loss": "plain",
}
# Published settings. The epochs belong to VOC's 10582 and COCO's 82081 images.
PRESETS: dict[str, dict[str, Any]] = {
    "deeplab_v2": _DEEPLAB_V2,
    # AdvCAM and RIB: 30k iterations. That the scales go up in quarters as in the original is an assumption.
    "deeplab_v2_balanced": {
        **_DEEPLAB_V2,
        "epochs": 28,
        "scale": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
        "loss": "balanced",
    },
    # LPCAM: 100k iterations of 2 x 10. Crop and scales are not stated; those of VOC are an assumption.
    "deeplab_v2_coco": {**_DEEPLAB_V2, "epochs": 24, "batch_size": 20, "lr": 2e-4},
    "large_fov_step": _LARGE_FOV,
    # 20k iterations of 10.
    "large_fov_poly": {**_LARGE_FOV, "epochs": 19, "batch_size": 10, "schedule": "poly", "power": 0.9},
    # Wei et al. 2017: a tenth after 6 epochs; the schedule takes another one after 12, the last three.
    "psl": {**_LARGE_FOV, "epochs": 15, "step_every": 6},
}


def segment_params(preset: str = "deeplab_v2", **overrides: Any) -> SegmentParams:
    """A published parameter set, some of it replaced. Raises ``ConfigError`` for a name that is not published."""
    if preset not in PRESETS:
        raise ConfigError(f"segment: unknown preset '{preset}'{did_you_mean(preset, PRESETS)}")
    return SegmentParams(**{**PRESETS[preset], **overrides})


# --- samples ---------------------------------------------------------------------------------------------------------


class Photos(Protocol):
    """What training reads of ``camflow.data.catalog.Catalog``."""

    class_names: Sequence[str]
    ids: Sequence[str]

    def image(self, image_id: str) -> np.ndarray: ...  # uint8 RGB (H, W, 3)


class MaskedPhotos(Photos, Protocol):
    """What validation reads of ``camflow.data.catalog.Catalog``."""

    has_masks: bool

    def mask(self, image_id: str) -> np.ndarray | None: ...  # uint8 (H, W) of {0 .. C, 255}


class LabelMaps(Protocol):
    """What training reads of a ``camflow.store.Store`` of label maps."""

    def read(self, image_id: str) -> np.ndarray: ...  # uint8 (H, W) of {0 .. C, 255}


class SegmentSamples:
    """Training samples: dicts of ``image`` float32 (3, c, c) and ``label`` uint8 (c, c), with their pixels in step.

    Resized by one random factor (bicubic, nearest), augmented, normalised, mirrored, cropped or padded (0, the mean
    colour, and 255). A subclass may add entries in ``sample``, and maps that are cut out with the image in ``_cut``.

    Args:
        catalog: the photos; every one has labels.
        labels: label maps by image id.
        params: crop, scale, hflip, augment.
        mean, std: of the network.
    """

    def __init__(
        self, catalog: Photos, labels: LabelMaps, params: SegmentParams, mean: Sequence[float], std: Sequence[float]
    ):
        self.catalog, self.labels, self.params, self.mean, self.std = catalog, labels, params, tuple(mean), tuple(std)
        self.ids = list(catalog.ids)
        self.n_labels = len(catalog.class_names) + 1

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """See ``camflow.train.loop.Samples``. Raises ``DataError`` for labels of another size or of unknown classes."""
        params = self.params
        photo, label = self._read(self.ids[index])
        size = self._size(photo.shape[:2], rng)
        photo, label = resize(photo, size), resize(label, size, nearest=True)
        photo = apply_augmentations(photo, "photo", params.augment, rng)
        image, label = random_flip(normalize(photo, self.mean, self.std), label, rng, params.hflip)
        image, maps = self._cut(image, label, rng)
        image = apply_augmentations(image, "input", params.augment, rng)
        found = {name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in maps.items()}
        return {"image": torch.from_numpy(to_chw(image)), **found}

    def _cut(
        self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The square input (c, c, 3) of an image (h, w, 3), and the maps (c, c) beside it by name."""
        image, label = random_crop_pad(image, label, self.params.crop, rng)
        return image, {"label": label}

    def _read(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        photo, label = self.catalog.image(image_id), self.labels.read(image_id)
        if label.shape != photo.shape[:2]:
            raise DataError(
                f"image '{image_id}' is {photo.shape[:2]} pixels, its labels are for {label.shape}; "
                "make the labels again"
            )
        highest = int(np.where(label == IGNORE, 0, label).max())
        if highest >= self.n_labels:
            raise DataError(
                f"image '{image_id}': its labels have {highest}, but there are {self.n_labels - 1} classes; "
                "make the labels again, or mend the class list"
            )
        return photo, label

    def _size(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        """The (height, width) a photo is resized to."""
        scale = self.params.scale
        factor = float(rng.uniform(*scale) if self.params.scale_pick == "uniform" else rng.choice(np.asarray(scale)))
        height, width = self.params.frame(size)
        return max(1, round(height * factor)), max(1, round(width * factor))


# --- the task --------------------------------------------------------------------------------------------------------


class SegmentTask(Task):
    """A segmentation network and its label maps; logs the loss of every scale where there are several.

    To train with another loss, override ``loss``; to add what it needs to the batch, subclass ``SegmentSamples``.
    ``plain`` is a mean over the pixels of a micro-batch, so ``accumulate`` and several processes give each part of a
    batch its own count (as the released code does); ``balanced`` is a mean over images.

    Args:
        model: the network.
        dataset: the samples.
        params: losses and scales.
        val: photos with true masks for the column ``val_miou``, or None.
        workers: loader processes of the validation pass.

    Attributes:
        best: with ``select: best`` the ``miou``, ``epoch`` (from 1) and ``weights`` chosen so far, else None.

    Raises:
        ConfigError: there is nothing to select or validate on.
    """

    model: Segmenter

    def __init__(
        self,
        model: Segmenter,
        dataset: SegmentSamples,
        params: SegmentParams,
        val: MaskedPhotos | None = None,
        workers: int = 0,
    ):
        if val is not None and not val.has_masks:
            raise ConfigError("segment: the validation split has no true masks; validate on another, or on none")
        if val is None and params.select == "best":
            raise ConfigError("segment: select: best needs a validation split with true masks; use select: last")
        self.model, self.dataset, self.params, self.val, self.workers = model, dataset, params, val, workers
        self.best: dict[str, Any] | None = None
        self.epoch = 0

    def begin_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def outputs(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what has a loss: logits (B, n_labels, h_s, w_s) by the name of their scale."""
        scales = self.params.train_scales
        logits = [at_least_single(one) for one in scale_logits(self.model, images, scales)]
        found = {f"{scale:g}": one for scale, one in zip(scales, logits, strict=True)}
        return found if len(scales) == 1 else {**found, "max": fuse_max(logits)}

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, batch: dict[str, Any]) -> torch.Tensor:
        """Return the loss of one output.

        Args:
            logits: (B, n_labels, h, w), at least float32.
            labels: uint8 (B, h, w) on the same grid, 255 no label.
            batch: the whole batch, for subclasses.
        """
        return LOSSES[self.params.loss](logits, labels)

    def step(self, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        losses = {
            f"loss_{name}": self.loss(*match_grid(logits, batch["label"], self.params.loss_grid), batch)
            for name, logits in self.outputs(batch["image"]).items()
        }
        total = torch.stack(list(losses.values())).sum()
        return total, losses if len(losses) > 1 else {}

    def evaluate(self) -> Row:
        """Return ``val_miou`` of single-scale predictions; with ``select: best`` keep or take up the best weights."""
        if self.val is None:
            return {}
        score = float(miou(self.val_confusion()))
        if self.params.select == "best":
            if self.best is None or score > self.best["miou"]:
                weights = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
                self.best = {"miou": score, "epoch": self.epoch + 1, "weights": weights}
            # Before the last checkpoint is written, so that a run killed behind it ends in the same weights.
            if self.epoch + 1 == self.params.epochs:
                self.model.load_state_dict(self.best["weights"])
        return {"val_miou": score}

    def val_confusion(self) -> np.ndarray:
        """Return the confusion matrix, int64 (n_labels, n_labels), of the validation images that have a mask."""
        own = np.zeros((self.model.n_labels,) * 2, np.int64)
        for image_id, labels, mask in predict_labels(self.model, self.val, self.params, self.workers):
            own += confusion_matrix(mask, labels, self.model.n_labels, image_id=image_id)
        return np.sum(distributed.gather_objects(own), axis=0)

    def facts(self) -> dict[str, Any]:
        """Return where the weights were chosen, if they were."""
        if self.best is None:
            return {}
        return {"selected_on": "val", "selected_epoch": self.best["epoch"], "selected_miou": self.best["miou"]}

    def param_groups(self) -> list[dict[str, Any]]:
        return published_groups(self.model, self.model.new_layers())

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]


# --- validation ------------------------------------------------------------------------------------------------------


class _EvalPhotos(Dataset):
    """Whole photos at scale 1 with their masks: (id, float32 (3, h, w), uint8 (H, W))."""

    def __init__(self, catalog: MaskedPhotos, ids: list[str], params: SegmentParams, mean: Sequence, std: Sequence):
        self.catalog, self.ids, self.params, self.mean, self.std = catalog, ids, params, mean, std

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[str, torch.Tensor, np.ndarray] | None:
        image_id = self.ids[index]
        mask = self.catalog.mask(image_id)
        if mask is None:
            return None
        photo = self.catalog.image(image_id)
        photo = resize(photo, self.params.frame(photo.shape[:2]))
        return image_id, torch.from_numpy(to_chw(normalize(photo, self.mean, self.std))), mask


def predict_labels(
    model: Segmenter, catalog: MaskedPhotos, params: SegmentParams, workers: int = 0
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield (id, predicted labels, true mask), uint8 (H, W) both, of this process's share of the images with a mask.

    Every photo is seen whole, once, at scale 1; its logits are resized to the mask (bilinear, corners not aligned).
    """
    ids = list(catalog.ids)[distributed.rank() :: distributed.world_size()]
    loader = DataLoader(
        _EvalPhotos(catalog, ids, params, model.mean, model.std),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        generator=torch.Generator(),
    )
    device = next(model.parameters()).device
    for item in loader:
        if item is None:
            continue
        image_id, image, mask = item
        logits = resize_logits(at_least_single(model(image[None].to(device))), mask.shape)
        yield image_id, logits[0].argmax(dim=0).to(torch.uint8).cpu().numpy(), mask


def _as_it_is(item: Any) -> Any:
    return item


# --- the stage -------------------------------------------------------------------------------------------------------


def train_segmenter(
    catalog: Photos,
    labels: LabelMaps,
    params: SegmentParams,
    *,
    catalog_val: MaskedPhotos | None = None,
    **run: Unpack[Run],
) -> Segmenter:
    """Train a segmentation network and write it; calling again after a kill resumes and ends in the same bytes.

    Args:
        catalog: the photos to learn from.
        labels: their label maps.
        params: see ``SegmentParams``.
        out: the network's file, see ``camflow.models.segmenter.load_segmenter``.
        metrics_csv: one row per epoch: epoch, lr, train_loss, with several train_scales train_loss_<scale> and
            train_loss_max, and with ``catalog_val`` val_miou.
        catalog_val: photos with true masks for the column val_miou. They choose the weights with ``select: best`` only;
            the file's meta then has ``selected_on: val``, ``selected_epoch`` and ``selected_miou``.
        run: see ``camflow.train.tofile.Run``.

    Returns:
        The network in eval mode on its device.
    """

    def make_task() -> SegmentTask:
        model = params.build(len(catalog.class_names))
        samples = SegmentSamples(catalog, labels, params, model.mean, model.std)
        return SegmentTask(model, samples, params, catalog_val, run.get("workers", 0))

    return train_to_file(
        make_task, params, save_segmenter, method=params.architecture, class_names=catalog.class_names, **run
    )
