"""Precision of what networks return."""

from __future__ import annotations

import torch


def at_least_single(values: torch.Tensor) -> torch.Tensor:
    """Return float32 for half precisions; float32 and float64 as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
