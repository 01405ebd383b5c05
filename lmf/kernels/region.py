"""Subsets of the pixels of a grid, stored as runs of columns, for multi-scale rendering."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lmf.grid import Grid, Size


@dataclass(frozen=True)
class Region:
    """A set of pixels as blocks of rows; all rows of a block share the same runs of columns.

    Attributes:
        size: (rows, columns) of the grid.
        rows: int64 (n + 1,), the first row of each block, then the end of the last block.
        first: int64 (n + 1,), index of the first run of each block, then the number of runs.
        runs: int64 (m, 2), half-open column ranges. Within a block they ascend and do not touch.
    """

    size: Size
    rows: Tensor
    first: Tensor
    runs: Tensor

    @classmethod
    def of(cls, size: Size, rows: Tensor, cells: Tensor, left: Tensor, right: Tensor) -> Region:
        """Build a region from the cells that each block contains.

        Args:
            size: (rows, columns) of the grid.
            rows: int64 (n + 1,), as in `Region`.
            cells: bool (n, w), which of w cells each block contains.
            left, right: (w,) each, ascending; the half-open column range of each cell. Neighbours may overlap. Columns
                between two neighbours belong to a block that contains both.
        """
        cells = F.pad(cells, (1, 1))
        block, edge = (cells[:, 1:] != cells[:, :-1]).nonzero().T  # edges alternate: a run's first cell, its end
        block, start, stop = block[::2].contiguous(), left[edge[::2]], right[edge[1::2] - 1]
        start[1:] = torch.where(block[1:] == block[:-1], torch.maximum(start[1:], stop[:-1]), start[1:])
        first = torch.searchsorted(block, torch.arange(len(cells) + 1, device=cells.device))
        return cls(size, rows, first, torch.stack([start, stop], dim=1))

    @classmethod
    def whole(cls, size: Size, block: int) -> Region:
        """Return all pixels of a ``size`` (rows, columns) grid, in blocks of ``block`` rows, on the CPU."""
        rows = torch.arange(0, size[0] + block, block).clamp_(max=size[0])
        return cls(size, rows, torch.arange(len(rows)), torch.tensor([[0, size[1]]]).expand(len(rows) - 1, 2))

    @property
    def pixels(self) -> int:
        """Number of pixels in the region."""
        lengths = F.pad((self.runs[:, 1] - self.runs[:, 0]).cumsum(0), (1, 0))
        return int((lengths[self.first].diff() * self.rows.diff()).sum())

    @property
    def mask(self) -> Tensor:
        """Bool (rows, columns), True for pixels in the region."""
        blocks = len(self.rows) - 1
        steps = torch.zeros(blocks, self.size[1] + 1, dtype=torch.int32, device=self.rows.device)
        block = torch.arange(blocks, device=self.rows.device).repeat_interleave(self.first.diff())
        for side, step in enumerate((1, -1)):
            steps.index_put_((block, self.runs[:, side]), steps.new_tensor(step), accumulate=True)
        found = steps.cumsum(1)[:, :-1] > 0
        before = F.pad(found.repeat_interleave(self.rows.diff(), dim=0), (0, 0, int(self.rows[0]), 0))
        return F.pad(before, (0, 0, 0, self.size[0] - len(before)))


@dataclass(frozen=True)
class Layer:
    """The contribution of one level to a picture.

    Attributes:
        grid: pixels of the level.
        cell: (1, 2), size of one of these pixels, see `lmf.decoders.base.Decoder.cell`.
        part: the pixels of ``grid`` to render.
        shown: the output pixels to enlarge from ``part``; they read no other pixels of ``grid``. None if ``grid`` is
            the output grid itself.
    """

    grid: Grid
    cell: Tensor
    part: Region
    shown: Region | None = None
