"""IRN's network: a boundary map and a displacement field on top of a frozen classification trunk (Ahn, Cho and Kwak,
"Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019, and its code).

Both branches look at every level of the trunk with a stride from 4 to 16; for a ResNet of output stride 16 these are
IRN's x1 .. x5 (pooled stem, layer1 .. layer4). With n levels:

    boundary      edge1 .. edge<n>: 1x1 convolution to 32, group norm, up to stride 4, ReLU; all concatenated ->
                  edge<n+1>: 1x1 convolution to one logit
    displacement  disp<i> for level i: 1x1 convolution, group norm, ReLU, to 128 channels for the last level of stride
                  4, 64 for those before it, 256 for deeper ones, which are brought to stride 8 before the ReLU;
                  the deeper ones concatenated -> disp<n+1>: 256, up to stride 4; with those of stride 4 -> disp<n+2>:
                  256 -> two channels (dy, dx), in cells of the stride-4 grid

For a ResNet-50 this is the published network, layer by layer. Other trunks follow the same rule with the levels that
they have: ``tiny`` strides 4, 8, 8; a VGG 4, 8, 16; a ResNet of published stride 4, 4, 8, 16. A trunk without a level
of stride 4 is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from camflow.errors import ConfigError
from camflow.localize.extract import normalisation_table, to_views
from camflow.models.classifier import Classifier, build_classifier
from camflow.models.files import load_network, save_network

KIND = "irn"  # of saved files
STRIDE = 4  # of boundary map and displacement field
MULTIPLE = 16  # of the sides the network takes: the largest stride of a level


class MeanShift(nn.Module):
    """Subtract ``running_mean`` (2,), the data set's mean displacement, except while training."""

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.training else x - self.running_mean.view(1, -1, 1, 1)


