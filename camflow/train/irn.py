"""Training of IRN's network: confident labels in, boundaries and displacements out (Ahn, Cho and Kwak, CVPR 2019).

Every pair of cells within a radius whose labels are both known says something: pairs of one label should have no
boundary on the path between them, pairs of different labels should have one, and the displacements of two cells of one
class should point to the same place. With the affinity a of a pair and the displacement D,

    pos     = 1/2 mean over background pairs of -log a + 1/2 mean over pairs of one class of -log a
    neg     = mean over pairs of different labels of -log(1 - a)
    disp_fg = mean over pairs of one class of |D_i - D_j - (x_j - x_i)|
    disp_bg = mean over background pairs of |D_i - D_j|
    total   = (pos + neg) / 2 + (disp_fg + disp_bg) / 2

where each mean is over the pairs of the whole batch, with 1e-5 added to their number and inside the logarithms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Unpack

import numpy as np
import torch
from torch.autograd.function import once_differentiable
from torch.utils.data import DataLoader, Dataset

from camflow.errors import ConfigError, DataError
from camflow.models.classifier import Classifier
from camflow.models.irn import STRIDE, IrnNetwork, build_irn, check_multiple, save_irn
from camflow.refine.neighbours import neighbours, shift, source_window
from camflow.train import distributed
from camflow.train.augment import IGNORE, normalize, random_crop_pad, random_flip, random_scale, to_chw
from camflow.train.loop import Task
from camflow.train.settings import TrainSettings
from camflow.train.tofile import Run, train_to_file

EPSILON = 1e-5  # in logarithms and added to the numbers of pairs


@dataclasses.dataclass(frozen=True)
class IrnTrainParams(TrainSettings):
    """Parameters of the training; the defaults are IRN's, which AdvCAM and LPCAM use unchanged.

    Fields that ``TrainSettings`` also has mean what they mean there. Others:

    Attributes:
        radius: cells of the stride-4 grid closer than this are paired.
        disp_lr_mult: learning rate of the displacement branch as a multiple of ``lr``.
        crop: side of the square training input in pixels, a multiple of 16.
        scale: bounds of the factor by which a photo is resized before cropping.
        hflip: probability of mirroring.
    """

    epochs: int = 3
    batch_size: int = 32
    momentum_slot: str = "authors"
    radius: int = 10
    disp_lr_mult: float = 10.0
    crop: int = 512
    scale: tuple[float, float] = (0.5, 1.5)
    hflip: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "scale", tuple(float(s) for s in self.scale))
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(f"irn: scale must be two factors above 0, the smaller first, not {list(self.scale)}")
        if not 0 <= self.hflip <= 1 or self.disp_lr_mult < 0:
            raise ConfigError("irn: hflip lies in [0, 1], disp_lr_mult is not negative")
        check_multiple("crop", self.crop)
        source_window((self.crop // STRIDE, self.crop // STRIDE), neighbours(self.radius).radius)


# --- pairs -----------------------------------------------------------------------------------------------------------


class _PathMaximum(torch.autograd.Function):
    """Largest value on the path of every pair.

    The published code gathers every path's cells (28 million values for a 128 x 128 grid and radius 10) and pools.
    Here the cells are replaced by their ranks, which fit 16 bits, so that a maximum over shifted grids finds at once
    which cell is the largest: its rank is its name. Values are looked up at the end, and gradients are added up by
    rank. Sources are taken as one stretch of the flat grid from the first to the last; shifts of it stay on the grid,
    and what lies between the rows of sources is cut out at the end.
    """

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, radius: int) -> torch.Tensor:
        batch, height, width = values.shape
        near = neighbours(radius)
        window = source_window((height, width), radius)
        rows, columns = (side.stop - side.start for side in window)
        ordered, order = values.flatten(1).sort(dim=1, stable=True)
        kind = torch.int16 if height * width <= torch.iinfo(torch.int16).max else torch.int32
        numbers = torch.arange(height * width, dtype=kind, device=values.device).expand_as(order)
        rank = torch.empty_like(order, dtype=kind).scatter_(1, order, numbers)
        first, length = window[1].start, (rows - 1) * width + columns
        best = torch.empty((batch, len(near.paths), length), dtype=kind, device=values.device)
        for index, path in enumerate(near.paths):
            starts = [first + y * width + x for y, x in path.tolist()]
            out = best[:, index]
            torch.maximum(rank[:, starts[0] : starts[0] + length], rank[:, starts[1] : starts[1] + length], out=out)
            for start in starts[2:]:
                torch.maximum(out, rank[:, start : start + length], out=out)
        best = best.as_strided(
            (batch, len(near.paths), rows, columns), (len(near.paths) * length, length, width, 1)
        ).contiguous()
        ctx.save_for_backward(best, order)
        ctx.grid = height, width
        pairs = best.flatten(1)
        found = torch.stack([own.index_select(0, name.int()) for own, name in zip(ordered, pairs, strict=True)])
        return found.view(best.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        best, order = ctx.saved_tensors
        sums = gradient.new_zeros(order.shape, dtype=torch.float64)  # thousands of pairs may meet in one cell
        for own, name, part in zip(sums, best.flatten(1), gradient.flatten(1), strict=True):
            own.scatter_add_(0, name.long(), part.double())
        return torch.zeros_like(sums).scatter_(1, order, sums).to(gradient.dtype).view(-1, *ctx.grid), None


def path_maximum(values: torch.Tensor, radius: int) -> torch.Tensor:
    """Largest value on the path of every pair, differentiable.

    Args:
        values: (B, h, w) float.
        radius: of the pairs.

    Returns:
        (B, P, rows, columns): pairs in the order of ``Neighbours.offsets``, sources of ``source_window``. Where several
        cells are largest, one of them gets the gradient.

    Raises:
        ConfigError: the grid is too small for the radius.
    """
    return _PathMaximum.apply(values, radius)


@dataclasses.dataclass(frozen=True, eq=False)
class PairLabels:
    """What is known of each pair, bool (B, P, rows, columns); pairs in the order of ``Neighbours.offsets``.

    Attributes:
        background: both cells are background.
        foreground: both belong to one class.
        negative: both are known and differ.
    """

    background: torch.Tensor
    foreground: torch.Tensor
    negative: torch.Tensor


def pair_labels(labels: torch.Tensor, radius: int) -> PairLabels:
    """Compare the labels, uint8 (B, h, w) of {0 .. C, 255}, of the two cells of every pair."""
    window = source_window(tuple(labels.shape[1:]), radius)
    near = neighbours(radius)
    source = labels[(slice(None), *window)][:, None]
    target = torch.stack([labels[(slice(None), *shift(window, dy, dx))] for dy, dx in near.offsets.tolist()], dim=1)
    known = source != IGNORE
    same = source == target
    return PairLabels(
        background=same & (source == 0),
        foreground=same & (source != 0) & known,
        negative=~same & known & (target != IGNORE),
    )


# --- losses ----------------------------------------------------------------------------------------------------------


class _DisplacementSums(torch.autograd.Function):
    """Sums of |D_i - D_j - (x_j - x_i)| over pairs of one class and of |D_i - D_j| over background pairs, float64.

    One offset at a time: the differences of all pairs would take 300 times the memory of the field. The gradient is
    made on the way; it consists of signs, so it adds up exactly.
    """

    @staticmethod
    def forward(
        ctx: Any, field: torch.Tensor, foreground: torch.Tensor, background: torch.Tensor, radius: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        window = source_window(tuple(field.shape[-2:]), radius)
        source = field[(..., *window)]
        offsets = neighbours(radius).offsets
        steps = torch.from_numpy(offsets).to(field)[:, :, None, None]
        sums = field.new_zeros(2, dtype=torch.float64)
        slopes = field.new_zeros((2, *field.shape))
        for index, (dy, dx) in enumerate(offsets.tolist()):
            there = shift(window, dy, dx)
            moved = source - field[(..., *there)]
            for kind, (chosen, apart) in enumerate(((foreground, moved - steps[index]), (background, moved))):
                apart = apart * chosen[:, None, index]
                sums[kind] += apart.abs().sum(dtype=torch.float64)
                sign = apart.sign_()
                slopes[kind][(..., *window)] += sign
                slopes[kind][(..., *there)] -= sign
        ctx.save_for_backward(slopes)
        return sums[0], sums[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, foreground: torch.Tensor, background: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return slopes[0] * foreground.to(slopes) + slopes[1] * background.to(slopes), None, None, None


def irn_losses(edge: torch.Tensor, field: torch.Tensor, labels: torch.Tensor, radius: int) -> dict[str, torch.Tensor]:
    """The losses of a batch: scalars ``bg_pos``, ``fg_pos``, ``pos``, ``neg``, ``disp_fg``, ``disp_bg``, ``total``.

    They stay finite when a kind of pair does not occur.

    Args:
        edge: (B, 1, h, w) boundary logits.
        field: (B, 2, h, w) raw displacements (dy, dx) in cells.
        labels: (B, h, w) uint8 of {0 .. C, 255}.
        radius: of the pairs.
    """
    pairs = pair_labels(labels, radius)
    affinity = 1 - path_maximum(torch.sigmoid(edge[:, 0]), radius)
    alike, apart = -torch.log(affinity + EPSILON), -torch.log(1 + EPSILON - affinity)
    displaced = _DisplacementSums.apply(field, pairs.foreground, pairs.background, radius)
    losses = {
        "bg_pos": _mean((alike * pairs.background).sum(dtype=torch.float64), pairs.background),
        "fg_pos": _mean((alike * pairs.foreground).sum(dtype=torch.float64), pairs.foreground),
        "neg": _mean((apart * pairs.negative).sum(dtype=torch.float64), pairs.negative),
        "disp_fg": _mean(displaced[0], pairs.foreground, parts=2),
        "disp_bg": _mean(displaced[1], pairs.background, parts=2),
    }
    losses = {name: value.to(edge.dtype) for name, value in losses.items()}
    losses["pos"] = (losses["bg_pos"] + losses["fg_pos"]) / 2
    losses["total"] = (losses["pos"] + losses["neg"]) / 2 + (losses["disp_fg"] + losses["disp_bg"]) / 2
    return losses


def _mean(total: torch.Tensor, chosen: torch.Tensor, parts: int = 1) -> torch.Tensor:
    """A float64 sum by the number of pairs in it; in float64 because float32 cannot count the pairs of 32 crops."""
    return total / (parts * chosen.sum().double() + EPSILON)


# --- samples ---------------------------------------------------------------------------------------------------------


class Catalog(Protocol):
    """What training reads of ``camflow.data.catalog.Catalog``."""

    class_names: Sequence[str]
    ids: Sequence[str]

    def image(self, image_id: str) -> np.ndarray: ...  # uint8 RGB (H, W, 3)


class Labels(Protocol):
    """What training reads of a ``camflow.store.Store`` of confident labels."""

    def read(self, image_id: str) -> np.ndarray: ...  # uint8 (H, W) of {0 .. C, 255}


class LabelledCrops:
    """Training samples: dicts of ``image`` float32 (3, c, c) and ``label`` uint8 (c/4, c/4), with their pixels in step.

    Resized by one random factor (bicubic, nearest), normalised, mirrored, cropped or padded (0, 255) to c x c, as
    IRN's code does. Of every 4 x 4 pixels' labels the third of the third row is kept: what nearest resizing does.

    Args:
        catalog: the photos; every one has labels.
        labels: confident labels by image id.
        params: crop, scale, hflip.
        mean, std: of the network.
    """

    def __init__(
        self,
        catalog: Catalog,
        labels: Labels,
        params: IrnTrainParams,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ):
        self.catalog, self.labels, self.params, self.mean, self.std = catalog, labels, params, mean, std
        self.ids = list(catalog.ids)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """See ``camflow.train.loop.Samples``. Raises ``DataError`` when photo and labels differ in size."""
        image_id = self.ids[index]
        photo, label = self.catalog.image(image_id), self.labels.read(image_id)
        if label.shape != photo.shape[:2]:
            raise DataError(
                f"image '{image_id}' is {photo.shape[:2]} pixels, its labels are for {label.shape}; "
                "make the labels again"
            )
        photo, label = random_scale(photo, label, self.params.scale, rng)
        image, label = random_flip(normalize(photo, self.mean, self.std), label, rng, self.params.hflip)
        image, label = random_crop_pad(image, label, self.params.crop, rng)
        small = np.ascontiguousarray(label[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE])
        return {"image": torch.from_numpy(to_chw(image)), "label": torch.from_numpy(small)}


class IrnTask(Task):
    """Training of the branches; the trunk is frozen.

    The means run over the pairs of a micro-batch: with ``accumulate`` or several processes each part is normalised by
    its own numbers, so results differ a little from one big batch (as they did in the published multi-GPU code).
    """

    def __init__(self, model: IrnNetwork, catalog: Catalog, labels: Labels, params: IrnTrainParams):
        self.model, self.params = model, params
        self.dataset = LabelledCrops(catalog, labels, params, model.mean, model.std)

    def step(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        edge, field = self.model(batch["image"])
        losses = irn_losses(edge.float(), field.float(), batch["label"], self.params.radius)
        return losses["total"], {name: losses[name] for name in ("pos", "neg", "disp_fg", "disp_bg")}

    def param_groups(self) -> list[dict[str, Any]]:
        return [
            {"params": self.model.edge_parameters()},
            {"params": self.model.displacement_parameters(), "lr_mult": self.params.disp_lr_mult},
        ]


# --- the mean displacement -------------------------------------------------------------------------------------------


class _Corners(Dataset):
    """Top-left corners of photos, normalised, zero-padded: float32 (3, c, c)."""

    def __init__(self, catalog: Catalog, ids: Sequence[str], crop: int, mean: tuple, std: tuple):
        self.catalog, self.ids, self.crop, self.mean, self.std = catalog, list(ids), crop, mean, std

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> torch.Tensor:
        photo = self.catalog.image(self.ids[index])[: self.crop, : self.crop]
        image = np.zeros((self.crop, self.crop, 3), np.float32)
        image[: photo.shape[0], : photo.shape[1]] = normalize(photo, self.mean, self.std)
        return torch.from_numpy(to_chw(image))


def mean_displacement(model: IrnNetwork, catalog: Catalog, crop: int, workers: int = 0) -> torch.Tensor:
    """Mean raw displacement (2,) float64 over the photos of a catalog, each as its top-left crop, padded.

    Every photo counts alike. The published code averages batches of 32 and leaves out the last, smaller one, which
    fails on fewer than 32 photos; for a multiple of 32 the two agree. Processes share the work; the result does not
    depend on their number.

    Args:
        model: any mode; put into eval mode.
        catalog: at least one photo.
        crop: side in pixels.
        workers: loader processes.
    """
    if not len(catalog.ids):
        raise ConfigError("irn: the mean displacement needs at least one image; the split is empty")
    model.eval()
    parts = distributed.gather_objects(list(_displacements(model, catalog, crop, workers)))
    means = np.empty((len(catalog.ids), 2))
    for rank, part in enumerate(parts):
        means[rank :: len(parts)] = np.reshape(part, (-1, 2))
    return torch.from_numpy(means.mean(axis=0))


def _displacements(model: IrnNetwork, catalog: Catalog, crop: int, workers: int) -> Iterator[np.ndarray]:
    """Mean raw displacement (2,) float64 of each photo of this process's share."""
    ids = list(catalog.ids)[distributed.rank() :: distributed.world_size()]
    shift_back = model.mean_shift.running_mean.double()
    place = shift_back.device
    # One at a time on the CPU, where the batch size changes the last bits and gains nothing.
    loader = DataLoader(
        _Corners(catalog, ids, crop, model.mean, model.std),
        batch_size=16 if place.type == "cuda" else 1,
        num_workers=workers,
        generator=torch.Generator(),
    )
    with torch.no_grad():
        for images in loader:
            _, field = model(images.to(place))
            yield from (field.double().mean(dim=(2, 3)) + shift_back).cpu().numpy()


