"""DeepLab-LargeFOV: Chen, Papandreou, Kokkinos, Murphy and Yuille, ICLR 2015, "Semantic Image Segmentation with Deep
Convolutional Nets and Fully Connected CRFs".

Trunk. VGG-16 with 3x3 pools, the last two without stride, conv5 with dilation 2 and a 3x3 mean pool at the end: stride
8, 512 channels. Names are those of the weights converted from Caffe (``conv1_1`` ... ``conv5_3``, in the head ``fc6``
and ``fc7``); torchvision's VGG-16 serves as well, see ``take_vgg16``.

Head. fc6, 3x3 with dilation 12, and fc7, 1x1, of 1024 channels each, ReLU and dropout behind both; fc8, 1x1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from camflow.models.backbones import Trunk
from camflow.models.deeplab import CAFFE_MEAN, CAFFE_STD, BgrInput
from camflow.models.vgg16_psa import vgg16_psa

RATE = 12
WIDTH = 1024
DROPOUT = 0.5
VGG16_LARGE_FOV = "vgg16_large_fov"


def vgg16_large_fov() -> Trunk:
    """Build the trunk with fresh weights. Its input is normalised by ``CAFFE_MEAN`` and ``CAFFE_STD``."""
    shared, names, levels = vgg16_psa(CAFFE_MEAN, CAFFE_STD)
    modules: dict[str, nn.Module] = {"bgr": BgrInput()}
    # Up to conv5_3 the two networks are the same; the first step of the other turns a common input into this one's.
    modules |= {name: shared[name] for name in names[1 : names.index("relu5_3") + 1]}
    modules["pool5"] = nn.MaxPool2d(3, stride=1, padding=1)
    modules["pool5a"] = nn.AvgPool2d(3, stride=1, padding=1)
    ends = (*levels[:4], "pool5a")
    return Trunk(modules, tuple(modules), ends, (1, 2, 4, 8, 8), (64, 128, 256, 512, 512), (1, 2, 4, 8, 8))


@torch.no_grad()
def take_vgg16(trunk: nn.Module, donor: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
    """Copy the convolutions of a torchvision VGG-16 into the trunk in place.

    The donor's first convolution reads RGB/255 normalised by ``mean`` and ``std``; the difference is folded into its
    weights and bias. What differs is the colour of the padding, which is the mean.
    """
    own = [layer for layer in trunk.modules() if isinstance(layer, nn.Conv2d)]
    theirs = [layer for layer in donor.modules() if isinstance(layer, nn.Conv2d)][: len(own)]
    for to, source in zip(own, theirs, strict=True):
        to.load_state_dict(source.state_dict())
    weight = theirs[0].weight.double()
    mean, std, caffe = (weight.new_tensor(values)[:, None, None] for values in (mean, std, CAFFE_MEAN))
    own[0].weight.copy_((weight / (255 * std)).flip(1))
    own[0].bias.copy_(theirs[0].bias + (weight * ((caffe - mean) / std)).sum(dim=(1, 2, 3)))


class LargeFovHead(nn.Module):
    """(B, D, h, w) -> (B, n_labels, h, w).

    fc8 is drawn from N(0, 0.01), its bias is 0. fc6 and fc7 are drawn as He et al. 2015 do; published they come from
    VGG-16's fully connected layers. Dropout is of single values, as in Caffe (a PyTorch version drops channels).
    """

    def __init__(self, channels: int, n_labels: int, rate: int = RATE, width: int = WIDTH):
        super().__init__()
        self.fc6 = nn.Conv2d(channels, width, 3, padding=rate, dilation=rate)
        self.fc7 = nn.Conv2d(width, width, 1)
        self.fc8 = nn.Conv2d(width, n_labels, 1)
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.normal_(self.fc8.weight, std=0.01)
        for layer in self.children():
            nn.init.zeros_(layer.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        for layer in (self.fc6, self.fc7):
            features = functional.dropout(functional.relu(layer(features)), DROPOUT, self.training)
        return self.fc8(features)

    def new_layers(self) -> list[nn.Module]:
        """Return the layers that learn ten times as fast: the last."""
        return [self.fc8]
