"""Subsets of the pixels of a grid, stored as runs of columns, for multi-scale rendering."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lmf.grid import Grid, Size

Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Region:
    """A set of pixels as blocks of rows; all rows of a block share the same runs of columns.

    Its tensors lie on the CPU. They are computed with NumPy, which takes a fifth of the time of PyTorch for arrays this
    small.

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
    def of(cls, size: Size, rows: Index, cells: Mask, left: Index, right: Index) -> Region:
        """Build a region from the cells that each block contains.

        Args:
            size: (rows, columns) of the grid.
            rows: (n + 1,), as in `Region`.
            cells: (n, w), which of w cells each block contains.
            left, right: (w,) each, ascending; the half-open column range of each cell. Neighbours may overlap. Columns
                between two neighbours belong to a block that contains both.
        """
        padded = np.zeros((len(cells), cells.shape[1] + 2), dtype=np.bool_)
        padded[:, 1:-1] = cells
        block, edge = (padded[:, 1:] != padded[:, :-1]).nonzero()  # edges alternate: a run's first cell, its end
        block, start, stop = block[::2], left[edge[::2]], right[edge[1::2] - 1]
        np.maximum(start[1:], stop[:-1], out=start[1:], where=block[1:] == block[:-1])
        first = np.searchsorted(block, np.arange(len(cells) + 1))
        runs = np.empty((len(block), 2), dtype=np.int64)
        runs[:, 0], runs[:, 1] = start, stop
        return cls(size, *map(torch.from_numpy, (rows, first, runs)))

    @classmethod
    def whole(cls, size: Size, block: int) -> Region:
        """Return all pixels of a ``size`` (rows, columns) grid, in blocks of ``block`` rows."""
        rows = torch.arange(0, size[0] + block, block).clamp_(max=size[0])
        return cls(size, rows, torch.arange(len(rows)), torch.tensor([[0, size[1]]]).expand(len(rows) - 1, 2))

    @property
    def pixels(self) -> int:
        """Number of pixels in the region."""
        rows, first, runs = (t.numpy() for t in (self.rows, self.first, self.runs))
        lengths = np.zeros(len(runs) + 1, dtype=np.int64)
        np.cumsum(runs[:, 1] - runs[:, 0], out=lengths[1:])
        held = lengths[first]
        return int((held[1:] - held[:-1]) @ (rows[1:] - rows[:-1]))

    @property
    def mask(self) -> Tensor:
        """Bool (rows, columns), True for pixels in the region."""
        rows, first, runs = (t.numpy() for t in (self.rows, self.first, self.runs))
        steps = np.zeros((len(rows) - 1, self.size[1] + 1), dtype=np.int32)
        block = np.repeat(np.arange(len(steps)), np.diff(first))
        np.add.at(steps, (block, runs[:, 0]), 1)
        np.add.at(steps, (block, runs[:, 1]), -1)
        mask = np.zeros(self.size, dtype=np.bool_)
        mask[rows[0] : rows[-1]] = np.repeat(steps.cumsum(1)[:, :-1] > 0, np.diff(rows), axis=0)
        return torch.from_numpy(mask)


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
