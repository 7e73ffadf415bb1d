"""The figure of where label maps err, from the table of ``camflow.studies.errors``."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import PercentFormatter

from camflow.plots import style  # noqa: F401  (chooses the file-only backend)

# Can be told apart by the colour-blind, too.
COLOURS = {"missed object": "#4477aa", "false object": "#ee6677", "wrong class": "#ccbb44"}


def error_figure(frame: pd.DataFrame, title: str):
    """A bar a label map, stacked by kind of error: all errors, and a panel for each band of distance to a boundary.

    All panels share one scale, so the bars of the bands add up to those of the first panel.

    Args:
        frame: of ``camflow.studies.errors.error_rows``.
        title: the split.
    """
    names, bands = list(dict.fromkeys(frame["labels"])), list(dict.fromkeys(frame["band"]))
    width = 0.5 + 0.42 * len(names)
    figure, axes = plt.subplots(1, 1 + len(bands), figsize=(width * (1 + len(bands)) + 1, 3.4), sharey=True)
    panels = [("all errors", frame), *((f"{band} px", frame[frame["band"] == band]) for band in bands)]
    for axis, (heading, part) in zip(axes, panels, strict=True):
        shares = part.pivot_table(index="labels", columns="kind", values="share", aggfunc="sum").loc[names]
        below = 0 * shares.iloc[:, 0]
        for kind, colour in COLOURS.items():
            axis.bar(names, shares[kind], bottom=below, color=colour, width=0.75, label=kind)
            below = below + shares[kind]
        for place, total in enumerate(below):
            axis.annotate(
                f"{100 * total:.1f}", (place, total), (0, 2), textcoords="offset points", ha="center", fontsize=7
            )
        if part is not frame:
            room = part.groupby("labels")["band_pixels"].first().iloc[0] / _scored(frame)
            heading = f"{heading}\n({room:.0%} of pixels)"
        axis.set_title(heading, fontsize=8)
        axis.tick_params(axis="x", labelrotation=45, labelsize=8)
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[0].tick_params(axis="y", labelsize=8)
    axes[0].set_ylabel("share of all scored pixels", fontsize=8)
    axes[0].margins(y=0.1)
    handles, kinds = axes[0].get_legend_handles_labels()
    figure.suptitle(
        f"{title}, {frame['images'].iloc[0]} images: wrong pixels by distance to the nearest true boundary", fontsize=9
    )
    figure.tight_layout(rect=(0, 0.06, 1, 1.02))
    figure.legend(handles, kinds, loc="lower center", ncols=len(COLOURS), fontsize=8, frameon=False)
    return figure


def _scored(frame: pd.DataFrame) -> int:
    """Scored pixels of one label map; the same for all."""
    return int(frame.groupby(["labels", "band"])["band_pixels"].first().groupby("labels").sum().iloc[0])
