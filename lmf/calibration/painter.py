"""A painter for rendering one picture with many tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lmf.grid import Grid
from lmf.kernels.region import Layer, Region
from lmf.renderers.cmsr.painter import Painter


@dataclass(frozen=True)
class RememberingPainter(Painter):
    """A `Painter` that renders each grid once, as a whole, and copies parts from the result.

    Attributes:
        pictures: the rendered grids.
    """

    pictures: dict[Grid, Tensor] = field(default_factory=dict)

    def picture(self, target: Grid, cell: Tensor) -> Tensor:
        if target not in self.pictures:
            self.pictures[target] = super().picture(target, cell)
        return self.pictures[target]

    def paint(self, out: Tensor, part: Region, target: Grid, cell: Tensor) -> None:
        torch.where(part.mask.to(out.device), self.picture(target, cell), out, out=out)

    def fused(self, out: Tensor, target: Grid, layers: Sequence[Layer]) -> bool:
        return False  # fused rendering does not return the pictures of the levels