class Branch(nn.Module):
    """1x1 convolution without bias, group norm, bilinear enlargement, ReLU, in this order."""

    def __init__(self, inputs: int, outputs: int, groups: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.gn = nn.GroupNorm(groups, outputs)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Return (B, outputs, *size)."""
        x = self.gn(self.conv(x))
        if tuple(x.shape[-2:]) != size:  # by the size: a trunk without padding (SqueezeNet) is a cell or two short
            x = functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
        return torch.relu(x)


class _Boundary(nn.Module):
    """The last layer of the boundary branch; holds its convolution under the published name."""

    def __init__(self, inputs: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class _Field(Branch):
    """The last layers of the displacement branch."""

    def __init__(self, inputs: int):
        super().__init__(inputs, 256, 16)
        self.out = nn.Conv2d(256, 2, 1, bias=False)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return self.out(super().forward(x, size))


class IrnNetwork(nn.Module):
    """Boundary and displacement branches on a classifier, which is frozen (in place) and stays in eval mode.

    Input is float ``(B, 3, H, W)`` normalised by ``mean`` and ``std``, H and W multiples of 16. Group norms look at the
    whole input, so padding is part of what the network sees: see ``canvas_size``.

    Attributes:
        trunk: the classifier.
        levels: indices of the trunk's levels that are looked at.
        mean, std: of the input.
        class_names, meta: facts carried by saved files.
        spec: the arguments that rebuild this network.

    Raises:
        ConfigError: the trunk has no features of stride 4.
    """

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.trunk = classifier.requires_grad_(False).eval()
        self.mean, self.std = classifier.mean, classifier.std
        self.spec = {"trunk": classifier.spec}
        self.class_names: list[str] = list(classifier.class_names)
        self.meta: dict[str, Any] = {}
        strides, channels = classifier.level_strides, classifier.level_channels
        self.levels = [i for i, stride in enumerate(strides) if STRIDE <= stride <= MULTIPLE]
        fine = [i for i in self.levels if strides[i] == STRIDE]
        if not fine:
            raise ConfigError(
                f"irn: backbone '{classifier.spec['backbone']}' has no features of stride {STRIDE} "
                f"(its levels have {list(strides)}); use another backbone"
            )
        widths = {i: 256 if strides[i] > STRIDE else 128 if i == fine[-1] else 64 for i in self.levels}
        self._fine = len(fine)
        self._edges: list[str] = []
        self._fields: list[str] = []
        for number, i in enumerate(self.levels, start=1):
            self._edges.append(self._add(f"edge{number}", Branch(channels[i], 32, 4)))
            groups = 8 if widths[i] == 64 else 16
            self._fields.append(self._add(f"disp{number}", Branch(channels[i], widths[i], groups)))
        n = len(self.levels)
        self._last_edge = self._add(f"edge{n + 1}", _Boundary(32 * n))
        deeper = sum(widths[i] for i in self.levels if i not in fine)
        self._deeper = self._add(f"disp{n + 1}", Branch(deeper, 256, 16)) if deeper else None
        self._last = self._add(f"disp{n + 2}", _Field(sum(widths[i] for i in fine) + (256 if deeper else 0)))
        self.mean_shift = MeanShift(2)

    def _add(self, name: str, module: nn.Module) -> str:
        self.add_module(name, module)
        return name

    def train(self, mode: bool = True) -> IrnNetwork:
        """Switch the mode of the branches; the trunk always stays as it is in use."""
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return boundary logits ``(B, 1, H/4, W/4)`` and displacement ``(B, 2, H/4, W/4)``.

        The displacement is raw while training; else its running mean is subtracted.
        """
        if x.shape[2] % MULTIPLE or x.shape[3] % MULTIPLE:
            raise ValueError(f"the input's sides must be multiples of {MULTIPLE}, not {tuple(x.shape[2:])}")
        with torch.no_grad():  # with gradients on, the trunk's graph would be built and thrown away
            features = self.trunk.level_features(x)
        taps = [features[i] for i in self.levels]
        size, half = ((x.shape[2] // s, x.shape[3] // s) for s in (STRIDE, 2 * STRIDE))
        edges = [self.get_submodule(name)(tap, size) for name, tap in zip(self._edges, taps, strict=True)]
        edge = self.get_submodule(self._last_edge)(torch.cat(edges, dim=1))
        targets = [size] * self._fine + [half] * (len(taps) - self._fine)
        fields = [
            self.get_submodule(name)(tap, target) for name, tap, target in zip(self._fields, taps, targets, strict=True)
        ]
        joined = fields[: self._fine]
        if self._deeper is not None:
            joined.append(self.get_submodule(self._deeper)(torch.cat(fields[self._fine :], dim=1), size))
        field = self.get_submodule(self._last)(torch.cat(joined, dim=1), size)
        return edge, self.mean_shift(field)

    def edge_parameters(self) -> list[nn.Parameter]:
        """Parameters of the boundary branch."""
        return [p for name in (*self._edges, self._last_edge) for p in self.get_submodule(name).parameters()]

    def displacement_parameters(self) -> list[nn.Parameter]:
        """Parameters of the displacement branch, which share nothing with the boundary branch."""
        names = [*self._fields, *filter(None, [self._deeper]), self._last]
        return [p for name in names for p in self.get_submodule(name).parameters()]


def build_irn(classifier: Classifier, *, seed: int = 0) -> IrnNetwork:
    """Put fresh branches on a classifier, in training mode; the global generator is left as it was.

    Published: an ImageNet ResNet-50 of output stride 16, i.e. ``build_classifier("resnet50", C, weights=
    "IMAGENET1K_V1", output_stride=16)``, not the network that the seed maps come from.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return IrnNetwork(classifier).train()


# --- inference -------------------------------------------------------------------------------------------------------


def canvas_size(size: tuple[int, int], canvas: int = 512) -> tuple[int, int]:
    """(height, width) a photo is zero-padded to, right and bottom: multiples of 16, at least ``canvas``.

    The published code pads to 512 x 512, and cuts off what is longer; here longer sides are padded to the next multiple
    of 16. Group norms see the padding, so a smaller canvas changes the result: it suits a network trained on crops of
    that size (photos of 100 pixels on a canvas of 128 run 16 times faster).

    Raises ``ConfigError`` for a canvas that is not a positive multiple of 16.
    """
    check_multiple("canvas", canvas)
    height, width = (max(canvas, -(-n // MULTIPLE) * MULTIPLE) for n in size)
    return height, width


def check_multiple(name: str, value: int) -> None:
    """Raise ``ConfigError`` unless a side in pixels is a positive multiple of 16."""
    if value < 1 or value % MULTIPLE:
        raise ConfigError(f"irn: {name} must be a multiple of {MULTIPLE} pixels, not {value}")


def grid_size(size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the boundary map of a photo: (H-1)//4 + 1, (W-1)//4 + 1."""
    return (size[0] - 1) // STRIDE + 1, (size[1] - 1) // STRIDE + 1


def pad_to(x: torch.Tensor, canvas: tuple[int, int]) -> torch.Tensor:
    """Zero-pad (..., H, W) at the right and the bottom; zero is the mean colour."""
    return functional.pad(x, (0, canvas[1] - x.shape[-1], 0, canvas[0] - x.shape[-2]))


def boundaries(model: IrnNetwork, views: torch.Tensor, canvas: int = 512) -> tuple[torch.Tensor, torch.Tensor]:
    """Boundary maps and displacement fields of photos of one size, from each photo and its mirror image at scale 1.

    Args:
        model: in eval mode.
        views: (B, 2, 3, H, W) normalised, see ``camflow.localize.extract.to_views``; on the model's device.
        canvas: see ``canvas_size``.

    Returns:
        boundaries (B, h, w) in (0, 1): the sigmoid of the mean logit of both views; displacements (B, 2, h, w) of the
        photo alone, in cells of the stride-4 grid. (h, w) is ``grid_size``.
    """
    size = (int(views.shape[-2]), int(views.shape[-1]))
    height, width = grid_size(size)
    with torch.inference_mode():
        edge, field = model(pad_to(views.flatten(0, 1), canvas_size(size, canvas)))
    # Cut before mirroring: the padding is at the right of both views.
    edge = edge[:, 0, :height, :width].unflatten(0, (-1, 2))
    field = field[:, :, :height, :width].unflatten(0, (-1, 2))
    return torch.sigmoid(edge[:, 0] / 2 + edge[:, 1].flip(-1) / 2), field[:, 0]


def boundaries_of_photo(model: IrnNetwork, photo: np.ndarray, canvas: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """Boundary map (h, w) and displacement field (2, h, w) of a uint8 photo (H, W, 3), in the dtype of the weights."""
    weight = next(model.parameters())
    table = normalisation_table(model.mean, model.std).to(weight.device, weight.dtype)
    pixels = torch.from_numpy(np.ascontiguousarray(photo))[None].to(weight.device)
    edge, field = boundaries(model, to_views(pixels, table, flip=True), canvas)
    return edge[0].cpu().numpy(), field[0].cpu().numpy()


# --- files -----------------------------------------------------------------------------------------------------------


def save_irn(
    path: str | Path, model: IrnNetwork, *, class_names: Sequence[str], meta: dict[str, Any] | None = None
) -> None:
    """Write a network with its trunk atomically; equal weights and facts give equal bytes.

    Args:
        path: the target, by convention ``irn.pt``.
        model: any device, any memory format.
        class_names: foreground classes of the labels it learnt from.
        meta: JSON-able facts.
    """
    save_network(path, model, kind=KIND, class_names=class_names, meta=meta)


def load_irn(path: str | Path, device: str | torch.device = "cpu") -> IrnNetwork:
    """Read a network in eval mode, with its ``class_names`` and ``meta``.

    Raises:
        StoreError: the file is missing, torn, altered or no such network.
    """
    return load_network(path, _build, kind=KIND, device=device)


def _build(trunk: dict[str, Any]) -> IrnNetwork:
    return build_irn(build_classifier(**trunk))
