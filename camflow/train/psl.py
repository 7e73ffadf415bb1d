"""Training by online prohibitive segmentation learning (Wei et al., CVPR 2017): see ``camflow.segment.psl`` for the loss.

The labels are any seed or pseudo-masks, 255 where nothing is known (published: regions found by adversarial erasing,
background from saliency). The confidences come from a classifier that is trained before and stays as it is. In PSL++ the
masks that the trained network predicts are the labels of a further, plain training (``camflow.train.segment``).

``val_miou`` is of plain predictions: the filter of the classes at test time needs confidences for the photos tested.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, Unpack

import numpy as np
import torch

from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.models.segmenter import Segmenter, save_segmenter
from camflow.segment.psl import REDUCTIONS, VARIANTS, class_weights, online_labels, psl_losses
from camflow.train.segment import (
    LabelMaps,
    MaskedPhotos,
    Photos,
    SegmentParams,
    SegmentSamples,
    SegmentTask,
    nearest_labels,
)
from camflow.train.tofile import Run, train_to_file


@dataclasses.dataclass(frozen=True)
class PslParams(SegmentParams):
    """Parameters of the training; the defaults are Wei et al.'s as far as they are known: DeepLab-LargeFOV, batches of
    30 crops of 321 pixels, 15 epochs, a tenth of the learning rate every 6.

    Fields of ``SegmentParams`` mean what they mean there; ``loss`` stays ``plain``.

    Attributes:
        variant: what holds the prediction down, see ``camflow.segment.psl.class_weights``. ``label_and`` is our reading:
            the image labels are known in training.
        threshold: confidence below which a class is prohibited.
        reduction: over which pixels the means run, see ``camflow.segment.psl.psl_losses``.
    """

    epochs: int = 15
    batch_size: int = 30
    accumulate: int = 1
    lr: float = 1e-3
    schedule: str = "step"
    step_every: int = 6
    architecture: str = "large_fov"
    backbone: str = "vgg16_large_fov"
    scale: tuple[float, ...] = (1.0,)
    train_scales: tuple[float, ...] = (1.0,)
    variant: str = "label_and"
    threshold: float = 0.1
    reduction: str = "pooled"

    def __post_init__(self):
        super().__post_init__()
        for name, options in (("variant", VARIANTS), ("reduction", REDUCTIONS)):
            value = getattr(self, name)
            if value not in options:
                raise ConfigError(f"psl: unknown {name} '{value}'{did_you_mean(value, options)}")
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"psl: threshold lies in [0, 1], not {self.threshold}")
        if self.loss != "plain":
            raise ConfigError(f"psl: has its own loss; leave loss: plain instead of '{self.loss}'")


class LabelledPhotos(Photos, Protocol):
    """What training reads of ``camflow.data.catalog.Catalog``."""

    def label(self, image_id: str) -> np.ndarray: ...  # uint8 (C,) of 0/1


class Confidences(Protocol):
    """What training reads of a ``camflow.store.Store`` of a classifier's outputs."""

    def read(self, image_id: str) -> np.ndarray: ...  # float (C,): sigmoid of the logits


class PslSamples(SegmentSamples):
    """``SegmentSamples`` with ``confidence`` float32 (C,), ``present`` uint8 (C,), the image labels, and ``inside`` uint8
    (c, c), 0 in the padding."""

    catalog: LabelledPhotos

    def __init__(self, catalog: LabelledPhotos, labels: LabelMaps, confidence: Confidences, *more: Any):
        super().__init__(catalog, labels, *more)
        self.confidence = confidence

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Raises ``DataError`` when the confidences are not one number in [0, 1] per class."""
        image_id = self.ids[index]
        confidence = np.asarray(self.confidence.read(image_id), np.float32)
        if confidence.shape != (self.n_labels - 1,) or not ((confidence >= 0) & (confidence <= 1)).all():
            raise DataError(
                f"image '{image_id}': its confidences must be {self.n_labels - 1} numbers in [0, 1], the classifier's "
                f"sigmoids, but have shape {confidence.shape} and range [{confidence.min(initial=np.inf):g}, "
                f"{confidence.max(initial=-np.inf):g}]; make them again"
            )
        sample = super().sample(index, rng)
        present = torch.from_numpy(np.asarray(self.catalog.label(image_id), np.uint8))
        return {**sample, "confidence": torch.from_numpy(confidence), "present": present}

    def _cut(
        self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        marked = np.dstack([image, np.ones(image.shape[:2], image.dtype)])  # the padding is 0 in this channel, too
        marked, maps = super()._cut(marked, label, rng)
        return marked[..., :-1], {**maps, "inside": marked[..., -1].astype(np.uint8)}


class PslTask(SegmentTask):
    """Both terms on the output of every scale; logs them as ``labels_term`` and ``online_term``, summed over scales."""

    params: PslParams

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, batch: dict[str, Any]) -> torch.Tensor:
        weights = class_weights(batch["confidence"], batch["present"], self.params.variant, self.params.threshold)
        inside = nearest_labels(batch["inside"], logits.shape[2:])
        terms = psl_losses(logits, labels, online_labels(logits, weights), self.params.reduction, inside)
        self._terms.append(terms)
        return terms["loss"]

    def step(self, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        self._terms: list[dict[str, torch.Tensor]] = []
        total, logs = super().step(batch)
        sums = {f"{name}_term": torch.stack([t[name] for t in self._terms]).sum() for name in ("labels", "online")}
        return total, {**logs, **sums}


def train_psl(
    catalog: LabelledPhotos,
    labels: LabelMaps,
    confidence: Confidences,
    params: PslParams,
    *,
    catalog_val: MaskedPhotos | None = None,
    **run: Unpack[Run],
) -> Segmenter:
    """Train a segmentation network and write it; calling again after a kill resumes and ends in the same bytes.

    Args:
        catalog: the photos to learn from, with their image labels.
        labels: their label maps.
        confidence: a classifier's confidences for them.
        params: see ``PslParams``.
        catalog_val, run: see ``camflow.train.segment.train_segmenter``.
        metrics_csv: as there, with train_labels_term and train_online_term.

    Returns:
        The network in eval mode on its device.
    """

    def make_task() -> PslTask:
        model = params.build(len(catalog.class_names))
        samples = PslSamples(catalog, labels, confidence, params, model.mean, model.std)
        return PslTask(model, samples, params, catalog_val, run.get("workers", 0))

    return train_to_file(make_task, params, save_segmenter, method="psl", class_names=catalog.class_names, **run)
