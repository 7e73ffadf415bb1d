"""The part that all localizers share: loading, rescaling, batching by size, running, writing in a fixed order.

A localizer is a function ``method(model, views, classes, scale) -> maps``:

    model    a host, see ``camflow.models.host``; one that is conditioned on labels has been told those of the images
    views    float (B, V, 3, h, w) on the device, normalised; V = 2 with flip (the photo and its mirror image), else 1
    classes  B integer arrays: the present classes of each image, each at least one long
    scale    the image scale the views were made at
    maps     B tensors (K_b, h', w'), >= 0: raw maps in the frame of the un-mirrored photo

Reproducibility on the CPU. The same image forwarded in a batch of 2 and in a batch of 16, or with one and with two
intra-op threads, differs in the last bits: the convolution library picks its kernels and its order of summation by the
batch size and the thread count (measured with torch 2.14: up to 2e-5 on score maps for the batch, 7e-4 for the
threads; the other images of the batch do not matter). Hence on the CPU every image runs by itself with one intra-op
thread, and the cores are used by running several images at a time. The bytes then depend on the photo and the weights
only, whatever the batch size, shards, workers or order; batching would have gained 0 to 35 % there. On a GPU images of
one size are batched, which is the point of a GPU; results of other batch sizes agree to rounding, not to the bit.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import nn

from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.localize.maps import SeedMaps
from camflow.models.host import Host, LabelConditioned, given_labels
from camflow.store import StoreWriter

PRECISIONS = ("float32", "tf32", "bfloat16")

Method = Callable[[Host, torch.Tensor, Sequence[np.ndarray], float], list[torch.Tensor]]
Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Result = TypeVar("Result")


class Photos(Protocol):
    """What the driver reads from a catalog."""

    class_names: Sequence[str]
    ids: Sequence[str]
    sizes: np.ndarray

    def label(self, image_id: str) -> np.ndarray: ...

    def image(self, image_id: str) -> np.ndarray: ...


@dataclass(frozen=True)
class Views:
    """How a photo is shown to the network; localizers add their own parameters by inheriting.

    Attributes:
        scales: image scales; raw maps are kept for each, in this order.
        flip: also show the mirror image.
        long_side: resize photos so that their long side has this many pixels at scale 1; None keeps their size.
        precision: arithmetic of the network: ``float32``, ``tf32`` (GPU: 10-bit factors), ``bfloat16`` (autocast).
    """

    scales: tuple[float, ...] = (1.0, 0.5, 1.5, 2.0)
    flip: bool = True
    long_side: int | None = None
    precision: str = "float32"

    def __post_init__(self):
        object.__setattr__(self, "scales", tuple(float(s) for s in self.scales))
        if not self.scales or min(self.scales) <= 0:
            raise ConfigError(f"scales: needs at least one scale above 0, not {list(self.scales)}")
        if self.long_side is not None and self.long_side < 1:
            raise ConfigError(f"long_side: needs at least one pixel, not {self.long_side}")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision: unknown '{self.precision}'{did_you_mean(self.precision, PRECISIONS)}")


# --- photo -> views --------------------------------------------------------------------------------------------------


def frame_size(size: Sequence[int], long_side: int | None) -> tuple[int, int]:
    """(H, W) of the photo at scale 1."""
    height, width = (int(n) for n in size)
    if long_side is None:
        return height, width
    factor = long_side / max(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def rescale(photo: np.ndarray, frame: tuple[int, int], scale: float) -> np.ndarray:
    """Resize a uint8 photo to round(H*s), round(W*s) by Pillow's bicubic filter, as the published code does.

    Half-way cases round to even. One resampling only: straight from the photo, also when the frame differs from it.
    """
    height, width = (max(1, round(n * scale)) for n in frame)
    if (height, width) == photo.shape[:2]:
        return photo
    return np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BICUBIC))


def normalisation_table(mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """(3, 256) float32: (v/255 - mean)/std of every grey level, evaluated in float64 and then rounded."""
    grey = np.arange(256) / 255
    table = (grey - np.asarray(mean, np.float64)[:, None]) / np.asarray(std, np.float64)[:, None]
    return torch.from_numpy(table.astype(np.float32))


def to_views(pixels: torch.Tensor, table: torch.Tensor, flip: bool) -> torch.Tensor:
    """Turn uint8 (B, h, w, 3) into normalised (B, V, 3, h, w) of the table's dtype, on the device of both.

    A look-up instead of arithmetic gives exactly the values of the float64 formula, and lets photos travel to the
    device as bytes.
    """
    channels = [table[c][pixels[..., c].long()] for c in range(3)]
    views = torch.stack(channels, dim=1)[:, None]
    return torch.cat([views, views.flip(-1)], dim=1) if flip else views


def run_views(model: Host, views: torch.Tensor) -> torch.Tensor:
    """Score maps of all views in one forward pass: (B, V, 3, h, w) -> (B, V, C, h', w')."""
    flat = views.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    return model.score_maps(flat).unflatten(0, views.shape[:2])


# --- one batch -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Images of one size (H, W): their ids and present classes, and per scale the rescaled photos (B', h, w, 3) uint8
    of the B' images that have a present class."""

    ids: list[str]
    classes: list[np.ndarray]
    size: tuple[int, int]
    pixels: list[torch.Tensor]


