"""Rendering in levels: which pixels of which grid lie in which latent, and enlarging from one grid to another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lmf import grid
from lmf.grid import Grid, Size
from lmf.kernels.enlarge import along
from lmf.region import Region
from lmf.renderers.cmsr.tables import Table


@dataclass(frozen=True)
class Level:
    """What is rendered at one level.

    Attributes:
        scale: of the level.
        grid: its pixels.
        inside: bool (h, w), the latents that are rendered.
        target: where those latents are enlarged to: what that reads is rendered, even if it lies in other latents.
            None: only the pixels that lie in them.
    """

    scale: float
    grid: Grid
    inside: Tensor
    target: Grid | None = None

    @cached_property
    def region(self) -> Region:
        """The pixels that are rendered."""
        if self.target is None or self.target == self.grid:
            return region(self.inside, self.grid)
        (top, bottom), (left, right) = (readers(self.grid, self.target, axis, self.inside) for axis in (0, 1))
        new = (F.pad(top, (1, 1), value=-2).diff() != 0) | (F.pad(bottom, (1, 1), value=-2).diff() != 0)
        rows = new.nonzero()[:, 0]  # where a block begins: the same latents read all its rows; and the end
        cells = reached(self.inside, top[rows[:-1]], bottom[rows[:-1]])
        latents = torch.arange(self.inside.shape[1], device=self.inside.device)
        left, right = torch.searchsorted(right, latents), torch.searchsorted(left, latents, right=True)
        return Region.of(self.grid.size, rows, cells, left, right)

    @cached_property
    def pixels(self) -> int:
        """How many pixels are rendered."""
        return self.region.pixels


def region(inside: Tensor, at: Grid) -> Region:
    """The pixels of ``at`` that lie in the latents ``inside`` (h, w)."""
    top, left = (starts(owners(at, axis, n, inside.device), n) for axis, n in enumerate(inside.shape))
    return Region.of(at.size, top, inside, left[:-1], left[1:])


def starts(own: Tensor, n: int) -> Tensor:
    """Where each of ``n`` latents begins among pixels of which latent ``own`` holds each, and the end: (n + 1,)."""
    return torch.searchsorted(own, torch.arange(n + 1, device=own.device))


def readers(source: Grid, target: Grid, axis: int, inside: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the last latent, each (pixels,), that read a pixel of ``source`` along ``axis`` when enlarged to
    ``target``; both ascend. Where none does, the last comes before the first.
    """
    n, device = inside.shape[axis], inside.device
    above, below, _ = along(source, target, axis, torch.empty(0, device=device))
    own = F.pad(F.pad(owners(target, axis, n, device), (1, 0), value=-1), (0, 1), value=n)
    pixels = torch.arange(source.size[axis], device=device)
    return own[1 + torch.searchsorted(below, pixels)], own[torch.searchsorted(above, pixels, right=True)]


def reached(mask: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Where ``mask`` (n, m) is true in any of its rows ``first .. last``, each (N,): (N, m)."""
    none = first > last
    first, last = first.masked_fill(none, len(mask)), last.masked_fill(none, len(mask))
    mask = F.pad(mask, (0, 0, 0, 1))
    found = mask.index_select(0, first)
    for more in range(1, int((last - first).max()) + 1):
        found |= mask.index_select(0, torch.minimum(first + more, last))
    return found


@lru_cache(maxsize=16)
def owners(at: Grid, axis: int, latents: int, device: torch.device) -> Tensor:
    """`owner` of the pixels of ``at`` along ``axis``. All levels of a picture ask for it."""
    return owner(at.axes(device)[axis], latents)


def owner(centre: Tensor, latents: int) -> Tensor:
    """Index of the latent that holds each coordinate ``centre`` (N,) of one axis."""
    return grid.nearest(torch.stack([centre, torch.zeros_like(centre)], dim=-1), (latents, 1))


def levels_of(table: Table, scale: float, strength: Tensor, target: Grid, overlap: bool = False) -> list[Level]:
    """The levels of ``table`` that any latent of intensity ``strength`` (h, w) is rendered at."""
    size = (strength.shape[0], strength.shape[1])
    rows, cols = touched(target, size)
    needed = torch.zeros_like(strength, dtype=torch.bool)
    (top, bottom), (left, right) = touched(target, size, 0) if overlap else (rows, cols)
    needed[top:bottom, left:right] = True
    levels = []
    for level, low, high in table.intervals(scale):
        inside = needed & ~((strength < low) | (strength > high))  # so that NaN is rendered too
        if inside.any():
            at = target if level == scale else level_grid(level, target, size, rows, cols)
            levels.append(Level(level, at, inside, target if overlap else None))
    return levels


def level_grid(level: float, target: Grid, size: Size, rows: tuple[int, int], cols: tuple[int, int]) -> Grid:
    """Pixels of a picture of scale ``level``, but no finer than ``target``, over ``rows`` and ``cols`` of latents."""
    cells, spans = [], []
    for n, limit, (start, stop) in zip(size, target.cells, (rows, cols), strict=True):
        count = min(math.floor(n * level + 1e-6), math.floor(limit))
        held = owner(grid.axis(count), n)
        cells.append(count)
        spans.append((int((held < start).sum()), int((held < stop).sum())))
    return Grid((cells[0], cells[1]), spans[0], spans[1])


def touched(target: Grid, size: Size, more: int = 1) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns, half-open, of the latents that ``target`` lies in, and ``more`` on each side."""
    spans = []
    for n, cells, span in zip(size, target.cells, (target.rows, target.cols), strict=True):
        first, *_, last = owner(grid.axis(cells, *span), n).tolist() * 2
        spans.append((max(0, first - more), min(n, last + 1 + more)))
    return spans[0], spans[1]
