"""Training of the classifier ``plain``: image labels in, a network with class activation maps out.

The defaults are IRN's recipe for PASCAL VOC (Ahn et al. 2019, as its code runs): ResNet-50 with the last stride
removed, ImageNet weights, frozen batch statistics and stem, nothing trained up to layer2, 5 epochs of 16 crops of 512
px, learning rate 0.1 (head 1.0), multi-label soft-margin loss, SGD whose momentum slot holds the weight decay.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score
from torch.utils.data import DataLoader, Dataset

from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.models.classifier import Classifier, build_classifier, save_classifier
from camflow.params import from_config
from camflow.train import distributed
from camflow.train.augment import TrainTransform, normalize, resize, to_chw
from camflow.train.hiding import LayerHidingParams, hide_in_layer, stop_hiding
from camflow.train.inputs import InputParams
from camflow.train.loop import Samples, Task
from camflow.train.metrics import Row
from camflow.train.settings import warn_of_frozen
from camflow.train.tofile import Run, train_to_file

LOSSES = ("soft_margin", "cross_entropy")


@dataclasses.dataclass(frozen=True)
class PlainParams(InputParams):
    """Parameters of the classifier method ``plain``; the fields are the config's keys, described in its schema.

    Fields that ``InputParams``, ``TrainSettings`` and ``build_classifier`` also have mean what they mean there. Others:

    Attributes:
        head_lr_mult: learning rate of the head as a multiple of ``lr``.
        loss: ``soft_margin`` (mean over classes of binary cross-entropies) or ``cross_entropy`` (one label per image).
        hide_layer: fields of ``camflow.train.hiding.LayerHidingParams``, to hide cells in a layer while training; None
            hides nothing. The trained network is one like any other.
    """

    backbone: str = "resnet50"
    weights: str = "IMAGENET1K_V1"
    output_stride: int | None = 16
    dilate: bool = False
    pooling: str = "gap"
    width: int = 24
    freeze_bn: bool = True
    freeze_stem: bool = True
    detach: str = "layer2"
    loss: str = "soft_margin"
    head_lr_mult: float = 10.0
    momentum_slot: str = "authors"
    hide_layer: Mapping[str, Any] | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.loss not in LOSSES:
            raise ConfigError(f"unknown loss '{self.loss}'{did_you_mean(self.loss, LOSSES)}")

    def build(self, n_classes: int) -> Classifier:
        """Build the network with its initial weights."""
        names = ("weights", "output_stride", "dilate", "pooling", "width", "freeze_bn", "freeze_stem", "detach", "seed")
        warn_of_frozen(self.weights, self.freeze_bn, self.freeze_stem, self.detach)
        model = build_classifier(self.backbone, n_classes, **{name: getattr(self, name) for name in names})
        if self.hide_layer is not None:
            hide_in_layer(model, from_config(LayerHidingParams, self.hide_layer))
        return model


class Catalog(Protocol):
    """What training reads of ``camflow.data.catalog.Catalog``."""

    class_names: Sequence[str]
    ids: Sequence[str]
    sizes: np.ndarray  # (N, 2) int32, height and width, rows in the order of ids

    def image(self, image_id: str) -> np.ndarray: ...  # uint8 RGB (H, W, 3)
    def label(self, image_id: str) -> np.ndarray: ...  # uint8 (C,) of 0/1


class LabelledSamples:
    """Training samples of a catalog: dicts of ``image`` float32 (3, c, c) and ``label`` float32 (C,)."""

    def __init__(self, catalog: Catalog, transform: TrainTransform):
        self.catalog, self.transform = catalog, transform
        self.ids = list(catalog.ids)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        image, _ = self.transform(self.catalog.image(self.ids[index]), rng)
        label = self.catalog.label(self.ids[index]).astype(np.float32)
        return {"image": torch.from_numpy(image), "label": torch.from_numpy(label)}


class ClassifyTask(Task):
    """Image-level classification with running training metrics and a validation pass.

    Args:
        model: the classifier.
        train: catalog to learn from.
        val: catalog to validate on, or None.
        params: losses, transforms, learning-rate multiple.
        workers: loader processes of the validation pass.
        samples: makes the training samples of a catalog and a transform.

    Raises:
        DataError: cross-entropy asked for images that do not have exactly one label.
    """

    def __init__(
        self,
        model: Classifier,
        train: Catalog,
        val: Catalog | None,
        params: PlainParams,
        workers: int = 0,
        samples: Callable[[Any, TrainTransform], Samples] | None = None,
    ):
        self.model, self.val, self.params, self.workers = model, val, params, workers
        self.dataset = (samples or LabelledSamples)(train, params.transform(model))
        if params.loss == "cross_entropy":
            for catalog in (train, val):
                _require_single_label(catalog)
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int) -> None:
        self._seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def loss(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of logits and labels ``(B, C)``."""
        if self.params.loss == "cross_entropy":
            return F.cross_entropy(logits, label.argmax(1))
        return F.multilabel_soft_margin_loss(logits, label)

    def step(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = self.model(batch["image"]).float()
        label = batch["label"]
        if self.params.loss == "cross_entropy":
            hits = logits.argmax(1) == label.argmax(1)
            return self.loss(logits, label), {"accuracy": hits.float().mean()}
        self.remember(logits, label)
        return self.loss(logits, label), {}

    def remember(self, logits: torch.Tensor, label: torch.Tensor) -> None:
        """Keep a batch's logits and labels for the metrics of the epoch.

        Copies, made while the photos are still there: the originals lie where the next batch of photos would go, and
        keeping them makes the process grow by a batch of photos a step.
        """
        self._seen.append((logits.detach().clone(), label.clone()))

    def evaluate(self) -> Row:
        """Return the epoch's training metrics and those of a pass over the validation images.

        ``train_map`` is that of the epoch's own augmented passes; with cross-entropy there is ``train_accuracy``
        instead, which needs no store of logits (a thousand classes times a million images).
        """
        row: Row = {}
        if self.params.loss == "soft_margin":
            row["train_map"] = mean_average_precision(*_gathered(self._seen))
        if self.val is not None:
            index, logits = _gathered(list(predict(self.model, self.val, self.params, self.workers)))
            ids = list(self.val.ids)
            labels = np.stack([self.val.label(ids[i]) for i in index]).astype(np.float32)
            row["val_loss"] = float(self.loss(torch.from_numpy(logits), torch.from_numpy(labels)))
            row["val_map"] = mean_average_precision(logits, labels)
            if (labels.sum(axis=1) == 1).all():
                row["val_accuracy"] = float((logits.argmax(1) == labels.argmax(1)).mean())
        return row

    def param_groups(self) -> list[dict[str, Any]]:
        return [
            {"params": self.model.trunk_parameters()},
            {"params": list(self.model.head.parameters()), "lr_mult": self.params.head_lr_mult},
        ]


def _require_single_label(catalog: Catalog | None) -> None:
    if catalog is None:
        return
    wrong = [image_id for image_id in catalog.ids if catalog.label(image_id).sum() != 1]
    if wrong:
        raise DataError(
            f"loss: cross_entropy needs exactly one label per image, but {len(wrong)} images have none or several "
            f"(the first: {wrong[0]}); use soft_margin"
        )


def _gathered(batches: list[tuple[torch.Tensor, ...]]) -> list[np.ndarray]:
    """Concatenate each column of a list of batches, over batches and processes."""
    own = [torch.cat(column).cpu().numpy() for column in zip(*batches, strict=True)]
    return [np.concatenate(column) for column in zip(*filter(None, distributed.gather_objects(own)), strict=True)]


def mean_average_precision(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean average precision of scores ``(N, C)`` over the classes that occur in labels ``(N, C)`` of 0/1.

    NaN when no class occurs.
    """
    present = np.flatnonzero(labels.any(axis=0))
    precisions = [average_precision_score(labels[:, c], logits[:, c].astype(np.float64)) for c in present]
    return float(np.mean(precisions)) if precisions else float("nan")


# --- validation ------------------------------------------------------------------------------------------------------


class _EvalImages(Dataset):
    """Whole images, resized and normalised: (index, float32 (3, h, w))."""

    def __init__(self, catalog: Catalog, grids: list[tuple[int, int]], mean: tuple, std: tuple):
        self.catalog, self.ids, self.grids, self.mean, self.std = catalog, list(catalog.ids), grids, mean, std

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        photo = resize(self.catalog.image(self.ids[index]), self.grids[index])
        return index, torch.from_numpy(to_chw(normalize(photo, self.mean, self.std)))


def predict(
    model: Classifier, catalog: Catalog, params: PlainParams, workers: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (indices, float32 logits on the CPU) of this process's share of a catalog, in batches of equal image size.

    Images are seen whole, without padding, which would weigh into the average pooling.
    """
    grids = [params.eval_grid((int(h), int(w))) for h, w in catalog.sizes]
    by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, grid in enumerate(grids):
        by_size[grid].append(index)
    size = params.batch_size
    batches = [group[i : i + size] for _, group in sorted(by_size.items()) for i in range(0, len(group), size)]
    loader = DataLoader(
        _EvalImages(catalog, grids, model.mean, model.std),
        batch_sampler=batches[distributed.rank() :: distributed.world_size()],
        num_workers=workers,
        generator=torch.Generator(),
    )
    device = model.head.weight.device
    for index, images in loader:
        yield index, model(images.to(device)).float().cpu()


# --- the stage -------------------------------------------------------------------------------------------------------


def train_classifier(
    catalog_train: Catalog,
    catalog_val: Catalog | None,
    params: PlainParams,
    *,
    samples: Callable[[Any, TrainTransform], Samples] | None = None,
    **run: Unpack[Run],
) -> Classifier:
    """Train a classifier and write it; calling again after a kill resumes and ends in the same bytes.

    Args:
        catalog_train: images and labels to learn from.
        catalog_val: images for the validation columns of the metrics, or None.
        params: see ``PlainParams``.
        out: the classifier file, see ``camflow.models.classifier.load_classifier``.
        metrics_csv: one row per epoch: epoch, lr, train_loss, train_map (with cross_entropy train_accuracy),
            val_loss, val_map, and val_accuracy if every validation image has one label.
        samples: makes the training samples of ``catalog_train`` and a transform, as ``LabelledSamples`` does.
        run: see ``camflow.train.tofile.Run``.

    Returns:
        The classifier in eval mode on its device.
    """
    class_names = list(catalog_train.class_names)

    def make_task() -> ClassifyTask:
        return ClassifyTask(
            params.build(len(class_names)), catalog_train, catalog_val, params, run.get("workers", 0), samples
        )

    return train_to_file(
        make_task, params, save_classifier, method="plain", class_names=class_names, finish=stop_hiding, **run
    )
