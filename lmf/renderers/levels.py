"""Rendering in levels: which pixels of which grid lie in which latent, and enlarging from one grid to another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from lmf import grid
from lmf.grid import Grid, Size
from lmf.kernels.enlarge import Part, Taps, enlarge_into
from lmf.renderers.tables import Table


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
    def marked(self) -> Tensor:
        """bool (rows, columns), the pixels that are rendered."""
        if self.target is None or self.target == self.grid:
            return part(self.inside, self.grid).mask
        wide = reached(self.inside.T, *readers(self.grid, self.target, 1, self.inside)).T
        return reached(wide.contiguous(), *readers(self.grid, self.target, 0, self.inside))

    @cached_property
    def pixels(self) -> int:
        """How many pixels are rendered."""
        if self.target is not None and self.target != self.grid:
            return int(self.marked.count_nonzero())
        held = part(self.inside, self.grid)
        y, x = (own.bincount(minlength=n) for own, n in zip((held.y, held.x), self.inside.shape, strict=True))
        return int((y[:, None] * x * self.inside).sum())


def part(inside: Tensor, at: Grid) -> Part:
    """The pixels of ``at`` that lie in the latents ``inside`` (h, w)."""
    y, x = at.axes(inside.device)
    return Part(inside, owner(y, inside.shape[0]), owner(x, inside.shape[1]))


def readers(source: Grid, target: Grid, axis: int, inside: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the last latent, each (pixels,), that reads each pixel of ``source`` along ``axis`` when enlarged
    to ``target``. A pixel that none reads gets the number of latents, which `reached` takes for none.
    """
    n, device = inside.shape[axis], inside.device
    first, second, _ = along(source, target, axis, torch.empty(0, device=device))
    own = owner(target.axes(device)[axis], n)
    pixels = torch.arange(source.size[axis], device=device)
    start, stop = torch.searchsorted(second, pixels), torch.searchsorted(first, pixels, right=True) - 1
    none = start > stop
    return tuple(own[i.clamp(0, len(own) - 1)].masked_fill(none, n) for i in (start, stop))  # type: ignore[return-value]


def reached(mask: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Where ``mask`` (n, m) is true in any of its rows ``first .. last``, each (N,): (N, m)."""
    mask = F.pad(mask, (0, 0, 0, 1))
    found = mask.index_select(0, first)
    for more in range(1, int((last - first).max()) + 1):
        found.logical_or_(mask.index_select(0, torch.minimum(first + more, last)))
    return found


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
    for level, low, high in table.bands(scale):
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


def enlarge(
    image: Tensor, source: Grid, target: Grid, out: Tensor | None = None, inside: Tensor | None = None
) -> Tensor:
    """``image`` (3, rows, cols), pixels of ``source``, sampled bilinearly at those of ``target``, border repeated.

    Into ``out`` if given; with ``inside`` (h, w), only the pixels that lie in those latents.
    """
    out = image.new_empty(3, *target.size) if out is None else out
    rows, columns = (along(source, target, axis, image) for axis in (0, 1))
    enlarge_into(out, image, rows, columns, None if inside is None else part(inside, target))
    return out


def along(source: Grid, target: Grid, axis: int, like: Tensor) -> Taps:
    """`taps` along one axis."""
    spans = [(g.cells[axis], (g.rows, g.cols)[axis]) for g in (source, target)]
    return taps(*spans[0], *spans[1], like)


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
