"""Convolutional trunks: any torchvision classification network cut before its pooling, the small `tiny`, the two
networks of AffinityNet, `resnet38` and `vgg16_psa`, those of CAM, `alexnet_gap` (`_bn`) and `googlenet_gap`, and with
the optional timm any convolutional network of it, `timm:NAME`.

A trunk is a list of *steps* run one after the other. Steps are grouped in *levels*, one for each resolution of the
published network; the output of a level is what multi-level heads (boundary and affinity networks, decoders) tap.
Parameter names are torchvision's, except that a child called ``features`` becomes ``trunk`` (``features`` is a method
of the classifier); `resnet38` and `vgg16_psa` keep the names of their published weights.

Output stride. The published networks end at stride 32; localisation wants 16 or 8. Every step that would go beyond the
requested stride has its stride set to 1, without dilation (the recipe of IRN, Ahn et al. 2019, section 4.1 of its
code) or, with ``dilate``, with the later kernels of the trunk dilated by the factor that was removed (Chen et al. 2017;
equal to torchvision's ``replace_stride_with_dilation``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torchvision
from torch import nn

from camflow.errors import ConfigError, did_you_mean
from camflow.models.resnet38 import wide_resnet38
from camflow.models.timm_backbones import is_timm, timm_steps
from camflow.models.vgg16_psa import vgg16_psa

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RENAMED = {"features.": "trunk."}  # torchvision prefix -> ours

_PROBE = 256  # pixels; large enough that every stride up to 32 shows in the size of the output


@dataclass
class Trunk:
    """The convolutional part of a network.

    Attributes:
        modules: the root children by name, in order of execution.
        steps: dotted names of the modules to run, in order.
        levels: the steps whose outputs end a level, in order; the last one is the output (a dropout in front of the
            classifier may follow it).
        strides, channels: of each level's output.
        published_strides: of each level in the network as published, i.e. before ``output_stride`` was applied.
        release: the torchvision network whose weights fit; None: the backbone's own name.
        added: root children that the network of ``release`` does not have; its weights leave them as they are drawn.
        whole_cells: rows and columns of a photo that do not fill a cell are lost.
    """

    modules: dict[str, nn.Module]
    steps: tuple[str, ...]
    levels: tuple[str, ...]
    strides: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()
    published_strides: tuple[int, ...] = ()
    release: str | None = None
    added: tuple[str, ...] = ()
    whole_cells: bool = False

    def step(self, name: str) -> nn.Module:
        """Return the module of a step."""
        root, _, rest = name.partition(".")
        return self.modules[root].get_submodule(rest)


def backbone_names() -> list[str]:
    """Return every name that ``build_trunk`` looks at; a few torchvision networks among them are refused when built."""
    return ["tiny", *_PUBLISHED, *_GAP, *torchvision.models.list_models(module=torchvision.models)]


def build_trunk(name: str, *, output_stride: int | None = None, dilate: bool = False, width: int = 24) -> Trunk:
    """Build a trunk with fresh weights (drawn from torch's global generator).

    Args:
        name: a torchvision classification network (``resnet50``, ``vgg16``, ``mobilenet_v2`` ...), ``resnet38``,
            ``vgg16_psa``, ``alexnet_gap``, ``alexnet_gap_bn``, ``googlenet_gap``, ``tiny`` or ``timm:NAME``.
        output_stride: stride of the last features; None keeps the published one.
        dilate: keep the receptive field by dilation where a stride was removed.
        width: channels of the first layer of ``tiny``; other networks ignore it.

    Raises:
        ConfigError: unknown name, a network without a plain convolutional trunk, a stride it cannot have.
    """
    if name in _PUBLISHED:
        trunk = Trunk(*_PUBLISHED[name]())
    elif name in _GAP:
        trunk = _GAP[name]()
    elif is_timm(name):
        trunk = _from_timm(name)
    else:
        trunk = _tiny(width) if name == "tiny" else _from_torchvision(name)
    return finish_trunk(trunk, name, output_stride, dilate)


def finish_trunk(trunk: Trunk, name: str, output_stride: int | None, dilate: bool) -> Trunk:
    """Limit the stride of a trunk and fill in what is known of its levels; arguments as in ``build_trunk``."""
    profile = _profile(trunk, name)
    published = {step: stride for step, (stride, _) in profile.items()}
    if not trunk.levels:
        trunk.levels = _level_ends(trunk.steps, published)
    if output_stride is not None:
        _limit_stride(trunk, name, published, output_stride, dilate)
        profile = _profile(trunk, name)
        if profile[trunk.steps[-1]][0] != output_stride:
            raise ConfigError(
                f"backbone '{name}' strides by other means than convolutions and poolings, so it keeps its stride of "
                f"{profile[trunk.steps[-1]][0]}; set output_stride: null"
            )
    trunk.strides = tuple(profile[level][0] for level in trunk.levels)
    trunk.channels = tuple(profile[level][1] for level in trunk.levels)
    trunk.published_strides = tuple(published[level] for level in trunk.levels)
    return trunk


# --- the small network -----------------------------------------------------------------------------------------------


class _Residual(nn.Module):
    """ReLU(x + BN(conv3x3(x))): one more 3x3 of receptive field at the price of one convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.bn(self.conv(x)))


