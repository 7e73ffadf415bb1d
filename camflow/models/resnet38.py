"""WideResNet-38, the network of AffinityNet (PSA) and SEAM: Wu, Shen and van den Hengel, "Wider or Deeper: Revisiting
the ResNet Model for Visual Recognition", 2016 (model A1), in the dilated form of Ahn and Kwak, CVPR 2018.

Pre-activation residual blocks b2 .. b7 behind one 3x3 convolution. The first blocks of b2, b3 and b4 have stride 2,
everything behind runs at stride 8: b5 with dilation 2 (its very first convolution with 1), b6 and b7 with dilation 4.
Features are 4096 channels after a last norm and ReLU (bn7).

Names are those of the published weights converted from MXNet: ``conv1a``, ``b2.bn_branch2a``, ``b6.conv_branch1``,
``bn7``. The conversion itself (MXNet's ``ilsvrc-cls_rna-a1_cls1000_ep-0001.params`` to a state dict) is not part of
this project: give the path of a state dict with these names as ``weights``.
"""

from __future__ import annotations

import torch
from torch import nn

# block, how many further blocks of the same width, middle channels, output channels, stride, dilation
_PLAIN = (
    ("b2", 2, 128, 128, 2, 1),
    ("b3", 2, 256, 256, 2, 1),
    ("b4", 5, 512, 512, 2, 1),
    ("b5", 2, 512, 1024, 1, 2),
)
# block, output channels, dilation, dropout
_BOTTLENECKS = (("b6", 2048, 4, 0.3), ("b7", 4096, 4, 0.5))

HEAD_DROPOUT = 0.5


class _Plain(nn.Module):
    """Two 3x3 convolutions. With ``widen`` the input is already normalised and activated, see ``wide_resnet38``."""

    def __init__(self, inputs: int, middle: int, outputs: int, stride: int, dilation: int, *, widen: bool):
        super().__init__()
        first = 1 if widen else dilation
        self.widen = widen
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = _conv3(inputs, middle, stride, first)
        self.bn_branch2b1 = nn.BatchNorm2d(middle)
        self.conv_branch2b1 = _conv3(middle, outputs, 1, dilation)
        if widen:
            self.conv_branch1 = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = x if self.widen else torch.relu(self.bn_branch2a(x))
        shortcut = self.conv_branch1(x) if self.widen else x
        y = torch.relu(self.bn_branch2b1(self.conv_branch2a(active)))
        return shortcut + self.conv_branch2b1(y)


class _Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with dropout before the last two; its input is already normalised and activated."""

    def __init__(self, inputs: int, outputs: int, dilation: int, dropout: float):
        super().__init__()
        quarter, half = outputs // 4, outputs // 2
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = nn.Conv2d(inputs, quarter, 1, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(quarter)
        self.dropout_2b1 = nn.Dropout2d(dropout)
        self.conv_branch2b1 = _conv3(quarter, half, 1, dilation)
        self.bn_branch2b2 = nn.BatchNorm2d(half)
        self.dropout_2b2 = nn.Dropout2d(dropout)
        self.conv_branch2b2 = nn.Conv2d(half, outputs, 1, bias=False)
        self.conv_branch1 = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, active: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn_branch2b1(self.conv_branch2a(active)))
        y = torch.relu(self.bn_branch2b2(self.conv_branch2b1(self.dropout_2b1(y))))
        return self.conv_branch1(active) + self.conv_branch2b2(self.dropout_2b2(y))


def _conv3(inputs: int, outputs: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)


def wide_resnet38() -> tuple[dict[str, nn.Module], tuple[str, ...], tuple[str, ...]]:
    """Return the root modules in order, the steps and the levels (see ``camflow.models.backbones.Trunk``).

    The first block of b2 .. b7 feeds its activated input to both of its branches, so the activation runs as steps of
    its own (``b5.bn_branch2a``, ``relu5``) and is what a level ends with: the published taps conv4, conv5 and conv6 are
    the last three levels (512, 1024 and 4096 channels, all at stride 8). The input of b7 is no published tap.

    The last step, behind the last level, is the dropout in front of the classifier; it does nothing in eval mode.
    """
    modules: dict[str, nn.Module] = {"conv1a": _conv3(3, 64, 1, 1)}
    steps, channels = ["conv1a"], 64

    def begin(block: str) -> None:
        relu = f"relu{block[1:]}"
        modules[relu] = nn.ReLU(inplace=True)
        steps.extend((f"{block}.bn_branch2a", relu, block))

    for block, further, middle, outputs, stride, dilation in _PLAIN:
        modules[block] = _Plain(channels, middle, outputs, stride, dilation, widen=True)
        begin(block)
        for index in range(1, further + 1):
            modules[f"{block}_{index}"] = _Plain(outputs, middle, outputs, 1, dilation, widen=False)
            steps.append(f"{block}_{index}")
        channels = outputs
    for block, outputs, dilation, dropout in _BOTTLENECKS:
        modules[block] = _Bottleneck(channels, outputs, dilation, dropout)
        begin(block)
        channels = outputs
    modules["bn7"] = nn.BatchNorm2d(channels)
    modules["relu_out"] = nn.ReLU(inplace=True)
    modules["dropout7"] = nn.Dropout2d(HEAD_DROPOUT)
    steps += ["bn7", "relu_out", "dropout7"]
    levels = ("relu3", "relu4", "relu5", "relu6", "relu_out")
    return modules, tuple(steps), levels
