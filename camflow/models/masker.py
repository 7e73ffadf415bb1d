"""Classifier-agnostic saliency: Zolna, Geras and Cho, "Classifier-agnostic saliency map extraction", CVIU 196 (2020). A
classifier and, over its features, a decoder that says for every pixel how much of the evidence lies there; as the
released code builds it.

    l0 .. ln    the levels of the classifier from stride 4 on, as constants: no gradient goes from the decoder into them
    branch i    l1 .. ln: 1x1 convolution without bias to 64 channels, batch norm, ReLU, bilinear to the grid of l0
    final       l0 as it is and the branches, concatenated -> 3x3 convolution to one channel -> sigmoid
    mask        that, enlarged to the image, every cell repeated (or bilinear)

For a ResNet-50 these are the published shapes: l0 the stem behind its max-pool (64 channels, stride 4), l1 .. l4 the
outputs of its layers. Other trunks follow the same rule with the levels that they have: ``tiny`` 4, 8, 8; a VGG 4, 8,
16; ``mobilenet_v2`` 4, 8, 16, 32. The mask is class-agnostic; its true resolution is that of l0.

Switches of the follow-up work (Phang, Park and Geras, "Investigating and Simplifying Masking-based Saliency Methods for
Model Interpretability", arXiv 2010.09750): a subset of the levels (best there: the last two), and binary masks by a
straight-through Gumbel softmax.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from camflow.errors import ConfigError, did_you_mean
from camflow.models.classifier import Classifier, build_classifier
from camflow.models.files import load_network, save_network

KIND = "masker"
WIDTH = 64  # channels of a branch
FINEST = 4  # smallest stride of a level that is looked at
UPSAMPLES = ("nearest", "bilinear")


def onto_grid(maps: torch.Tensor, factor: int, size: Sequence[int], mode: str = "bilinear") -> torch.Tensor:
    """Enlarge (B, C, h, w) so that a cell becomes ``factor`` x ``factor`` cells, and cut what hangs over.

    Cells of the last row and column may reach beyond the image; cutting keeps all others in their place. For sides
    that the strides divide this is a plain resizing (bilinear: corners not aligned).

    Args:
        maps: any; of a network without padding they may be a cell too short, and are then stretched.
        factor: from their grid to the new one.
        size: (H, W) of the new grid.
        mode: ``bilinear`` or ``nearest``.
    """
    canvas = [max(n, cells * factor) for n, cells in zip(size, maps.shape[2:], strict=True)]
    if canvas != list(maps.shape[2:]):
        maps = functional.interpolate(maps, size=canvas, mode=mode, align_corners=False if mode == "bilinear" else None)
    return maps[..., : size[0], : size[1]]


class MaskDecoder(nn.Module):
    """The decoder by itself; children have the names of the published weights (``conv1x1_1``, ``final``).

    Attributes:
        taps: which levels it looks at; 0 is l0, which enters as it is.

    Args:
        channels, strides: of the levels l0 .. ln.
        taps: indices of levels; None takes all.
        gumbel_tau: temperature of binary masks; None for masks in (0, 1).

    Raises:
        ConfigError: taps that are not there.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        taps: Sequence[int] | None = None,
        gumbel_tau: float | None = None,
    ):
        super().__init__()
        self.taps = tuple(range(len(channels))) if taps is None else tuple(sorted(set(taps)))
        if not self.taps or not set(self.taps) <= set(range(len(channels))):
            raise ConfigError(
                f"masker: taps must be some of the levels 0 .. {len(channels) - 1}, not {list(taps or ())}"
            )
        if gumbel_tau is not None and not gumbel_tau > 0:
            raise ConfigError(f"masker: gumbel_tau must be above 0, not {gumbel_tau}")
        self.factors = tuple(stride // strides[0] for stride in strides)
        self.gumbel_tau = gumbel_tau
        for i in self.taps:
            if i:
                branch = nn.Sequential(nn.Conv2d(channels[i], WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU())
                self.add_module(f"conv1x1_{i}", branch)
        self.final = nn.Sequential(nn.Conv2d(sum(WIDTH if i else channels[0] for i in self.taps), 1, 3, padding=1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def branch(self, i: int, level: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """What enters the last convolution of level i, (B, 64, *size); for i = 0 the level itself."""
        return onto_grid(self.get_submodule(f"conv1x1_{i}")(level), self.factors[i], size) if i else level

    def logits(self, levels: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return (B, 1, h, w) on the grid of l0 for the levels l0 .. ln."""
        size = levels[0].shape[2:]
        return self.final(torch.cat([self.branch(i, levels[i], size) for i in self.taps], dim=1))

    def forward(self, levels: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return float32 (or wider) masks (B, 1, h, w) on the grid of l0.

        In (0, 1). With ``gumbel_tau`` 0 or 1: in training drawn by torch's generator, with the gradient of the soft
        sample; in eval mode 1 where the logit is above 0.
        """
        logits = self.logits(levels)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.gumbel_tau is None:
            return torch.sigmoid(logits)
        if not self.training:
            return (logits > 0).to(logits.dtype)
        both = torch.cat([logits, torch.zeros_like(logits)], dim=1)
        return functional.gumbel_softmax(both, tau=self.gumbel_tau, hard=True, dim=1)[:, :1]


class Masker(nn.Module):
    """A classifier with a mask decoder; localizers use it as a host, see ``camflow.models.classifier``.

    Input is float ``(B, 3, H, W)``, RGB/255 normalised by ``mean`` and ``std``.

    Attributes:
        net: the classifier.
        decoder: of the masks.
        head, stride, mean, std: those of the classifier.
        mask_stride: pixels per cell of the masks.
        class_names, meta, spec: as of ``Classifier``.

    Raises:
        ConfigError: a trunk with fewer than two levels from stride 4 on, taps that are not there, an unknown upsample.
    """

    def __init__(
        self,
        net: Classifier,
        *,
        taps: Sequence[int] | None = None,
        upsample: str = "nearest",
        gumbel_tau: float | None = None,
    ):
        super().__init__()
        if upsample not in UPSAMPLES:
            raise ConfigError(f"masker: unknown upsample '{upsample}'{did_you_mean(upsample, UPSAMPLES)}")
        strides = net.level_strides
        self._levels = [i for i, stride in enumerate(strides) if stride >= FINEST]
        if len(self._levels) < 2:
            raise ConfigError(
                f"masker: backbone '{net.spec['backbone']}' has fewer than two levels of stride {FINEST} or more "
                f"(its levels have {list(strides)}); use another backbone"
            )
        self.net = net
        self.decoder = MaskDecoder(
            [net.level_channels[i] for i in self._levels],
            [strides[i] for i in self._levels],
            taps=taps,
            gumbel_tau=gumbel_tau,
        )
        self.upsample = upsample
        self.mask_stride = strides[self._levels[0]]
        self.stride, self.map_stride = net.stride, net.map_stride
        self.mean, self.std = net.mean, net.std
        self.spec = {
            "classifier": net.spec,
            "taps": None if taps is None else list(taps),
            "upsample": upsample,
            "gumbel_tau": gumbel_tau,
        }
        self.class_names: list[str] = list(net.class_names)
        self.meta: dict[str, Any] = {}
        self._fixed = False

    # --- the host ----------------------------------------------------------------------------------------------------

    @property
    def head(self) -> nn.Conv2d:
        """The 1x1 convolution ``(C, D, 1, 1)`` that turns features into score maps."""
        return self.net.head

    @property
    def n_classes(self) -> int:
        return self.net.n_classes

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last features ``(B, D, h, w)``."""
        return self.net.features(x)

    def taps(self, x: torch.Tensor) -> dict[int, torch.Tensor]:
        """Return {stride: the deepest features at that stride}, see ``Classifier.taps``."""
        return self.net.taps(x)

    def tap_channels(self) -> dict[int, int]:
        """Return {stride: channels} of ``taps``."""
        return self.net.tap_channels()

    def score_maps(self, x: torch.Tensor) -> torch.Tensor:
        """Return the signed class scores before pooling, ``(B, C, h, w)``."""
        return self.net.score_maps(x)

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """Pool ``(B, D, h, w)`` to ``(B, D, 1, 1)``."""
        return self.net.pool(features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the classifier's logits ``(B, C)``."""
        return self.net(x)

    # --- masks -------------------------------------------------------------------------------------------------------

    def masks(self, x: torch.Tensor) -> torch.Tensor:
        """Return masks (B, 1, h, w) in [0, 1] at their own resolution, cells of ``mask_stride`` pixels."""
        return self.decoder(self._levels_and_features(x)[0])

    def image_masks(self, x: torch.Tensor) -> torch.Tensor:
        """Return masks (B, 1, H, W) in [0, 1] at the size of the image."""
        return self.enlarge(self.masks(x), x.shape[2:])

    def enlarge(self, masks: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """Bring (B, 1, h, w) to the (H, W) of their image as ``upsample`` says."""
        return onto_grid(masks, self.mask_stride, size, self.upsample)

    def logits_and_levels(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """One pass for both: logits (B, C), and the levels l0 .. ln as constants, which ``decoder`` takes."""
        levels, features = self._levels_and_features(x)
        return self.head(self.pool(features)).flatten(1), levels

    def masks_and_score_maps(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One pass for both: ``masks`` and ``score_maps``."""
        levels, features = self._levels_and_features(x)
        return self.decoder(levels), self.head(features)

    def _levels_and_features(self, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        levels = self.net.level_features(x)
        features = levels[-1]
        # The dropout that a trunk may have behind its last level belongs in front of the head.
        for step in self.net.steps[self.net.steps.index(self.net.levels[-1]) + 1 :]:
            features = self.net.get_submodule(step)(features)
        return [levels[i].detach() for i in self._levels], features

    # --- training ----------------------------------------------------------------------------------------------------

    def fix_classifier(self) -> None:
        """Keep the classifier as it is from now on: no gradient, and eval mode also while the decoder trains."""
        self.net.requires_grad_(False)
        self._fixed = True
        self.train(self.training)

    def train(self, mode: bool = True) -> Masker:
        """Switch the mode; a fixed classifier stays in eval mode."""
        super().train(mode)
        if self._fixed:
            self.net.eval()
        return self


def build_masker(
    classifier: Classifier,
    *,
    taps: Sequence[int] | None = None,
    upsample: str = "nearest",
    gumbel_tau: float | None = None,
    seed: int = 0,
) -> Masker:
    """Put a fresh decoder on a classifier, in training mode; the global generator is left as it was.

    Args:
        classifier: shares its weights with the result.
        taps: levels that the decoder looks at, 0 being l0; None takes all. The follow-up work: (3, 4) of a ResNet.
        upsample: ``nearest`` (published) or ``bilinear``, from the decoder's grid to the image.
        gumbel_tau: temperature of binary masks (follow-up work: 0.1); None for masks in (0, 1).
        seed: of the decoder's weights: convolutions N(0, sqrt(2 / (k k C_out))).

    Raises:
        ConfigError: any argument the network cannot honour.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Masker(classifier, taps=taps, upsample=upsample, gumbel_tau=gumbel_tau).train()


# --- files -----------------------------------------------------------------------------------------------------------


def save_masker(
    path: str | Path, model: Masker, *, class_names: Sequence[str], meta: dict[str, Any] | None = None
) -> None:
    """Write a classifier with its decoder atomically; arguments as of ``save_classifier``."""
    save_network(path, model, kind=KIND, class_names=class_names, meta=meta)


def load_masker(path: str | Path, device: str | torch.device = "cpu") -> Masker:
    """Read a classifier with its decoder in eval mode. Raises ``StoreError`` for a file that is missing, torn, altered
    or another's."""
    return load_network(path, rebuild_masker, kind=KIND, device=device)


def rebuild_masker(classifier: Mapping[str, Any], **options: Any) -> Masker:
    """A masker of the architecture in a file's spec, with any weights; see ``build_masker``."""
    return build_masker(build_classifier(**classifier), **options)