def _tiny(width: int) -> Trunk:
    """A network for images of about 100 px that one CPU core trains at hundreds of images a second; stride 8."""
    if width < 1:
        raise ConfigError(f"the width of backbone 'tiny' must be positive, not {width}")

    def down(inputs: int, outputs: int) -> nn.Sequential:
        conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())

    modules = {
        "stem": down(3, width),
        "layer1": down(width, 2 * width),
        "layer2": down(2 * width, 4 * width),
        "layer3": _Residual(4 * width),
        "layer4": _Residual(4 * width),
    }
    return Trunk(modules, tuple(modules), ("stem", "layer1", "layer2", "layer4"))


# --- networks of one paper: modules, steps, levels -------------------------------------------------------------------

_PUBLISHED = {"resnet38": wide_resnet38, "vgg16_psa": lambda: vgg16_psa(IMAGENET_MEAN, IMAGENET_STD)}


# --- networks of CAM -------------------------------------------------------------------------------------------------


class _OtherInput(nn.Module):
    """The project's normalisation -> another one; (B, 3, H, W) both."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.mean, self.std = tuple(mean), tuple(std)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wanted = (IMAGENET_MEAN, IMAGENET_STD, self.mean, self.std)
        mean, std, other_mean, other_std = (x.new_tensor(values)[:, None, None] for values in wanted)
        return (x * std + mean - other_mean) / other_std


def _new_conv(inputs: int, outputs: int, norm: bool) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=not norm)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return [conv, *([nn.BatchNorm2d(outputs)] if norm else []), nn.ReLU(inplace=True)]


def _alexnet_gap(norm: bool) -> Trunk:
    """AlexNet without pool5 and what follows, and two new convolutions of 512 channels (Zhou et al., CVPR 2016).

    Torchvision's AlexNet has no groups, as the network of Hide-and-Seek. With ``norm`` there is a batch norm behind
    every convolution, as there; then the biases of the first five convolutions have no effect. Stride 16.
    """
    layers = torchvision.models.alexnet(weights=None).features[:-1]
    added = nn.Sequential(*_new_conv(256, 512, norm), *_new_conv(512, 512, norm))
    steps: list[str] = []
    norms = nn.ModuleDict()
    for name, layer in layers.named_children():
        steps.append(f"trunk.{name}")
        if norm and isinstance(layer, nn.Conv2d):
            norms[name] = nn.BatchNorm2d(layer.out_channels)
            steps.append(f"norms.{name}")
    modules = {"trunk": layers, **({"norms": norms} if norm else {}), "gap_conv": added}
    steps += [f"gap_conv.{name}" for name, _ in added.named_children()]
    return Trunk(modules, tuple(steps), (), release="alexnet", added=tuple(name for name in modules if name != "trunk"))


def _googlenet_gap() -> Trunk:
    """GoogLeNet up to inception4e, and a new convolution of 1024 channels (Zhou et al., CVPR 2016). Stride 16.

    Torchvision's GoogLeNet has a batch norm behind every convolution, so the new one has, too.
    """
    net = torchvision.models.googlenet(weights=None, aux_logits=False, init_weights=True)
    children = dict(net.named_children())
    names = list(children)[: list(children).index("inception4e") + 1]
    added = nn.Sequential(*_new_conv(832, 1024, True))
    modules = {
        "rescale": _OtherInput((0.5,) * 3, (0.5,) * 3),
        **{name: children[name] for name in names},
        "gap_conv": added,
    }
    return Trunk(modules, tuple(modules), (), release="googlenet", added=("gap_conv",))


_GAP = {
    "alexnet_gap": lambda: _alexnet_gap(norm=False),
    "alexnet_gap_bn": lambda: _alexnet_gap(norm=True),
    "googlenet_gap": _googlenet_gap,
}


# --- torchvision -----------------------------------------------------------------------------------------------------


def _from_torchvision(name: str) -> Trunk:
    """The convolutional part of a torchvision network with fresh weights."""
    if name not in backbone_names():
        raise ConfigError(f"unknown backbone '{name}'{did_you_mean(name, backbone_names())}")
    extra = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return torchvision_trunk(torchvision.models.get_model(name, weights=None, **extra), name)


def torchvision_trunk(net: nn.Module, name: str) -> Trunk:
    """The convolutional part of a torchvision network, whose modules it shares; without levels' strides and channels.

    Raises ``ConfigError``, naming it ``name``, for a network without a plain convolutional trunk.
    """
    if isinstance(net, torchvision.models.ResNet):
        names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
        # IRN's x1..x5: the pooled stem counts as a level of its own although layer1 has the same stride.
        return Trunk({n: getattr(net, n) for n in names}, names, names[3:])
    if isinstance(net, torchvision.models.ShuffleNetV2):
        names = ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5")
        return Trunk({n: getattr(net, n) for n in names}, names, ())
    if isinstance(net, torchvision.models.RegNet):
        return Trunk(
            {"stem": net.stem, "trunk_output": net.trunk_output}, ("stem", *_children(net, "trunk_output")), ()
        )
    if isinstance(net, torchvision.models.MNASNet):
        return Trunk({"layers": net.layers}, tuple(_children(net, "layers")), ())
    if isinstance(getattr(net, "features", None), nn.Sequential):
        return _from_features(net)
    raise _no_trunk(name)


def _from_features(net: nn.Module) -> Trunk:
    steps = list(net.features._modules)
    if isinstance(net.features[-1], nn.MaxPool2d):
        # CAM reads the last convolution (Zhou et al. 2016 drop pool5 of VGG and AlexNet as well).
        del net.features[-1]
        steps.pop()
    modules: dict[str, nn.Module] = {"trunk": net.features}
    names = [f"trunk.{step}" for step in steps]
    if isinstance(net, torchvision.models.DenseNet):
        modules["relu"] = nn.ReLU()  # torchvision applies it in DenseNet.forward
        names.append("relu")
    return Trunk(modules, tuple(names), ())


def _from_timm(name: str) -> Trunk:
    """Take the steps out of a network of timm, in front of them what its input needs."""
    found = timm_steps(name)
    modules, steps = found.modules, found.names
    if (found.mean, found.std) != (IMAGENET_MEAN, IMAGENET_STD):
        modules, steps = {"rescale": _OtherInput(found.mean, found.std), **modules}, ["rescale", *steps]
    renamed = {our_name(f"{root}.").removesuffix("."): module for root, module in modules.items()}
    return Trunk(renamed, tuple(our_name(step) for step in steps), (), whole_cells=found.whole_cells)


def _children(net: nn.Module, name: str) -> Iterable[str]:
    return (f"{name}.{child}" for child in net.get_submodule(name)._modules)


def _no_trunk(name: str) -> ConfigError:
    return ConfigError(
        f"backbone '{name}' has no plain convolutional trunk (transformers, Inception); "
        "use a ResNet, VGG, MobileNet, SqueezeNet, DenseNet, EfficientNet, RegNet, ShuffleNet, MNASNet or ConvNeXt"
    )


# --- strides ---------------------------------------------------------------------------------------------------------


def _profile(trunk: Trunk, name: str) -> dict[str, tuple[int, int]]:
    """Run the trunk on shapes alone (meta tensors) and return {step: (stride, channels)}."""
    x = torch.empty(1, 3, _PROBE, _PROBE, device="meta")
    profile = {}
    for step in trunk.steps:
        module = trunk.step(step)
        weights = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        shapes = {key: torch.empty_like(value, device="meta") for key, value in weights.items()}
        was_training = module.training
        module.eval()
        x = torch.func.functional_call(module, shapes, (x,))
        module.train(was_training)
        if x.ndim != 4 or x.shape[2] != x.shape[3]:
            raise _no_trunk(name)
        # A network without padding (SqueezeNet) loses a pixel or two per layer; its nominal stride is a power of two.
        profile[step] = (2 ** round(math.log2(_PROBE / x.shape[2])), x.shape[1])
    return profile


def _level_ends(steps: tuple[str, ...], strides: dict[str, int]) -> tuple[str, ...]:
    ends = [a for a, b in itertools.pairwise(steps) if strides[a] != strides[b]]
    return (*ends, steps[-1])


def _limit_stride(trunk: Trunk, name: str, published: dict[str, int], limit: int, dilate: bool) -> None:
    """Remove, in place, every stride beyond ``limit``."""
    natural = published[trunk.steps[-1]]
    possible = sorted(s for s in set(published.values()) if s >= 4)
    if limit not in possible:
        raise ConfigError(f"backbone '{name}' cannot have output_stride {limit}; possible: {possible}")
    if limit == natural:
        return
    before, factor = 1, 1
    for step in trunk.steps:
        stride, module = published[step], trunk.step(step)
        removed = stride // before if stride > limit else 1
        grown = factor * removed if dilate else 1
        _rewrite(module, factor if dilate else 1, grown, removed > 1, f"{name} {step}")
        before, factor = stride, grown


def _rewrite(module: nn.Module, dilation: int, dilation_after: int, strip: bool, where: str) -> None:
    """Take the stride out of a step and dilate its kernels.

    The layer that loses its stride still reads undilated input (or input at the former dilation); only the layers
    behind it see the finer grid, hence ``dilation`` up to that layer and ``dilation_after`` behind it.
    """
    current = dilation
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            stripped = strip and layer.stride != (1, 1)
            if stripped:
                if layer.kernel_size[0] % 2 == 0:
                    raise ConfigError(
                        f"{where}: a {layer.kernel_size} convolution cannot lose its stride; set output_stride: null"
                    )
                layer.stride = (1, 1)
            _dilate(layer, current)
            if stripped and layer.kernel_size != (1, 1):  # 1x1: the shortcut beside the main path
                current = dilation_after
        elif isinstance(layer, nn.MaxPool2d | nn.AvgPool2d) and strip and layer.stride not in (1, (1, 1)):
            _unstride_pool(layer)
            current = dilation_after


def _dilate(layer: nn.Conv2d, dilation: int) -> None:
    if dilation > 1 and layer.kernel_size != (1, 1):
        layer.dilation = tuple(d * dilation for d in layer.dilation)
        layer.padding = tuple(p * dilation for p in layer.padding)


def _unstride_pool(pool: nn.MaxPool2d | nn.AvgPool2d) -> None:
    """Make a pool keep the size of its input: stride 1, the next odd kernel (2x2 becomes 3x3, as in PSA's VGG-16)."""
    kernel = pool.kernel_size if isinstance(pool.kernel_size, int) else pool.kernel_size[0]
    kernel += 1 - kernel % 2
    pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode = kernel, 1, kernel // 2, False
    if isinstance(pool, nn.AvgPool2d):
        pool.count_include_pad = False


# --- names of weights ------------------------------------------------------------------------------------------------


def our_name(torchvision_name: str) -> str:
    """Translate a torchvision state-dict name to ours; a name that is already ours stays."""
    for theirs, ours in RENAMED.items():
        if torchvision_name.startswith(theirs):
            return ours + torchvision_name[len(theirs) :]
    return torchvision_name
