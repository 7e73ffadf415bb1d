"""Initial weights of a trunk: a file with a state dict, or a named release of torchvision."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision

from camflow.errors import ConfigError, did_you_mean
from camflow.models.backbones import our_name
from camflow.models.timm_backbones import is_timm, timm_weights

_SHOWN = 5  # names per kind of misfit in an error message


def load_initial_weights(model: torch.nn.Module, backbone: str, weights: str) -> None:
    """Fill the trunk of a classifier in place; its head keeps the weights it has.

    Args:
        model: the classifier; every name outside ``classifier.`` is trunk.
        backbone: name of the network, for torchvision releases and messages.
        weights: ``none``, a torchvision release such as ``IMAGENET1K_V1`` (downloaded once by torchvision), for a
            network of timm ``pretrained``, or the path of a state dict with torchvision's, timm's or our names.
            Classifier layers in it are ignored.

    Raises:
        ConfigError: the file is missing or no state dict, the release is unknown or cannot be downloaded, or names and
            shapes do not fit the trunk; the message lists what does not.
    """
    if weights == "none":
        return
    state = read_weights(backbone, weights)
    source = f"weights '{weights}' for backbone '{backbone}'"
    own = {name: value for name, value in model.state_dict().items() if not name.startswith("classifier.")}
    given = {our_name(name): value for name, value in state.items()}
    require_fit(own, given, source)
    model.load_state_dict({**model.state_dict(), **{name: given[name] for name in own if name in given}})


def read_weights(network: str, weights: str) -> Mapping[str, torch.Tensor]:
    """Read a state dict from a file, or fetch the named release of a network of torchvision or timm.

    The releases of DenseNet are older than its code: norm.1 is called norm1 by now.

    Raises:
        ConfigError: as of ``load_initial_weights``, names and shapes aside.
    """
    path = Path(weights).expanduser()
    state = _read_file(path) if path.is_file() else _download(network, weights)
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name): value for name, value in state.items()}


def _read_file(path: Path) -> Mapping[str, Any]:
    try:
        state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except ConfigError:
        raise
    except Exception as error:  # torch raises many types for a bad file
        raise ConfigError(
            f"{path}: cannot be read as a state dict ({type(error).__name__}); is the file whole?"
        ) from error
    for place in ("state_dict", "model"):  # our files and many others; DeiT's
        if isinstance(state, Mapping) and isinstance(state.get(place), Mapping):
            state = state[place]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConfigError(f"{path}: holds no state dict (a mapping of names to tensors)")
    return state


def _read_torch(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path: Path) -> Any:
    try:
        return importlib.import_module("safetensors.torch").load_file(path)
    except ImportError as error:
        raise ConfigError(f"{path}: reading it needs safetensors, which comes with timm: pip install timm") from error


def _download(backbone: str, release: str) -> Mapping[str, Any]:
    if "/" in release or release.endswith((".pt", ".pth", ".safetensors")):
        raise ConfigError(f"weights file '{release}' does not exist")
    if is_timm(backbone):
        return timm_weights(backbone, release)
    try:
        releases = torchvision.models.get_model_weights(backbone).__members__
    except ValueError as error:  # not a network of torchvision
        raise ConfigError(
            f"there are no released weights for backbone '{backbone}'; use weights: none or the path of a state dict, "
            f"not '{release}'"
        ) from error
    if release not in releases:
        hint = did_you_mean(release, ["none", *releases])
        raise ConfigError(f"unknown weights '{release}' for backbone '{backbone}' (nor is there such a file){hint}")
    try:
        return releases[release].get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"could not fetch {releases[release].url} ({error}); download it and give its path as weights"
        ) from error


def require_fit(
    own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], source: str, *, whole: bool = False
) -> None:
    """Raise ``ConfigError`` unless ``given`` has exactly the trunk's entries, classifier layers aside.

    Args:
        own, given: the trunk's entries and those of the weights.
        source: names the weights.
        whole: no entry of ``given`` belongs to a classifier layer.
    """
    # Files of torch < 0.4.1 lack the batch counters, which nothing reads.
    missing = [name for name in own if name not in given and not name.endswith("num_batches_tracked")]
    roots = {name.split(".")[0] for name in own}
    unknown = [name for name in given if name not in own and (whole or name.split(".")[0] in roots)]
    misshapen = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{' ...' if len(names) > _SHOWN else ''}"
        for kind, names in (("missing", missing), ("unknown", unknown), ("of another shape", misshapen))
        if names
    ]
    if problems:
        raise ConfigError(
            f"{source} do not fit. {'; '.join(problems)}. Give the backbone they belong to, or other weights"
        )
