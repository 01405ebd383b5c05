"""Some pixels of a grid, as runs: what multi-scale rendering renders and what it enlarges."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lmf.grid import Grid, Size


@dataclass(frozen=True)
class Region:
    """Blocks of rows, each with the runs of columns that all its rows have.

    Attributes:
        size: (rows, columns) of the grid.
        rows: int64 (n + 1,), the first row of each block and the end of the last.
        first: int64 (n + 1,), the first run of each block and the number of runs.
        runs: int64 (m, 2), the first column of each and its end; within a block ascending and apart.
    """

    size: Size
    rows: Tensor
    first: Tensor
    runs: Tensor

    @classmethod
    def of(cls, size: Size, rows: Tensor, cells: Tensor, left: Tensor, right: Tensor) -> Region:
        """From what is in each block.

        Args:
            rows: of the blocks.
            cells: bool (n, w), which of w cells each block has.
            left, right: (w,) each and ascending, the first column of a cell and its end. Neighbours may overlap; what
                lies between them belongs to a block that has both.
        """
        cells = F.pad(cells, (1, 1))
        block, edge = (cells[:, 1:] != cells[:, :-1]).nonzero().T  # a run's first cell, its end
        block, start, stop = block[::2].contiguous(), left[edge[::2]], right[edge[1::2] - 1]
        start[1:] = torch.where(block[1:] == block[:-1], torch.maximum(start[1:], stop[:-1]), start[1:])
        first = torch.searchsorted(block, torch.arange(len(cells) + 1, device=cells.device))
        return cls(size, rows, first, torch.stack([start, stop], dim=1))

    @classmethod
    def whole(cls, size: Size, block: int) -> Region:
        """All of a grid, in blocks of some rows, on the CPU."""
        rows = torch.arange(0, size[0] + block, block).clamp_(max=size[0])
        return cls(size, rows, torch.arange(len(rows)), torch.tensor([[0, size[1]]]).expand(len(rows) - 1, 2))

    @property
    def pixels(self) -> int:
        """How many."""
        lengths = F.pad((self.runs[:, 1] - self.runs[:, 0]).cumsum(0), (1, 0))
        return int((lengths[self.first].diff() * self.rows.diff()).sum())

    @property
    def mask(self) -> Tensor:
        """bool (rows, columns), which."""
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
    """What one level adds to a picture.

    Attributes:
        grid: the pixels of the level.
        cell: (1, 2), the size of one, see `lmf.decoders.base.Decoder.cell`.
        part: those that are rendered.
        shown: the pixels of the picture that are enlarged from them, which read no others. None: the grid is the
            picture's own.
    """

    grid: Grid
    cell: Tensor
    part: Region
    shown: Region | None = None
