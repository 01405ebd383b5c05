"""Levels of multi-scale rendering: their grids, and the pixels of each grid that must be rendered."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lmf import grid
from lmf.grid import Grid, Size
from lmf.kernels.enlarge import along
from lmf.kernels.region import Region
from lmf.renderers.cmsr.tables import Table


@dataclass(frozen=True)
class Level:
    """The latents and pixels to render at one level.

    Attributes:
        scale: scale of the level.
        grid: pixels of the level.
        inside: bool (h, w), the latents to render at this level.
        target: the grid that these latents are enlarged to. All pixels that the enlargement reads are rendered, even
            those in other latents. If None, only the pixels inside the latents are rendered.
    """

    scale: float
    grid: Grid
    inside: Tensor
    target: Grid | None = None

    @cached_property
    def region(self) -> Region:
        """The pixels to render."""
        if self.target is None or self.target == self.grid:
            return region(self.inside, self.grid)
        (top, bottom), (left, right) = (readers(self.grid, self.target, axis, self.inside) for axis in (0, 1))
        # The same latents read all rows of a block.
        new = (F.pad(top, (1, 1), value=-2).diff() != 0) | (F.pad(bottom, (1, 1), value=-2).diff() != 0)
        rows = new.nonzero()[:, 0]  # the first row of each block, then the end
        cells = reached(self.inside, top[rows[:-1]], bottom[rows[:-1]])
        latents = torch.arange(self.inside.shape[1], device=self.inside.device)
        left, right = torch.searchsorted(right, latents), torch.searchsorted(left, latents, right=True)
        return Region.of(self.grid.size, rows, cells, left, right)

    @cached_property
    def pixels(self) -> int:
        """Number of pixels to render."""
        return self.region.pixels


def region(inside: Tensor, at: Grid) -> Region:
    """Return the pixels of ``at`` that lie in the latents marked by the bool mask ``inside`` (h, w)."""
    top, left = (starts(owners(at, axis, n, inside.device), n) for axis, n in enumerate(inside.shape))
    return Region.of(at.size, top, inside, left[:-1], left[1:])


def starts(owned_by: Tensor, n: int) -> Tensor:
    """Return the first pixel of each of ``n`` latents along an axis, then the end: int64 (n + 1,).

    Args:
        owned_by: (pixels,), ascending; the latent that holds each pixel.
        n: number of latents.
    """
    return torch.searchsorted(owned_by, torch.arange(n + 1, device=owned_by.device))


def readers(source: Grid, target: Grid, axis: int, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and the last latent that read each pixel of ``source`` when it is enlarged to ``target``.

    Args:
        source, target: the grids.
        axis: 0 for rows, 1 for columns.
        inside: (h, w), whose shape and device are used.

    Returns:
        Two int64 tensors (pixels,), ascending. If no latent reads a pixel, the last comes before the first.
    """
    n, device = inside.shape[axis], inside.device
    above, below, _ = along(source, target, axis, torch.empty(0, device=device))
    owned_by = F.pad(F.pad(owners(target, axis, n, device), (1, 0), value=-1), (0, 1), value=n)
    pixels = torch.arange(source.size[axis], device=device)
    return owned_by[1 + torch.searchsorted(below, pixels)], owned_by[torch.searchsorted(above, pixels, right=True)]


def reached(mask: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Combine rows ``first .. last``, each (N,), of a bool ``mask`` (n, m) by logical or: (N, m)."""
    none = first > last
    first, last = first.masked_fill(none, len(mask)), last.masked_fill(none, len(mask))
    mask = F.pad(mask, (0, 0, 0, 1))
    found = mask.index_select(0, first)
    for offset in range(1, int((last - first).max()) + 1):
        found |= mask.index_select(0, torch.minimum(first + offset, last))
    return found


@lru_cache(maxsize=16)
def owners(at: Grid, axis: int, latents: int, device: torch.device) -> Tensor:
    """Return the `owner` of the pixels of ``at`` along ``axis``; cached because all levels of a picture need it."""
    return owner(at.axes(device)[axis], latents)


def owner(centre: Tensor, latents: int) -> Tensor:
    """Return the index (N,) of the latent that holds each coordinate ``centre`` (N,) along one axis."""
    return grid.nearest(torch.stack([centre, torch.zeros_like(centre)], dim=-1), (latents, 1))


def levels_of(table: Table, scale: float, strength: Tensor, target: Grid, overlap: bool = False) -> list[Level]:
    """Assign latents to the levels of ``table``; levels without latents are left out.

    Args:
        table: the table to use.
        scale: scale of ``target``.
        strength: (h, w) modulation intensity of each latent.
        target: the output pixels.
        overlap: see `lmf.renderers.CMSR`.
    """
    size = (strength.shape[0], strength.shape[1])
    rows, cols = touched(target, size)
    needed = torch.zeros_like(strength, dtype=torch.bool)
    (top, bottom), (left, right) = touched(target, size, 0) if overlap else (rows, cols)
    needed[top:bottom, left:right] = True
    levels = []
    for level, low, high in table.intervals(scale):
        inside = needed & ~((strength < low) | (strength > high))  # includes NaN
        if inside.any():
            at = target if level == scale else level_grid(level, target, size, rows, cols)
            levels.append(Level(level, at, inside, target if overlap else None))
    return levels


def level_grid(level: float, target: Grid, size: Size, rows: tuple[int, int], cols: tuple[int, int]) -> Grid:
    """Return the grid of a picture enlarged by ``level``, but no finer than ``target``.

    Args:
        level: scale of the level.
        target: the output pixels.
        size: (h, w) of the latent grid.
        rows, cols: half-open ranges of the latents to cover.
    """
    cells, spans = [], []
    latents = target.latents(size)
    for n, (first, _), limit, (start, stop) in zip(
        latents.cells, (latents.rows, latents.cols), target.cells, (rows, cols), strict=True
    ):
        count = min(math.floor(n * level + 1e-6), math.floor(limit))
        held = owner(grid.axis(count), int(n)) - first
        cells.append(count)
        spans.append((int((held < start).sum()), int((held < stop).sum())))
    return replace(target, cells=(cells[0], cells[1]), rows=spans[0], cols=spans[1])


def touched(target: Grid, size: Size, margin: int = 1) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the half-open ranges of rows and columns of the latents that ``target`` lies in.

    Args:
        target: the output pixels.
        size: (h, w) of the latent grid.
        margin: number of latents to add on each side.
    """
    spans = []
    for n, centres in zip(size, target.axes(), strict=True):
        first, *_, last = owner(centres, n).tolist() * 2
        spans.append((max(0, first - margin), min(n, last + 1 + margin)))
    return spans[0], spans[1]
