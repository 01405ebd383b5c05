"""Converts colours between [0, 1] and the units of the networks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_network(rgb: Tensor) -> Tensor:
    """Convert colours in [0, 1] to network units [-1, 1]."""
    return rgb.mul(2).sub_(1)  # one copy, not two: pictures can be large


def from_network(rgb: Tensor) -> Tensor:
    """Convert network units [-1, 1] to colours in [0, 1]; values outside are clamped."""
    return (rgb / 2 + 0.5).clamp(0, 1)


def to_uint8(rgb: Tensor) -> np.ndarray:
    """Convert colours (3, H, W) in [0, 1] to uint8 (H, W, 3); values outside are clamped."""
    array: np.ndarray = (rgb.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return array
