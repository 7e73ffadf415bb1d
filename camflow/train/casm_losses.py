"""Losses of the masker: Zolna, Geras and Cho, "Classifier-agnostic saliency map extraction", CVIU 196 (2020), as the
released code computes them, and what the follow-up work adds (Phang, Park and Geras, arXiv 2010.09750).

For an image x with labels y and mask m in [0, 1], f the current classifier, f' the drawn one, the masked-out image
x (1 - m) (its holes show the mean colour):

    c    f is right on x;    nc    c, and f' is wrong on the masked-out image: "non-trivially confused"
    entropy       mean_i c_i sum_k p_ik log p_ik          p = softmax of f' on the masked-out images
    adversarial   - loss of f' on the masked-out images   over all images
    area          - lambda mean_i relu(nc_i - mean(m_i))

The masker minimises entropy (or adversarial) + area. The area term is lambda (mean(m) - 1) for a confused image and
exactly 0 for any other: only where the mask already does its work is it made smaller.

With the mask-in objective of the follow-up work f' also sees x m and shall be right on it:

    in            loss of f' on the masked-in images - lambda_in mean_i relu(r_i - mean(m_i))     r: f' is right there
    tv            w/(2B) (sum dx^2 + sum dy^2 + 0.3 sum over the four border lines of m^2)         once per objective

The published work has one label per image: the loss is the cross-entropy, f is right when the label scores highest.
With several labels the loss is the multi-label soft-margin loss, and f is right when every one of the n highest scores
belongs to one of the image's n labels (an image without labels is never right); p stays the softmax of the logits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # mean loss of logits (B, C) and labels (B, C) of 0/1

SCORES = ("entropy", "adversarial")
BORDER = 0.3  # weight of the border in the total variation


def is_correct(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Bool (B,): the n classes with the highest of the logits (B, C) are the n labels; False without any label.

    With one label this is the Top-1 decision; among equal logits the first counts as higher.
    """
    count = label.sum(dim=1).long()
    order = logits.argsort(dim=1, descending=True, stable=True)
    hits = label.gather(1, order).cumsum(dim=1)
    best = hits.gather(1, (count - 1).clamp(min=0)[:, None])[:, 0]
    return (best == count) & (count > 0)


def negative_entropy(logits: torch.Tensor) -> torch.Tensor:
    """(B,): sum_k p log p of the softmax of (B, C), in nats; at most 0."""
    log_p = functional.log_softmax(logits, dim=1)
    return (log_p.exp() * log_p).sum(dim=1)


def area_term(mask: torch.Tensor, active: torch.Tensor, weight: float) -> torch.Tensor:
    """- weight * mean_i relu(active_i - mean(m_i)) for masks (B, 1, H, W) and bool (B,)."""
    return -weight * functional.relu(active.to(mask.dtype) - mask.mean(dim=(1, 2, 3))).mean()


def total_variation(mask: torch.Tensor, weight: float) -> torch.Tensor:
    """w/(2B) (sum dx^2 + sum dy^2 + 0.3 sum of squares on the four border lines), corners counted twice."""
    steps = mask.diff(dim=3).square().sum() + mask.diff(dim=2).square().sum()
    lines = (mask[..., 0, :], mask[..., -1, :], mask[..., 0], mask[..., -1])
    border = torch.stack([line.square().sum() for line in lines]).sum()
    return weight / (2 * len(mask)) * (steps + BORDER * border)


def mask_out_losses(
    clean: torch.Tensor,
    masked: torch.Tensor,
    mask: torch.Tensor,
    label: torch.Tensor,
    *,
    score: str,
    area_weight: float,
    loss: Loss,
) -> dict[str, torch.Tensor]:
    """Terms of the masker's loss on masked-out images.

    Args:
        clean: logits (B, C) of the current classifier on the images; only compared with the labels.
        masked: logits (B, C) of the drawn classifier on the masked-out images.
        mask: (B, 1, H, W) at the size of the images.
        label: float (B, C) of 0/1.
        score: ``entropy`` or ``adversarial``.
        area_weight: lambda.
        loss: of the classifier; ``adversarial`` raises it.

    Returns:
        ``main``, ``area`` and their sum ``loss``.
    """
    right = is_correct(clean, label)
    confused = torch.logical_and(right, ~is_correct(masked, label))
    if score == "entropy":
        main = (right.to(masked.dtype) * negative_entropy(masked)).mean()
    else:
        main = -loss(masked, label)
    area = area_term(mask, confused, area_weight)
    return {"main": main, "area": area, "loss": main + area}


def mask_in_losses(
    masked: torch.Tensor, mask: torch.Tensor, label: torch.Tensor, *, area_weight: float, loss: Loss
) -> dict[str, torch.Tensor]:
    """Terms of the masker's loss on masked-in images, whose logits are ``masked``; else as ``mask_out_losses``."""
    main = loss(masked, label)
    area = area_term(mask, is_correct(masked, label), area_weight)
    return {"main": main, "area": area, "loss": main + area}


def mask_statistics(mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """What is logged of masks (B, 1, H, W): ``mean``; ``std``, of the images' means (unbiased, 0 for one image);
    ``entropy``, -mean(m log2 m) over 0 < m < 1, in bits (0 where there is none); ``tv``, mean dx^2 + mean dy^2."""
    mask = mask.detach()
    means = mask.mean(dim=(1, 2, 3))
    inside = (mask > 0) & (mask < 1)
    bits = torch.where(inside, -mask * torch.where(inside, mask, 1).log2(), 0).sum() / inside.sum().clamp(min=1)
    return {
        "mean": means.mean(),
        "std": means.std() if len(means) > 1 else torch.zeros_like(means[0]),
        "entropy": bits,
        "tv": mask.diff(dim=3).square().mean() + mask.diff(dim=2).square().mean(),
    }
