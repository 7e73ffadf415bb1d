"""RandAugment (Cubuk et al., CVPR workshops 2020) and random erasing (Zhong et al., AAAI 2020), which vision transformers
are trained with.

Both are torchvision's, drawn from the sample's own generator. DeiT used timm's RandAugment (``rand-m9-mstd0.5-inc1``),
whose list of operations and whose strengths differ a little from the paper's and from torchvision's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2


def rand_augment(photo: np.ndarray, rng: np.random.Generator, *, operations: int = 2, magnitude: int = 9) -> np.ndarray:
    """Apply random operations on colour and geometry to a uint8 photo (H, W, 3).

    Args:
        operations: how many, one after the other.
        magnitude: their strength, 0 to 30.
    """
    with _drawn_from(rng):
        transform = v2.RandAugment(operations, magnitude, interpolation=v2.InterpolationMode.BICUBIC)
        return np.asarray(transform(Image.fromarray(np.ascontiguousarray(photo))))


def random_erasing(image: np.ndarray, rng: np.random.Generator, *, p: float = 0.25) -> np.ndarray:
    """With probability ``p`` replace a random rectangle of a normalised input (H, W, 3) by noise of the normal
    distribution; it covers 2 to 33 % of the input, sides 0.3 to 3.3 to one."""
    with _drawn_from(rng):
        erased = v2.RandomErasing(p, value="random")(torch.from_numpy(image.transpose(2, 0, 1).copy()))
    return np.ascontiguousarray(erased.numpy().transpose(1, 2, 0))


@contextlib.contextmanager
def _drawn_from(rng: np.random.Generator) -> Iterator[None]:
    """Torch's global generator seeded from ``rng`` within the block, and as before behind it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63)))
        yield
