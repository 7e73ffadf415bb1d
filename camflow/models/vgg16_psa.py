"""The VGG-16 of AffinityNet (PSA): Ahn and Kwak, CVPR 2018, after DeepLab-LargeFOV (Chen et al., ICLR 2015).

Three 3x3 max-pools of stride 2, pool4 without stride, conv5 with dilation 2, the fully connected layers as convolutions
of 1024 channels (fc6 3x3, fc7 1x1), dropout behind both: stride 8, 1024 channels. fc6 has dilation 1 in the classifier
and 4 in the affinity network (``dilate_fc6``).

Names are those of the published weights converted from Caffe (``conv1_1`` ... ``conv5_3``, ``fc6``, ``fc7``). The
conversion itself is not part of this project: give the path of a state dict with these names as ``weights``.

The published network sees BGR grey levels minus a mean and is not divided by a standard deviation. Here it gets the
project's common input and turns it into that in its first step, so that every stage may treat it like any other
backbone. The one difference is what padding looks like: zeros are the common mean colour, which is
(1.0, -0.4, -0.5) grey levels away from the network's own.
"""

from __future__ import annotations

import torch
from torch import nn

MEAN_BGR = (104.008, 116.669, 122.675)  # of the Caffe release, grey levels
DROPOUT = 0.5

# stage, convolutions, channels, dilation, stride of the pool behind it (None: no pool)
_STAGES = ((1, 2, 64, 1, 2), (2, 2, 128, 1, 2), (3, 3, 256, 1, 2), (4, 3, 512, 1, 1), (5, 3, 512, 2, None))


class CaffeInput(nn.Module):
    """RGB/255 normalised by ``mean`` and ``std`` -> BGR grey levels minus ``MEAN_BGR``; (B, 3, H, W) both."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.scale = [255 * s for s in reversed(std)]
        self.shift = [255 * m - own for m, own in zip(reversed(mean), MEAN_BGR, strict=True)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale, shift = (x.new_tensor(values)[:, None, None] for values in (self.scale, self.shift))
        return x.flip(1) * scale + shift


def vgg16_psa(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[dict[str, nn.Module], tuple[str, ...], tuple[str, ...]]:
    """Return the root modules in order, the steps and the levels (see ``camflow.models.backbones.Trunk``).

    The last three levels are the published taps conv4_3, conv5_3 and fc7, all at stride 8. The last step, behind the
    last level, is the dropout in front of the classifier; it does nothing in eval mode.

    Args:
        mean, std: the normalisation of the input that the trunk is given.
    """
    modules: dict[str, nn.Module] = {"caffe_input": CaffeInput(mean, std)}
    channels = 3
    for stage, count, outputs, dilation, pool in _STAGES:
        for index in range(1, count + 1):
            modules[f"conv{stage}_{index}"] = nn.Conv2d(channels, outputs, 3, padding=dilation, dilation=dilation)
            modules[f"relu{stage}_{index}"] = nn.ReLU(inplace=True)
            channels = outputs
        if pool is not None:
            modules[f"pool{stage}"] = nn.MaxPool2d(3, stride=pool, padding=1)
    modules["fc6"] = nn.Conv2d(channels, 1024, 3, padding=1)
    modules["relu6"] = nn.ReLU(inplace=True)
    modules["drop6"] = nn.Dropout2d(DROPOUT)
    modules["fc7"] = nn.Conv2d(1024, 1024, 1)
    modules["relu7"] = nn.ReLU(inplace=True)
    modules["drop7"] = nn.Dropout2d(DROPOUT)
    return modules, tuple(modules), ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3", "relu7")


def dilate_fc6(network: nn.Module, dilation: int = 4) -> None:
    """Set the dilation of ``fc6`` in place, as the affinity network has it; the size of its output stays."""
    network.fc6.dilation = network.fc6.padding = (dilation, dilation)
