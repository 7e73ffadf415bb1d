"""Figures of the studies, from their tables (``camflow.studies``)."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from camflow.data.catalog import Catalog
from camflow.localize.maps import full_size_maps, read_seed
from camflow.plots import style
from camflow.store import Store


def amplification_figure(frame: pd.DataFrame, title: str):
    """Growth of discriminative and other regions over the steps, a panel for each lambda (AdvCAM figure 2)."""
    values = sorted(frame["lambda"].unique())
    figure, axes = plt.subplots(1, len(values), figsize=(3.6 * len(values), 3), squeeze=False, sharey=True)
    for axis, value in zip(axes[0], values, strict=True):
        for region, part in frame[frame["lambda"] == value].groupby("region"):
            (line,) = axis.plot(part["step"], part["median"], label=region)
            axis.fill_between(part["step"], part["q25"], part["q75"], color=line.get_color(), alpha=0.2)
        axis.set_title("without regularisation" if value == 0 else f"lambda = {value:g}", fontsize=9)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("CAM(x_t) / CAM(x_0)")
    axes[0][0].legend(fontsize=7, frameon=False)
    figure.suptitle(f"{title}: amplification, median and quartiles", fontsize=9)
    figure.tight_layout()
    return figure


def loss_surface_figure(frame: pd.DataFrame, title: str):
    """The surface seen from above, and its two axes (AdvCAM figure 3)."""
    grid = frame.pivot(index="beta", columns="alpha", values="loss")
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2))
    filled = left.contourf(grid.columns, grid.index, grid.to_numpy(), levels=20, cmap="viridis")
    figure.colorbar(filled, ax=left)
    left.set_xlabel("alpha: climb < 0 < attack")
    left.set_ylabel("beta: random direction")
    middle = grid.index[np.abs(grid.index).argmin()]
    right.plot(grid.columns, grid.loc[middle], label="along the gradient")
    middle = grid.columns[np.abs(grid.columns).argmin()]
    right.plot(grid.index, grid[middle], label="along a random direction")
    right.set_xlabel("alpha or beta")
    right.set_ylabel("classification loss")
    right.grid(alpha=0.3)
    right.legend(fontsize=7, frameon=False)
    figure.suptitle(f"{title}: loss around {frame['images'].iloc[0]} photos", fontsize=9)
    figure.tight_layout()
    return figure


def climb_figure(frame: pd.DataFrame, title: str):
    """mIoU and noise over the steps, and mIoU over lambda, tau and step size (AdvCAM figure 6 a-e)."""
    swept = [name for name in ("lambda", "tau", "step_size") if (frame["panel"] == name).sum() > 1]
    figure, axes = plt.subplots(1, 2 + len(swept), figsize=(3 * (2 + len(swept)), 2.8))
    steps = frame[frame["panel"] == "steps"]
    for axis, column in zip(axes, ("miou", "noise"), strict=False):
        for value, part in steps.groupby("lambda"):
            axis.plot(
                part["steps"], part[column], label="without regularisation" if value == 0 else f"lambda {value:g}"
            )
        axis.set_xlabel("steps T (1 is the CAM)")
        axis.set_title("seed mIoU" if column == "miou" else "noise of the seed", fontsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(steps):
        axes[0].legend(fontsize=7, frameon=False)
    for axis, name in zip(axes[2:], swept, strict=True):
        part = frame[frame["panel"] == name]
        axis.plot(part[name], part["miou"], marker="o")
        axis.set_xlabel(name.replace("_", " "))
        axis.set_title(f"seed mIoU at T = {part['steps'].iloc[0]}", fontsize=9)
        if name == "step_size":
            axis.set_xscale("log")
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.suptitle(f"{title}, {frame['images'].iloc[0]} images, best threshold each", fontsize=9)
    figure.tight_layout()
    return figure


def successive_figure(catalog: Catalog, maps: Store, at: Sequence[int], title: str):
    """Photo, truth and the seed after each number of steps (AdvCAM figure 7)."""
    rows, names = [], []
    for image_id in sorted({name.rsplit("@", 1)[0] for name in maps.ids}):
        photo = catalog.image(image_id)
        row = [photo]
        if catalog.has_masks:
            truth = catalog.mask(image_id)
            row.append(photo if truth is None else style.overlay(photo, truth))
        row += [style.heat(photo, full_size_maps(read_seed(maps, f"{image_id}@{t}")).max(axis=0)) for t in at]
        rows.append(row)
        names.append(image_id)
    columns = ["photo", *(["truth"] if catalog.has_masks else []), *(f"T = {t}" for t in at)]
    return style.grid(rows, columns, names, title)


def tsne_figure(frame: pd.DataFrame, title: str):
    """Points of two classes and the trajectories of one image of each (AdvCAM figure 8)."""
    figure, axis = plt.subplots(figsize=(4.6, 4.2))
    climbed = set(frame.loc[frame["step"] > 0, "image"])
    for name, part in frame.groupby("class"):
        still = part[part["step"] == 0]
        dots = axis.scatter(still["x"], still["y"], s=10, alpha=0.5, label=name)
        path = part[part["image"].isin(climbed)].sort_values("step")
        colour = dots.get_facecolor()[0][:3]
        axis.plot(path["x"], path["y"], color=colour, marker=".", markersize=4, linewidth=1)
        axis.scatter(path["x"].iloc[:1], path["y"].iloc[:1], marker="s", color=[colour], edgecolor="black", zorder=3)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.legend(fontsize=8, frameon=False)
    axis.set_title(f"{title}\nt-SNE of pooled features; squares: where the climbs start", fontsize=8)
    return figure


def sensitivity_figure(frame: pd.DataFrame, title: str):
    """mIoU over K, tau, mu_f and mu_b of LPCAM."""
    panels = list(dict.fromkeys(frame["panel"]))
    figure, axes = plt.subplots(1, len(panels), figsize=(2.9 * len(panels), 2.6), squeeze=False, sharey=True)
    for axis, panel in zip(axes[0], panels, strict=True):
        part = frame[frame["panel"] == panel]
        axis.plot(part["value"], part["miou"], marker="o")
        axis.set_xlabel({"clusters": "K"}.get(panel, panel))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("seed mIoU")
    figure.suptitle(f"{title}, {frame['images'].iloc[0]} images, best threshold each", fontsize=9)
    figure.tight_layout()
    return figure


def walk_figure(frame: pd.DataFrame, title: str):
    """mIoU of IRN's walk: over beta and the number of steps for each gamma, and over the threshold for each beta."""
    best = frame.groupby(["gamma", "exp_times", "beta"])["miou"].max()
    own, gammas = frame[frame["own"]].iloc[0], sorted(frame["gamma"].unique())
    figure, axes = plt.subplots(1, len(gammas) + 1, figsize=(3.3 * (len(gammas) + 1), 3))
    for axis, gamma in zip(axes, gammas, strict=False):
        grid = best[gamma].unstack("beta")
        image = axis.imshow(grid.to_numpy(), vmin=best.min(), vmax=best.max(), cmap="viridis", aspect="auto")
        for (row, column), value in np.ndenumerate(grid.to_numpy()):
            dark = value < (best.min() + best.max()) / 2
            axis.text(
                column, row, f"{100 * value:.1f}", ha="center", va="center", fontsize=7, color="w" if dark else "k"
            )
        axis.set_xticks(range(len(grid.columns)), [f"{value:g}" for value in grid.columns])
        axis.set_yticks(range(len(grid.index)), [f"{value:g}" for value in grid.index])
        axis.set_xlabel("beta")
        axis.set_title(f"mIoU at the best threshold, gamma = {gamma:g}", fontsize=8)
    axes[0].set_ylabel("exp_times (2^n steps)")
    figure.colorbar(image, ax=axes[-2])
    last = axes[-1]
    kept = frame[(frame["exp_times"] == own["exp_times"]) & (frame["gamma"] == own["gamma"])]
    for beta, part in kept.groupby("beta"):
        last.plot(part["threshold"], part["miou"], linewidth=2 if beta == own["beta"] else 1, label=f"beta = {beta:g}")
    last.set_xlabel("threshold")
    last.set_title(f"mIoU, exp_times = {own['exp_times']:g}, gamma = {own['gamma']:g}", fontsize=8)
    last.grid(alpha=0.3)
    last.legend(fontsize=7, frameon=False)
    figure.suptitle(f"{title}, {frame['images'].iloc[0]} images", fontsize=9)
    figure.tight_layout()
    return figure


# Study -> its figure from its table.
FIGURES = {
    "amplification": amplification_figure,
    "loss_surface": loss_surface_figure,
    "climb": climb_figure,
    "tsne": tsne_figure,
    "sensitivity": sensitivity_figure,
    "walk": walk_figure,
}