# --- the stage -------------------------------------------------------------------------------------------------------


def train_irn(
    catalog: Catalog,
    labels: Labels,
    classifier: Classifier,
    params: IrnTrainParams,
    *,
    mean_catalog: Catalog | None = None,
    **run: Unpack[Run],
) -> IrnNetwork:
    """Train IRN's network and write it; calling again after a kill resumes and ends in the same bytes.

    Args:
        catalog: photos to learn from.
        labels: their confident labels, ``camflow.refine.confident``.
        classifier: the trunk, frozen in place; see ``camflow.models.irn.build_irn`` for the published one.
        params: see ``IrnTrainParams``.
        out: the network's file, see ``camflow.models.irn.load_irn``.
        metrics_csv: one row per epoch: epoch, lr, train_loss, train_pos, train_neg, train_disp_fg, train_disp_bg.
        mean_catalog: photos of the mean displacement; None: those of ``catalog``, as published.
        run: see ``camflow.train.tofile.Run``.

    Returns:
        The network in eval mode on its device.

    Raises:
        StoreError: an image has no labels.
        DataError: an image's labels are of another size.
    """

    def make_task() -> IrnTask:
        return IrnTask(build_irn(classifier, seed=params.seed), catalog, labels, params)

    def finish(model: IrnNetwork) -> None:
        mean = mean_displacement(model, mean_catalog or catalog, params.crop, run.get("workers", 0))
        model.mean_shift.running_mean.copy_(mean)

    return train_to_file(
        make_task, params, save_irn, method="irn", class_names=catalog.class_names, finish=finish, **run
    )
