"""The loss of AMN: Lee, Kim and Shim, CVPR 2022, as its code runs.

With softmax probabilities s of a cell labelled l and C classes, the target is smoothed over the labels,

    ell = -sum_c t_c log s_c,    t_l = 1 - eps,    t_c = eps / C for the others,

and background and foreground weigh the same whatever their areas:

    loss = (mean of ell over background cells + mean of ell over foreground cells) / 2

over all cells of the batch; 255 is in neither. A batch without any cell of one kind has 0 for it, where the released
code's mean of nothing is NaN and ends the training.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from camflow.train.augment import IGNORE


def smoothed_losses(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    """ell (B, h, w) of logits (B, C+1, h, w) and labels (B, h, w) in 0 .. C; 0 where the label is 255.

    Args:
        smoothing: eps, the share of the target that the other labels have together.
    """
    known = labels != IGNORE
    scores = functional.log_softmax(logits, dim=1)
    own = scores.gather(1, torch.where(known, labels, 0).long()[:, None])[:, 0]
    others = scores.sum(dim=1) - own
    return -((1 - smoothing) * own + smoothing / (logits.shape[1] - 1) * others) * known


def amn_losses(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> dict[str, torch.Tensor]:
    """``background``, ``foreground`` and ``loss``; arguments as of ``smoothed_losses``."""
    losses = smoothed_losses(logits, labels, smoothing)
    background = labels == 0
    foreground = ~background & (labels != IGNORE)
    terms = {
        name: (losses * cells).sum() / cells.sum().clamp(min=1)
        for name, cells in (("background", background), ("foreground", foreground))
    }
    return {**terms, "loss": (terms["background"] + terms["foreground"]) / 2}
