"""The classification loss around photos, along the attack and a random direction (AdvCAM, CVPR 2021, figure 3).

With n the gradient of the loss at the photo x and r a random direction of the same length, the surface is
loss(x + alpha n + beta r). alpha > 0 attacks, alpha < 0 climbs, where the paper finds it flatter. How long n and r are
is not published: here n is scaled so that its largest magnitude is ``radius`` in units of the normalised image (an
update of AdvCAM moves by .08 of the same measure), and r so that it is as long as n.
"""

from __future__ import annotations

import zlib

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional

from camflow.data.sample import sampled
from camflow.localize.extract import Photos, Views
from camflow.studies.images import Shown, show_images


def loss_surface(
    model: nn.Module,
    catalog: Photos,
    params: Views,
    *,
    images: int,
    radius: float,
    points: int,
    seed: int = 0,
    **options,
) -> pd.DataFrame:
    """The surface averaged over a sample of images.

    Args:
        model, catalog: classifier and images.
        params: how photos are shown; scale 1 without the mirror image is looked at.
        images: number of images.
        radius: largest magnitude of n.
        points: grid points on each axis, from -1 to 1; an odd number has the photo itself in the middle.
        seed: of the random directions, each image drawing its own.
        options: as in ``show_images``.

    Returns:
        columns ``alpha, beta, loss, std, images``: mean and standard deviation over the images of the multi-label
        soft-margin loss.
    """
    grid = np.linspace(-1, 1, points)
    params = Views(scales=(1.0,), flip=False, long_side=params.long_side, precision=params.precision)

    def work(shown: Shown) -> np.ndarray:
        x = shown.views[0][:, 0]
        truth = x.new_zeros(1, shown.host.head.weight.shape[0])
        truth[0, torch.as_tensor(shown.classes)] = 1
        attack = gradient(shown.host, x, truth)
        attack = attack * (radius / attack.abs().max().clamp_min(1e-30))
        draws = np.random.default_rng([seed, zlib.crc32(shown.image_id.encode())]).standard_normal(x.shape)
        other = torch.from_numpy(draws).to(x)
        other = other * (attack.norm() / other.norm())
        losses = np.zeros((points, points))
        with torch.no_grad():
            for i, alpha in enumerate(grid):
                moved = x + alpha * attack + torch.from_numpy(grid).to(x)[:, None, None, None] * other
                logits = shown.host(moved).float()
                losses[i] = margin(logits, truth.expand_as(logits)).cpu().numpy()
        return losses

    found = np.stack([f for _, f in show_images(model, catalog, sampled(catalog, images), params, work, **options)])
    rows = [
        {
            "alpha": alpha, "beta": beta, "loss": found[:, i, j].mean(), "std": found[:, i, j].std(),
            "images": len(found),
        }
        for i, alpha in enumerate(grid)
        for j, beta in enumerate(grid)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def gradient(model: nn.Module, x: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Gradient of the loss with respect to the images (B, 3, H, W)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        return torch.autograd.grad(margin(model(x).float(), truth).sum(), x)[0]


def margin(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """(B,) multi-label soft-margin loss of each image."""
    return functional.multilabel_soft_margin_loss(logits, truth, reduction="none")
