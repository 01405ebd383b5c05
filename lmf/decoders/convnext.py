"""Blocks of ConvNeXt (Liu et al., CVPR 2022) at constant resolution."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from lmf.decoders.base import Linear


class ConvNeXt(nn.Module):
    """Stages of ConvNeXt blocks, with a layer norm and a linear layer between stages of different width.

    Args:
        widths: width of each stage.
        depths: number of blocks of each stage.

    Attributes:
        receptive_field: largest distance in pixels from which a feature influences another.
    """

    def __init__(self, widths: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.ModuleList(Block(width) for _ in range(depth)) for width, depth in zip(widths, depths, strict=True)
        )
        self.projections = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(a, eps=1e-6), Linear(a, b)) for a, b in pairwise(widths)
        )
        self.receptive_field = sum(depths)

    def forward(self, feat: Tensor) -> Tensor:
        """Map features (B, C, h, w) of the first width to features (B, C', h, w) of the last."""
        x = feat.permute(0, 2, 3, 1)  # (B, h, w, C)
        for i, stage in enumerate(self.stages):
            if i:
                x = self.projections[i - 1](x)
            assert isinstance(stage, nn.ModuleList)
            for block in stage:
                x = block(x)
        return x.permute(0, 3, 1, 2)


class Block(nn.Module):
    """A depthwise 3 x 3 convolution, a layer norm and an MLP on (B, h, w, C), with a skip connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.widen = Linear(width, 4 * width)
        self.narrow = Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        y = self.narrow(F.gelu(self.widen(self.norm(y)), approximate="tanh"))
        return x + y
