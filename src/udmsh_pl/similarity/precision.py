"""Sums over pairs need float32, whatever precision a network runs in."""

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """The same values as float32, or as float64 where they are that already."""
    return values if values.dtype == torch.float64 else values.float()
