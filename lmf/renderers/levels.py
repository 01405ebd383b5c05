"""Rendering in levels: which pixels of which grid lie in which latent, and enlarging from one grid to another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
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
    def axes(self) -> tuple[Owned, Owned]:
        at, (h, w), device = self.grid, self.inside.shape, self.inside.device
        return Owned.of(at.cells[0], at.rows, h, device), Owned.of(at.cells[1], at.cols, w, device)

    @cached_property
    def edge(self) -> Tensor:
        """Flat indices (N,) of the overlap."""
        if self.beyond is None:
            return torch.empty(0, dtype=torch.long, device=self.inside.device)
        y, x = self.axes
        around = F.pad(self.inside, (1, 1, 1, 1)).unfold(0, 3, 1).unfold(1, 3, 1)  # (h, w, 3, 3)
        rows, cols = (around.any(-1).any(-1) & self.beyond).nonzero(as_tuple=True)
        (i, up_down), (j, left_right) = y.sides(rows), x.sides(cols)
        touches = up_down @ around[rows, cols].float() @ left_right.mT > 0  # (N, rows, columns) of a latent
        return (i[:, :, None] * len(x.centre) + j[:, None])[touches]

    @cached_property
    def pixels(self) -> int:
        """How many pixels are rendered."""
        y, x = self.axes
        return int((y.count[:, None] * x.count * self.inside).sum()) + len(self.edge)

    def chunks(self, queries: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The pixels, latent by latent, about ``queries`` at a time: flat index (Q,) in ``grid``, coordinate (Q, 2)."""
        y, x = self.axes
        rows, cols = self.inside.nonzero(as_tuple=True)
        most = int(y.count.max()) * int(x.count.max())
        for part in torch.arange(len(rows), device=rows.device).split(max(1, queries // most)):
            i, in_y = y.pixels(rows[part])  # (N, rows of a latent)
            j, in_x = x.pixels(cols[part])
            shape = (*i.shape, j.shape[1])
            index = i[:, :, None] * self.grid.size[1] + j[:, None]  # (N, rows, columns)
            coord = torch.stack([y.centre[i][:, :, None].expand(shape), x.centre[j][:, None].expand(shape)], dim=-1)
            if in_y.all() and in_x.all():
                yield index.flatten(), coord.flatten(0, 2)
            else:
                inside = in_y[:, :, None] & in_x[:, None]
                yield index[inside], coord[inside]
        for index in self.edge.split(queries) if len(self.edge) else ():
            yield index, torch.stack([y.centre[index // len(x.centre)], x.centre[index % len(x.centre)]], dim=-1)


@dataclass(frozen=True)
class Owned:
    """Which pixels of an axis lie in which latent.

    Attributes:
        centre: coordinate of every pixel, float32 (pixels,).
        owner: the latent it lies in, int64 (pixels,).
        first, count: the first pixel of each latent and how many it has, int64 (latents,).
    """

    centre: Tensor
    owner: Tensor
    first: Tensor
    count: Tensor

    @classmethod
    def of(cls, cells: float, span: tuple[int, int], latents: int, device: torch.device) -> Owned:
        centre = grid.axis(cells, *span, device=device)
        latent = owner(centre, latents)
        count = latent.bincount(minlength=latents)
        return cls(centre, latent, count.cumsum(0) - count, count)

    def pixels(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (N, K) of each ``latent`` (N,), K as many as any has, and which of them are its own."""
        step = torch.arange(int(self.count.max()), device=latent.device)
        own = step < self.count[latent][:, None]
        return (self.first[latent][:, None] + step).clamp(max=len(self.centre) - 1), own

    def sides(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """The pixels (N, K), and (N, K, 3) where a pixel touches what lies before its latent, in it, and after it."""
        index, own = self.pixels(latent)
        first, count = self.first[latent][:, None], self.count[latent][:, None]
        return index, (torch.stack([index == first, own, index == first + count - 1], dim=-1) & own[..., None]).float()


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
            levels.append(Level(level, at, inside, needed & (strength > high) if overlap else None))
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
