"""Loss functions for colours in network units."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class RangeL1(nn.Module):
    """L1 loss plus the mean squared distance from the range of proper colours, [-1, 1] with a tolerance.

    A wrong colour far out of range costs much more than with L1 alone, however rare it is.

    Args:
        tolerance: how far out of [-1, 1] predictions may lie without the additional cost.
        weight: factor of the additional cost.
    """

    def __init__(self, tolerance: float = 0.1, weight: float = 1.0) -> None:
        super().__init__()
        self.tolerance, self.weight = tolerance, weight

    def forward(self, rgb: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``rgb`` against ``target``, two tensors of one shape."""
        excess = (rgb.abs() - (1 + self.tolerance)).relu()
        return F.l1_loss(rgb, target) + self.weight * excess.square().mean()
