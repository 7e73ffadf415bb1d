"""Online prohibitive segmentation learning (Wei et al., "Object Region Mining with Adversarial Erasing", CVPR 2017,
section 3.2): the network's own prediction, held down by a classifier's confidences, is a second target.

With f the softmax over background and C classes and v the confidences of the classes,

    online label   S^ = arg-max over c of f_c [1, v]_c, a constant
    loss           mean of -log f_S over the labelled pixels + mean of -log f_S^ over all pixels of the photo

Each mean is over the pixels of all classes together, as the formula states, so neither term balances classes. The
authors published no code. Three points are therefore readings, kept as choices: what v is (``VARIANTS``), over which
pixels of a batch a mean runs (``REDUCTIONS``), and the threshold.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from camflow.errors import ConfigError, did_you_mean
from camflow.refine.driver import IGNORE

VARIANTS = ("plain", "threshold", "label_and")
REDUCTIONS = ("pooled", "per_image")


def class_weights(
    confidence: torch.Tensor, image_labels: torch.Tensor | None, variant: str, threshold: float = 0.1
) -> torch.Tensor:
    """The weights [1, v] of background and classes, (B, C+1).

    Args:
        confidence: float (B, C) in [0, 1], a classifier's.
        image_labels: (B, C) of 0/1; read by ``label_and`` only.
        variant: ``plain`` takes the confidences as they are; ``threshold`` prohibits classes below ``threshold``;
            ``label_and`` prohibits in addition the classes that the image does not have, so that no online label can
            contradict the image labels.
        threshold: a confidence equal to it is kept.

    Raises:
        ConfigError: unknown variant.
    """
    if variant not in VARIANTS:
        raise ConfigError(f"unknown psl variant '{variant}'{did_you_mean(variant, VARIANTS)}")
    if variant != "plain":
        confidence = torch.where(confidence < threshold, 0, confidence)
    if variant == "label_and":
        if image_labels is None:
            raise ConfigError("psl variant label_and needs image labels; use threshold without them")
        confidence = confidence * image_labels.to(confidence)
    return functional.pad(confidence, (1, 0), value=1.0)


@torch.no_grad()
def online_labels(logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """S^, int64 (B, h, w) of {0 .. C}, known on every pixel.

    Args:
        logits: (B, C+1, h, w) before the softmax, channel 0 the background.
        weights: (B, C+1) of ``class_weights``.
    """
    # log f + log v has the order of f v, and no score underflows to 0, which would tie with the prohibited classes.
    return (logits + weights.to(logits).log()[:, :, None, None]).argmax(dim=1)


def psl_losses(
    logits: torch.Tensor,
    labels: torch.Tensor,
    online: torch.Tensor,
    reduction: str = "pooled",
    inside: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """The two terms ``labels`` and ``online`` and their sum ``loss``, scalars.

    A term without a pixel is 0: with ``pooled`` when no pixel of the batch is labelled, with ``per_image`` for each
    image that has none.

    Args:
        logits: (B, C+1, h, w).
        labels: integers (B, h, w) of {0 .. C, 255}.
        online: (B, h, w) of ``online_labels``.
        reduction: ``pooled`` takes means over the pixels of the batch, ``per_image`` over those of each image and then
            over the images. They differ when images have different numbers of labelled pixels.
        inside: (B, h, w) of 0/1: what is photo and not the padding of a crop, which has no online label; None: all.

    Raises:
        ConfigError: unknown reduction.
    """
    if reduction not in REDUCTIONS:
        raise ConfigError(f"unknown psl reduction '{reduction}'{did_you_mean(reduction, REDUCTIONS)}")
    log_f = functional.log_softmax(logits, dim=1)
    error = functional.nll_loss(log_f, labels.long(), ignore_index=IGNORE, reduction="none")
    online_error = functional.nll_loss(log_f, online, reduction="none")
    inside = torch.ones_like(labels, dtype=torch.bool) if inside is None else inside.bool()
    terms = {"labels": _mean(error, labels != IGNORE, reduction), "online": _mean(online_error, inside, reduction)}
    terms["loss"] = terms["labels"] + terms["online"]
    return terms


def _mean(errors: torch.Tensor, counted: torch.Tensor, reduction: str) -> torch.Tensor:
    over = (1, 2) if reduction == "per_image" else (0, 1, 2)
    return ((errors * counted).sum(dim=over) / counted.sum(dim=over).clamp(min=1)).mean()
