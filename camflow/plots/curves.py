"""Curves: training metrics by epoch, seed scores by threshold."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import MaxNLocator

from camflow.plots import style  # noqa: F401  (chooses the file-only backend)


def training_figure(metrics: pd.DataFrame, title: str):
    """One panel a metric over the epochs. ``metrics`` has a column ``epoch`` and one column a metric."""
    columns = [name for name in metrics.columns if name != "epoch" and pd.api.types.is_numeric_dtype(metrics[name])]
    figure, axes = plt.subplots(1, max(1, len(columns)), figsize=(3.4 * max(1, len(columns)), 2.6), squeeze=False)
    for axis, name in zip(axes[0], columns, strict=False):
        axis.plot(metrics["epoch"], metrics[name], marker=".")
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("epoch", fontsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    return figure


def threshold_figure(score: dict[str, Any], title: str):
    """mIoU, precision and recall of the object pixels, and noise over the background threshold."""
    curve = score["curve"]
    figure, axis = plt.subplots(figsize=(5.2, 3.4))
    for name, label in SHOWN.items():
        if name in curve:
            axis.plot(curve["threshold"], curve[name], label=label, linewidth=2 if name == "miou" else 1)
    axis.axvline(score["threshold"], color="grey", linestyle=":", label=f"threshold used: {score['threshold']:.2f}")
    axis.set_xlabel("background threshold")
    axis.set_ylim(0, 1)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False)
    axis.set_title(title, fontsize=9)
    return figure


SHOWN = {
    "miou": "mIoU",
    "object_precision": "precision of object pixels",
    "object_recall": "recall of object pixels",
    "noise_ratio": "noise (background share of predicted objects)",
}
