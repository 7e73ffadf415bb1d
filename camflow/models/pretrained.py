"""Any trained torchvision network as a ``Classifier``, so that maps can be made of it without training anything here.

A class activation map needs a network that ends in global average pooling and one linear layer: then the logit of a class
is the mean of its score map plus a bias, with z_c(p) = w_c . f(p) (Zhou et al. 2016, eq. 2). SqueezeNet rectifies the
scores, bias included, before it averages them; its logits are kept, and its maps are those of w_c too.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from camflow.errors import ConfigError
from camflow.models.backbones import IMAGENET_MEAN, IMAGENET_STD, finish_trunk, torchvision_trunk
from camflow.models.classifier import Classifier


class Pretrained(Classifier):
    """A classifier whose logits have a bias; the score maps have none. See ``from_torchvision``."""

    bias: torch.Tensor
    rectified = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits ``(B, C)``."""
        scores = self.score_maps(x) + self.bias[:, None, None]
        return (torch.relu(scores) if self.rectified else scores).mean(dim=(2, 3))


def from_torchvision(
    network: nn.Module,
    class_names: Sequence[str] | None = None,
    *,
    output_stride: int | None = None,
    dilate: bool = False,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Classifier:
    """A classifier in eval mode with the weights of a torchvision network, which is left as it is.

    Args:
        network: a ResNet, ResNeXt, DenseNet, MobileNetV2, EfficientNet, RegNet, ShuffleNet, MNASNet or SqueezeNet, with any
            number of classes.
        class_names: in the order of the logits; the numbers from 0 on where not given.
        output_stride: stride of the features; smaller than the published 32, such as 16, gives finer maps.
        dilate: keep the receptive field by dilation where a stride was removed.
        mean, std: of the RGB/255 that the network was trained with.

    Raises:
        ConfigError: the network does not end in pooling and one linear layer, a stride it cannot have, or another number
            of names than of classes.
    """
    name = type(network).__name__
    network = copy.deepcopy(network)
    last = _last_layer(network, name)
    trunk = finish_trunk(torchvision_trunk(network, name), name, output_stride, dilate)
    model = Pretrained(trunk, len(last.weight), pooling="gap", freeze_bn=False, spec={"network": name})
    with torch.no_grad():
        model.classifier.weight.copy_(last.weight.reshape(model.classifier.weight.shape))
    model.register_buffer("bias", torch.zeros(len(last.weight)) if last.bias is None else last.bias.detach())
    model.rectified = isinstance(last, nn.Conv2d)
    model.mean, model.std = tuple(mean), tuple(std)
    model.class_names = [str(n) for n in (range(model.n_classes) if class_names is None else class_names)]
    if len(model.class_names) != model.n_classes:
        raise ConfigError(f"{name}: {len(model.class_names)} class names for {model.n_classes} classes")
    return model.eval()


def _last_layer(network: nn.Module, name: str) -> nn.Linear | nn.Conv2d:
    """The linear layer behind the pooling, or SqueezeNet's 1x1 convolution in front of it."""
    end = getattr(network, "fc", getattr(network, "classifier", None))
    layers = [m for m in (end.modules() if end is not None else ()) if not list(m.children())]
    passing = (nn.Dropout, nn.ReLU, nn.AdaptiveAvgPool2d)
    layers = [layer for layer in layers if not isinstance(layer, passing)]
    if len(layers) != 1 or not isinstance(layers[0], nn.Linear | nn.Conv2d):
        found = ", ".join(type(layer).__name__ for layer in layers) or "nothing known"
        raise ConfigError(
            f"{name}: class activation maps need a network that ends in global average pooling and one linear layer, this "
            f"one ends in {found}; take a ResNet, DenseNet, MobileNetV2, EfficientNet, RegNet, ShuffleNet, MNASNet or SqueezeNet"
        )
    return layers[0]
