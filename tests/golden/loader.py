"""Arrays of the authors' implementations, and networks filled with the weights they were computed with.

The arrays are looked for in the folder named by ``CAMFLOW_GOLDEN``, else in ``../shared/golden`` beside the checkout,
else in ``tests/golden/data``. Tests that need an absent file are skipped.
"""

from __future__ import annotations

import math
import os
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]

# WideResNet-38: the last convolution of a residual branch. ResNet: the last norm of a bottleneck.
_CONV_LAST = re.compile(r"b[2-5](_\d+)?\.conv_branch2b1\.weight|b[67]\.conv_branch2b2\.weight")
_BN_LAST = re.compile(r"layer\d+\.\d+\.bn3\.weight")
_SMALL_NORMAL = re.compile(r"aspp\.c\d+\.weight")
_GROUP_NORM = re.compile(r"(.*\.)?gn(\d+_\d+)?\.(weight|bias)")
_PLAIN_BIAS = re.compile(r"(edge6\.conv|aspp\.c\d+|conv\d_\d|fc\d)\.bias")


def golden_folders() -> list[Path]:
    """Return the folders looked in, in order."""
    if "CAMFLOW_GOLDEN" in os.environ:
        return [Path(os.environ["CAMFLOW_GOLDEN"])]
    return [ROOT.parent / "shared" / "golden", ROOT / "tests" / "golden" / "data"]


def golden(stem: str) -> dict[str, np.ndarray]:
    """Return all arrays of ``<stem>.npz``; skips the calling test when the file is nowhere."""
    folders = golden_folders()
    for folder in folders:
        path = folder / f"{stem}.npz"
        if path.is_file():
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
    pytest.skip(f"no {stem}.npz in {' or '.join(map(str, folders))}; set CAMFLOW_GOLDEN to the folder that has it")


def kind_of(name: str, shape: tuple[int, ...]) -> str:
    """Return the kind of a tensor in the weight rule, from its canonical name and shape."""
    if len(shape) >= 4:
        if _SMALL_NORMAL.fullmatch(name):
            return "normal*0.01"
        return "conv_last" if _CONV_LAST.fullmatch(name) else "conv"
    if name.endswith("running_mean"):
        return "bn_mean"
    if name.endswith("running_var"):
        return "bn_var"
    if _GROUP_NORM.fullmatch(name):
        return "gn_w" if name.endswith("weight") else "gn_b"
    if name.endswith("weight"):
        return "bn_w_last" if _BN_LAST.fullmatch(name) else "bn_w"
    return "bias" if _PLAIN_BIAS.fullmatch(name) else "bn_b"


def rule_tensor(name: str, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
    """Return the float32 values of one tensor: one draw of a PCG64 generator seeded by the crc32 of its name.

    Args:
        name: canonical name.
        shape: of the tensor.
        scale: factor applied in double before rounding.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    kind = kind_of(name, shape)
    if kind in ("conv", "conv_last"):
        values = rng.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
    elif kind == "normal*0.01":
        values = rng.standard_normal(shape) * 0.01
    elif kind in ("bn_w", "bn_w_last", "bn_var", "gn_w"):
        values = rng.uniform(0.5, 1.5, shape)
    else:
        values = rng.standard_normal(shape) * 0.1
    if kind.endswith("_last"):
        values = values * 0.25
    return (values * scale).astype(np.float32)


def fill_by_rule(
    target: torch.nn.Module | dict[str, torch.Tensor],
    *,
    rename: Callable[[str], str] | Mapping[str, str] | None = None,
    scale: Mapping[str, float] | None = None,
) -> torch.nn.Module | dict[str, torch.Tensor]:
    """Fill parameters and buffers in place with the rule's float32 values (up-cast where the target is double).

    Args:
        target: a module or a state dict; ``num_batches_tracked`` is left alone.
        rename: own name -> canonical name, a function or a mapping (absent names are canonical already).
        scale: canonical name -> extra factor, e.g. ``{"conv1.weight": 1 / 64}`` for inputs that are not divided by 255.

    Returns:
        ``target``.
    """
    state = target.state_dict() if isinstance(target, torch.nn.Module) else target
    with torch.no_grad():
        for own, tensor in state.items():
            if own.endswith("num_batches_tracked"):
                continue
            name = rename(own) if callable(rename) else (rename or {}).get(own, own)
            values = rule_tensor(name, tuple(tensor.shape), (scale or {}).get(name, 1.0))
            tensor.copy_(torch.from_numpy(values))
    return target