def load_batch(catalog: Photos, ids: list[str], size: tuple[int, int], params: Views, pin: bool = False) -> Batch:
    """Read and rescale photos of one size.

    Photos without any present class are not read: nothing can be localised in them.
    """
    classes = [np.flatnonzero(catalog.label(image_id)) for image_id in ids]
    frame = frame_size(size, params.long_side)
    stacks: list[list[np.ndarray]] = [[] for _ in params.scales]
    for image_id, present in zip(ids, classes, strict=True):
        if not len(present):
            continue
        photo = np.ascontiguousarray(catalog.image(image_id))
        if photo.shape[:2] != size:
            raise DataError(
                f"image '{image_id}' is {photo.shape[:2]} pixels, the catalog says {size}; make the catalog again"
            )
        for stack, scale in zip(stacks, params.scales, strict=True):
            stack.append(rescale(photo, frame, scale))
    pixels = [torch.from_numpy(np.stack(stack)) for stack in stacks if stack]
    return Batch(ids, classes, size, [p.pin_memory() for p in pixels] if pin else pixels)


def localize_batch(
    model: nn.Module, method: Method, batch: Batch, params: Views, table: torch.Tensor
) -> list[SeedMaps]:
    """Run a localizer on one batch; images come back in the batch's order. Runs on the table's device."""
    present = [c for c in batch.classes if len(c)]
    host = given_labels(model, present) if present else model
    per_scale = []
    for pixels, scale in zip(batch.pixels, params.scales, strict=False):
        views = to_views(pixels.to(table.device, non_blocking=True), table, params.flip)
        with torch.autocast(table.device.type, torch.bfloat16, enabled=params.precision == "bfloat16"):
            maps = method(host, views, present, scale)
        kind = torch.promote_types(table.dtype, torch.float32)
        per_scale.append([m.detach().to(kind).cpu().numpy() for m in maps])
    found = iter(zip(*per_scale, strict=True))
    frame, stride = frame_size(batch.size, params.long_side), model.map_stride
    return [
        SeedMaps(classes, list(next(found)) if len(classes) else [], batch.size, frame, stride)
        for classes in batch.classes
    ]


def seed_of_photo(
    model: nn.Module, method: Method, photo: np.ndarray, classes: Sequence[int], params: Views
) -> SeedMaps:
    """Localise the given classes in one photo; works in the dtype and on the device of the model's weights."""
    weight = next(model.parameters())
    table = normalisation_table(model.mean, model.std).to(weight.device, weight.dtype)
    photo = np.ascontiguousarray(photo)
    size = photo.shape[:2]
    frame = frame_size(size, params.long_side)
    pixels = [torch.from_numpy(rescale(photo, frame, s).copy())[None] for s in params.scales]
    classes = np.asarray(sorted(classes), np.int64)
    batch = Batch([""], [classes], size, pixels if len(classes) else [])
    return localize_batch(model, method, batch, params, table)[0]


# --- a whole catalog -------------------------------------------------------------------------------------------------


def plan_batches(ids: Sequence[str], sizes: np.ndarray, batch_size: int) -> list[tuple[tuple[int, int], list[str]]]:
    """Group images of equal size, at most ``batch_size`` together: a list of (size, ids).

    Read one after the other, the batches list the images by (H, W, id) whatever the batch size, so the written file
    does not depend on it.
    """
    batches: list[tuple[tuple[int, int], list[str]]] = []
    for height, width, image_id in sorted((int(h), int(w), i) for i, (h, w) in zip(ids, sizes, strict=True)):
        if batches and batches[-1][0] == (height, width) and len(batches[-1][1]) < batch_size:
            batches[-1][1].append(image_id)
        else:
            batches.append(((height, width), [image_id]))
    return batches


