"""Rendering in levels: which pixels of which grid lie in which latent, and enlarging from one grid to another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lmf import grid
from lmf.grid import Grid, Size
from lmf.kernels.enlarge import enlarge_into
from lmf.renderers.tables import Table


@dataclass(frozen=True)
class Level:
    """What is rendered at one level.

    Attributes:
        scale: of the level.
        grid: its pixels.
        inside: bool (h, w), the latents whose pixels are rendered.
        beyond: bool (h, w), the latents that are rendered later; their pixels that touch those of ``inside`` are
            rendered now too. None: no overlap.
    """

    scale: float
    grid: Grid
    inside: Tensor
    beyond: Tensor | None = None

    @cached_property
    def owners(self) -> tuple[Tensor, Tensor]:
        """The latent that each row and each column of pixels lies in, int64 (rows,) and (columns,)."""
        y, x = self.grid.axes(self.inside.device)
        return owner(y, self.inside.shape[0]), owner(x, self.inside.shape[1])

    @cached_property
    def marked(self) -> Tensor:
        """bool (rows, columns), the pixels that are rendered."""
        y, x = self.owners
        marked = spread(self.inside, y, x)
        if self.beyond is not None:
            marked |= dilate(marked) & spread(self.beyond, y, x)
        return marked

    @cached_property
    def pixels(self) -> int:
        """How many pixels are rendered."""
        if self.beyond is not None:
            return int(self.marked.count_nonzero())
        y, x = (own.bincount(minlength=n) for own, n in zip(self.owners, self.inside.shape, strict=True))
        return int((y[:, None] * x * self.inside).sum())


def spread(mask: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """``mask`` (h, w) at every crossing of ``y`` (rows,) and ``x`` (columns,); whole rows are cheap to repeat."""
    return mask.index_select(1, x).index_select(0, y)


def dilate(mask: Tensor) -> Tensor:
    """``mask`` (rows, columns) and all that touches it, diagonally too."""
    tall = mask.clone()
    tall[1:] |= mask[:-1]
    tall[:-1] |= mask[1:]
    wide = tall.clone()
    wide[:, 1:] |= tall[:, :-1]
    wide[:, :-1] |= tall[:, 1:]
    return wide


def owner(centre: Tensor, latents: int) -> Tensor:
    """Index of the latent that holds each coordinate ``centre`` (N,) of one axis."""
    return grid.nearest(torch.stack([centre, torch.zeros_like(centre)], dim=-1), (latents, 1))


def levels_of(table: Table, scale: float, strength: Tensor, target: Grid, overlap: bool = False) -> list[Level]:
    """The levels of ``table`` that any latent of intensity ``strength`` (h, w) is rendered at."""
    size = (strength.shape[0], strength.shape[1])
    (top, bottom), (left, right) = touched(target, size)
    needed = torch.zeros_like(strength, dtype=torch.bool)
    needed[top:bottom, left:right] = True
    levels = []
    for level, low, high in table.bands(scale):
        inside = needed & (strength >= low) & (strength <= high)
        if inside.any():
            at = target if level == scale else level_grid(level, target, size, (top, bottom), (left, right))
            beyond = needed & (strength > high) if overlap and level < scale else None
            levels.append(Level(level, at, inside, beyond))
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


def touched(target: Grid, size: Size) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns, half-open, of the latents that ``target`` lies in, and one more on each side."""
    spans = []
    for n, cells, span in zip(size, target.cells, (target.rows, target.cols), strict=True):
        first, *_, last = owner(grid.axis(cells, *span), n).tolist() * 2
        spans.append((max(0, first - 1), min(n, last + 2)))
    return spans[0], spans[1]


def enlarge(image: Tensor, source: Grid, target: Grid, out: Tensor | None = None) -> Tensor:
    """``image`` (3, rows, cols), pixels of ``source``, sampled bilinearly at those of ``target``, border repeated."""
    out = image.new_empty(3, *target.size) if out is None else out
    rows = taps(source.cells[0], source.rows, target.cells[0], target.rows, image)
    columns = taps(source.cells[1], source.cols, target.cells[1], target.cols, image)
    enlarge_into(out, image, rows, columns)
    return out


def taps(
    source: float, source_span: tuple[int, int], target: float, target_span: tuple[int, int], like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """For each target pixel of an axis the two source pixels around it and the weight of the second."""
    position = (torch.arange(*target_span, dtype=torch.float64) + 0.5) * (source / target) - 0.5 - source_span[0]
    position = position.clamp(0, source_span[1] - source_span[0] - 1)
    first = position.long()
    second = (first + 1).clamp(max=source_span[1] - source_span[0] - 1)
    weight = (position - first).to(like.dtype)
    return first.to(like.device), second.to(like.device), weight.to(like.device)
