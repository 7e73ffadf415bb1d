"""AMN's own maps: Lee, Kim and Shim, CVPR 2022, the released inference at scales 1, .5, 1.5, 2 with mirroring.

The logits of all scales and views are averaged on the target grid; with p their softmax over background and classes and
l the confident label that the network was trained on (or would have been, on another split), the map of a class is

    (p - min p) / (max p - min p + 1e-5)   where l is not background (ignored pixels included),
    p                                      where l is background,

so that what the first stage was sure of stays low. This is no sum over scales, hence the result is stored, not raw maps,
and readers take it as it is (``SeedMaps.absolute``). The published code makes it on two grids: that of the photo, for
scores and confident labels, and one of stride 4 for random walks. One of them is stored here; the other is read from it
bilinearly.

The released ``eval()`` leaves dropout on, so the published maps are random; ``dropout_at_test`` does the same, with draws
that depend on the seed, the image and the scale only.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.localize.extract import Batch, Photos, Views, load_batch, run_batches, to_views, write_batches
from camflow.localize.maps import EPSILON, SeedMaps
from camflow.models.amn import Amn, AmnHost
from camflow.store import Store, StoreWriter

GRIDS = {"photo": 1, "stride4": 4}  # pixels per cell
Keep = Callable[[torch.Tensor], torch.Tensor]  # features -> which of them are kept


@dataclass(frozen=True)
class AmnMapParams(Views):
    """Parameters of AMN's maps; the views default to the published ones.

    Attributes:
        grid: where the maps are made and stored: every pixel of the ``photo``, as published scores and labels read them,
            or every fourth (``stride4``), as published walks do, in a sixteenth of the space.
        dropout_at_test: drop features as in training, what the released code does.
        seed: of what is dropped.
    """

    grid: str = "photo"
    dropout_at_test: bool = False
    seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        if self.grid not in GRIDS:
            raise ConfigError(f"amn: unknown grid '{self.grid}'{did_you_mean(self.grid, GRIDS)}")

    def cells(self, size: Sequence[int]) -> tuple[int, int]:
        """Return the (height, width) of the map of a photo of a size."""
        height, width = ((int(n) - 1) // GRIDS[self.grid] + 1 for n in size)
        return height, width


def amn_planes(
    logits: Sequence[torch.Tensor], label: np.ndarray, classes: np.ndarray, size: tuple[int, int]
) -> torch.Tensor:
    """The map rule.

    Args:
        logits: one (C+1, h, w) per scale, mean over the views in the photo's frame, background first.
        label: uint8 (H, W) of {0 .. C, 255}; read at the centres of the cells.
        classes: (K,) 0-based indices of the present classes.
        size: (height, width) of the result.

    Returns:
        (K+1, *size) in [0, 1]: the background and the present classes.
    """
    resized = [functional.interpolate(one[None], size=size, mode="bilinear", align_corners=False)[0] for one in logits]
    rows = torch.as_tensor(np.concatenate([[0], np.asarray(classes, np.int64) + 1]), device=logits[0].device)
    share = torch.softmax(sum(resized) / len(resized), dim=0)[rows]
    low, high = share.amin(dim=(1, 2), keepdim=True), share.amax(dim=(1, 2), keepdim=True)
    near = Image.fromarray(label).resize(size[::-1], Image.Resampling.NEAREST)
    kept = torch.from_numpy(np.array(near) != 0).to(share.device)
    return torch.where(kept, (share - low) / (high - low + EPSILON), share)


def merged_logits(host: AmnHost, views: torch.Tensor, keep: Keep | None = None) -> torch.Tensor:
    """Mean logits (C+1, h, w) of the views (1, V, 3, H, W) of one image, the mirrored one turned back.

    Args:
        keep: see ``AmnHost.logits``, B being the V views.
    """
    found = host.logits(views[0].contiguous(memory_format=torch.channels_last), keep)
    found = found.to(torch.promote_types(found.dtype, torch.float32))
    return (found[0] + found[1].flip(-1)) / 2 if len(found) == 2 else found[0]


def dropping(share: float, seed: int, image_id: str, scale: float) -> Keep:
    """Draws which features are kept, all but a ``share``: the same for the same seed, image and scale."""
    rng = np.random.default_rng([seed, zlib.crc32(image_id.encode()), zlib.crc32(repr(scale).encode())])

    def keep(features: torch.Tensor) -> torch.Tensor:
        draws = rng.random(tuple(features.shape), dtype=np.float32)
        return torch.from_numpy(draws >= share).to(features.device)

    return keep


def amn_seed(model: Amn, batch: Batch, label: np.ndarray | None, params: AmnMapParams, table: torch.Tensor) -> SeedMaps:
    """The maps of a batch of one image with its confident label; runs on the table's device.

    Without present classes there is no map, and no need of a label. Raises ``DataError`` when the label is for another
    size of photo; names the image.
    """
    ((image_id, classes),) = zip(batch.ids, batch.classes, strict=True)
    stride = GRIDS[params.grid]
    if label is None:
        return SeedMaps(classes, [], batch.size, stride=stride, absolute=True)
    if label.shape != batch.size:
        raise DataError(
            f"image '{image_id}' is {batch.size} pixels, its confident label is for {label.shape}; make the labels again"
        )
    host, logits = model.given(classes), []
    with torch.inference_mode():
        for pixels, scale in zip(batch.pixels, params.scales, strict=True):
            views = to_views(pixels.to(table.device, non_blocking=True), table, params.flip)
            keep = dropping(model.dropout, params.seed, image_id, scale) if params.dropout_at_test else None
            with torch.autocast(table.device.type, torch.bfloat16, enabled=params.precision == "bfloat16"):
                logits.append(merged_logits(host, views, keep))
        planes = amn_planes(logits, label, classes, params.cells(batch.size))
    return SeedMaps(classes, [planes[1:].cpu().numpy()], batch.size, stride=stride, absolute=True)


def extract_amn_maps(
    model: nn.Module,
    catalog: Photos,
    params: AmnMapParams,
    writer: StoreWriter,
    labels: Store,
    *,
    batch_size: int = 1,
    device: str | torch.device = "cpu",
    workers: int = 1,
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Write AMN's maps of a catalog into an open ``StoreWriter(stage="maps")``.

    Args:
        model: an ``Amn``.
        labels: confident labels of the catalog's images, uint8 (H, W) of {0 .. C, 255}, made as those that the network was
            trained on.
        others: as in ``camflow.localize.extract.extract_maps``; images go through the network one by one.

    Raises:
        ConfigError: the classifier is of another method.
        StoreError: an image has no label.
        DataError: a label is for another size of photo; further as in ``extract_maps``.
    """
    if not isinstance(model, Amn):
        raise ConfigError("amn: this classifier is none of AMN; use one of method amn")

    def load(ids: list[str], size: tuple[int, int], pin: bool) -> tuple[Batch, np.ndarray | None]:
        batch = load_batch(catalog, ids, size, params, pin)
        return batch, labels.read(ids[0]) if len(batch.classes[0]) else None

    def run(loaded: tuple[Batch, np.ndarray | None], table: torch.Tensor) -> list[tuple[str, SeedMaps]]:
        batch, label = loaded
        return [(batch.ids[0], amn_seed(model, batch, label, params, table))]

    options = {"precision": params.precision, "batch_size": batch_size, "device": device, "workers": workers}
    write_batches(run_batches(model, catalog, load, run, **options), writer, progress)
