"""The parts of DeepLab-v2: Chen, Papandreou, Kokkinos, Murphy and Yuille, TPAMI 2018, "DeepLab: Semantic Image
Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully Connected CRFs".

Trunk. ResNet as released for Caffe: a bottleneck that halves the grid does so in its first 1x1 convolution, where
torchvision's does so in the 3x3; the pool of the stem rounds its output size up. Stride 8: the last two stages have
stride 1 and their 3x3 convolutions, of the first block too, dilation 2 and 4. Names are torchvision's.

Head. Atrous spatial pyramid pooling (section 3.2): 3x3 convolutions of different dilation whose outputs are summed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchvision
from torch import nn

from camflow.models.backbones import Trunk
from camflow.models.vgg16_psa import MEAN_BGR

RATES = (6, 12, 18, 24)
CAFFE_MEAN = tuple(value / 255 for value in reversed(MEAN_BGR))  # RGB/255
CAFFE_STD = (1 / 255,) * 3
CAFFE_RESNETS = {"resnet50_caffe": "resnet50", "resnet101_caffe": "resnet101"}

_STAGES = (("layer1", 1, 1), ("layer2", 2, 1), ("layer3", 1, 2), ("layer4", 1, 4))  # name, stride, dilation


class BgrInput(nn.Module):
    """RGB -> BGR, (B, 3, H, W) both.

    With ``CAFFE_MEAN`` and ``CAFFE_STD`` as normalisation the result is what Caffe's networks see: BGR grey levels less
    their mean. Padding is then exactly the mean colour.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flip(1)


def caffe_resnet(name: str) -> Trunk:
    """Build the trunk ``resnet50_caffe`` or ``resnet101_caffe``: stride 8, 2048 channels, fresh weights.

    Its input is normalised by ``CAFFE_MEAN`` and ``CAFFE_STD``.
    """
    net = torchvision.models.get_model(CAFFE_RESNETS[name], weights=None)
    net.maxpool.ceil_mode = True
    for stage, stride, dilation in _STAGES:
        for index, block in enumerate(getattr(net, stage)):
            first = (stride, stride) if index == 0 else (1, 1)
            block.conv1.stride = first
            block.conv2.stride = (1, 1)
            block.conv2.dilation = block.conv2.padding = (dilation, dilation)
            if block.downsample is not None:
                block.downsample[0].stride = first
    names = ("conv1", "bn1", "relu", "maxpool", *(stage for stage, _, _ in _STAGES))
    modules = {"bgr": BgrInput(), **{n: getattr(net, n) for n in names}}
    return Trunk(modules, tuple(modules), names[4:], (4, 8, 8, 8), (256, 512, 1024, 2048), (4, 8, 16, 32))


class Aspp(nn.Module):
    """The sum of 3x3 convolutions with dilations ``rates``: (B, D, h, w) -> (B, n_labels, h, w).

    Weights are drawn from N(0, 0.01), biases are 0, as released.
    """

    def __init__(self, channels: int, n_labels: int, rates: Sequence[int] = RATES):
        super().__init__()
        for index, rate in enumerate(rates):
            conv = nn.Conv2d(channels, n_labels, 3, padding=rate, dilation=rate)
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
            self.add_module(f"c{index}", conv)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return sum(conv(features) for conv in self.children())

    def new_layers(self) -> list[nn.Module]:
        """Return the layers that learn ten times as fast: all."""
        return list(self.children())