def extract_maps(
    model: nn.Module,
    catalog: Photos,
    method: Method,
    params: Views,
    writer: StoreWriter,
    *,
    batch_size: int = 8,
    device: str | torch.device = "cpu",
    workers: int = 1,
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Run a localizer over a catalog and stream its maps into an open ``StoreWriter(stage="maps")``.

    Args:
        model: a ``camflow.models.host.Host``; moved to ``device`` and put into eval mode.
        catalog: the images and their present classes.
        method: the localizer.
        params: its views.
        writer: receives one packed map per image, in an order that depends on the catalog only.
        batch_size: images of one size that run together on a GPU; no effect on the CPU (see the head of this file), nor on
            a network that is told the labels, which sees images one by one.
        device: where the network runs.
        workers: threads that load and rescale, and on the CPU also run the network, each on its own image.
        progress: called with the number of images done since its last call, e.g. ``tqdm(...).update``.

    Raises:
        DataError: classes do not match, or a map is not finite; names the image.
    """

    def load(ids: list[str], size: tuple[int, int], pin: bool) -> Batch:
        return load_batch(catalog, ids, size, params, pin)

    def run(batch: Batch, table: torch.Tensor) -> list[tuple[str, SeedMaps]]:
        return list(zip(batch.ids, localize_batch(model, method, batch, params, table), strict=True))

    options = {"precision": params.precision, "batch_size": batch_size, "device": device, "workers": workers}
    write_batches(run_batches(model, catalog, load, run, **options), writer, progress)


def write_batches(
    batches: Generator[Sequence[tuple[str, SeedMaps]]], writer: StoreWriter, progress: Callable[[int], Any] | None
) -> None:
    """Write the seed maps that ``run_batches`` yields, batch by batch; ``progress`` as of ``extract_maps``."""
    with contextlib.closing(batches):
        for results in batches:
            for image_id, seed in results:
                write_seed(writer, image_id, seed)
            if progress is not None:
                progress(len(results))


def run_batches(
    model: nn.Module,
    catalog: Photos,
    load: Callable[[list[str], tuple[int, int], bool], Loaded],
    run: Callable[[Loaded, torch.Tensor], Result],
    *,
    precision: str,
    batch_size: int,
    device: str | torch.device,
    workers: int,
) -> Generator[Result]:
    """Load and run all batches of a catalog by the rules at the head of this file; yields in the order of the batches.

    Args:
        model: moved to ``device`` and put into eval mode.
        catalog: the images.
        load: ``load(ids, size, pin)`` reads a batch of images of one size, in memory for fast transfers with ``pin``.
        run: ``run(loaded, table)`` runs the network on the device of the ``normalisation_table``.
        precision: arithmetic, see ``Views``.
        batch_size, device, workers: as of ``extract_maps``.

    Raises:
        DataError: the network knows other classes than the catalog.
    """
    check_classes(model, catalog)
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    model.to(device, memory_format=torch.channels_last).eval()
    table = normalisation_table(model.mean, model.std).to(device, next(model.parameters()).dtype)
    together = batch_size if on_gpu and not isinstance(model, LabelConditioned) else 1
    plan = plan_batches(catalog.ids, catalog.sizes, together)

    def load_one(item: tuple[tuple[int, int], list[str]]) -> Loaded:
        size, ids = item
        return load(ids, size, on_gpu)

    if plan:  # tables and files are opened on first use, which two threads must not do at once
        catalog.label(plan[0][1][0])
        catalog.image(plan[0][1][0])
    with numerics(device, precision), ThreadPoolExecutor(max(1, workers)) as pool:
        if on_gpu:
            for loaded in ordered(pool, load_one, plan, ahead=max(1, workers) + 1):
                yield run(loaded, table)
        else:
            yield from ordered(pool, lambda item: run(load_one(item), table), plan, ahead=2 * max(1, workers))


def write_seed(writer: StoreWriter, image_id: str, seed: SeedMaps) -> None:
    """Pack and write the maps of one image. Raises ``DataError`` naming the image when they cannot be right."""
    try:
        array, attrs = seed.pack()
    except ValueError as error:
        raise DataError(f"image '{image_id}': {error}; has the training of the classifier diverged?") from error
    writer.write(image_id, array, **attrs)


def check_classes(model: nn.Module, catalog: Photos) -> None:
    """Raise ``DataError`` unless the network was trained on the catalog's classes, in the same order."""
    wanted, rows = list(catalog.class_names), int(model.head.weight.shape[0])
    known = list(getattr(model, "class_names", None) or [])
    if rows != len(wanted) or (known and known != wanted):
        raise DataError(
            f"the classifier knows {rows} classes ({', '.join(known) or 'unnamed'}), "
            f"the dataset has {len(wanted)} ({', '.join(wanted)}); use a classifier trained on this dataset"
        )


@contextlib.contextmanager
def numerics(device: torch.device, precision: str) -> Iterator[None]:
    """Fix the arithmetic of a block: one intra-op thread on the CPU; reproducible kernels, TF32 only on request."""
    threads, matmul = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    tf32 = precision == "tf32"
    if device.type == "cpu":
        torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32 = matmul


def ordered(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """``map`` over a pool in order, with at most ``ahead`` items under way, so that memory stays bounded."""
    pending: deque = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
