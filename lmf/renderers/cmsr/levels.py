"""Levels of multi-scale rendering: their grids, and the pixels of each grid that must be rendered."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from lmf import grid
from lmf.decoders.base import Decoder, Latent
from lmf.errors import UserError
from lmf.grid import Grid, Size
from lmf.kernels.enlarge import around
from lmf.kernels.region import Index, Mask, Region
from lmf.renderers.base import Stats
from lmf.renderers.cmsr.tables import Table


@dataclass(frozen=True)
class Level:
    """The latents and pixels to render at one level.

    Attributes:
        scale: scale of the level.
        grid: pixels of the level.
        inside: (h, w), the latents to render at this level.
        target: the grid that these latents are enlarged to. All pixels that the enlargement reads are rendered, even
            those in other latents. If None, only the pixels inside the latents are rendered.
    """

    scale: float
    grid: Grid
    inside: Mask
    target: Grid | None = None

    @cached_property
    def region(self) -> Region:
        """The pixels to render."""
        if self.target is None or self.target == self.grid:
            return region(self.inside, self.grid)
        h, w = self.inside.shape
        (top, bottom), (left, right) = readers(self.grid, self.target, 0, h), readers(self.grid, self.target, 1, w)
        # The same latents read all rows of a block.
        new = ((top[1:] != top[:-1]) | (bottom[1:] != bottom[:-1])).nonzero()[0] + 1
        rows = np.concatenate([[0], new, [len(top)]])  # the first row of each block, then the end
        cells = reached(self.inside, top[rows[:-1]], bottom[rows[:-1]])
        latents = np.arange(w)
        left, right = np.searchsorted(right, latents), np.searchsorted(left, latents, side="right")
        return Region.of(self.grid.size, rows, cells, left, right)

    @cached_property
    def pixels(self) -> int:
        """Number of pixels to render."""
        return self.own if self.target is None or self.target == self.grid else self.region.pixels

    @cached_property
    def own(self) -> int:
        """Number of pixels inside the latents, without those that only the enlargement reads."""
        top, left = (np.diff(starts(self.grid, axis, n)) for axis, n in enumerate(self.inside.shape))
        return int(top @ (self.inside @ left))


def region(inside: Mask, at: Grid) -> Region:
    """Return the pixels of ``at`` that lie in the latents marked by the mask ``inside`` (h, w)."""
    top, left = (starts(at, axis, n) for axis, n in enumerate(inside.shape))
    return Region.of(at.size, top, inside, left[:-1], left[1:])


@lru_cache(maxsize=16)
def starts(at: Grid, axis: int, latents: int) -> Index:
    """Return the first pixel of ``at`` in each of the latents along ``axis``, then the end: (latents + 1,)."""
    return np.searchsorted(owners(at, axis, latents), np.arange(latents + 1))


def readers(source: Grid, target: Grid, axis: int, latents: int) -> tuple[Index, Index]:
    """Return the first and the last latent that read each pixel of ``source`` when it is enlarged to ``target``.

    Args:
        source, target: the grids.
        axis: 0 for rows, 1 for columns.
        latents: number of latents along the axis.

    Returns:
        Two arrays (pixels,), ascending. If no latent reads a pixel, the last comes before the first.
    """
    spans = [(g.cells[axis], (g.rows, g.cols)[axis]) for g in (source, target)]
    above, below, _ = around(*spans[0], *spans[1])
    owned_by = np.concatenate([[-1], owners(target, axis, latents), [latents]])
    pixels = np.arange(source.size[axis])
    return owned_by[1 + np.searchsorted(below, pixels)], owned_by[np.searchsorted(above, pixels, side="right")]


def reached(mask: Mask, first: Index, last: Index) -> Mask:
    """Combine rows ``first .. last``, each (N,), of a ``mask`` (n, m) by logical or: (N, m)."""
    found = mask[np.minimum(first, len(mask) - 1)] & (first <= last)[:, None]
    for offset in range(1, int((last - first).max()) + 1):
        found |= mask[np.minimum(first + offset, last)] & (first <= last)[:, None]
    return found


@lru_cache(maxsize=16)
def owners(at: Grid, axis: int, latents: int) -> Index:
    """Return the `owner` of the pixels of ``at`` along ``axis``; cached because all levels of a picture need it."""
    found: Index = owner(at.axes()[axis], latents).numpy()
    return found


def owner(centre: Tensor, latents: int) -> Tensor:
    """Return the index (N,) of the latent that holds each coordinate ``centre`` (N,) along one axis."""
    return grid.nearest(torch.stack([centre, torch.zeros_like(centre)], dim=-1), (latents, 1))


def levels_of(table: Table, scale: float, strength: Tensor, target: Grid, overlap: bool = False) -> list[Level]:
    """Assign latents to the levels of ``table``; levels without latents are left out.

    Args:
        table: the table to use.
        scale: scale of ``target``.
        strength: (h, w) modulation intensity of each latent, on the CPU.
        target: the output pixels.
        overlap: see `lmf.renderers.CMSR`.
    """
    size = (strength.shape[0], strength.shape[1])
    rows, cols = touched(target, size)
    (top, bottom), (left, right) = touched(target, size, 0) if overlap else (rows, cols)
    needed = strength[top:bottom, left:right].numpy()
    levels = []
    for level, low, high in table.intervals(scale):
        held = ~((needed < low) | (needed > high))  # includes NaN
        if held.any():
            inside = np.zeros(size, dtype=np.bool_)
            inside[top:bottom, left:right] = held
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
        cells.append(count)
        if (first + start, first + stop) == (0, n):
            spans.append((0, count))
        else:
            held = owner(grid.axis(count), int(n)) - first
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
    for axis, n in enumerate(size):
        held = owners(target, axis, n)
        spans.append((max(0, int(held[0]) - margin), min(n, int(held[-1]) + 1 + margin)))
    return spans[0], spans[1]


def scale_of(target: Grid, size: Size) -> float:
    """Return the scale of the enlargement of ``size`` to ``target``.

    It is rounded because padding makes the number of cells, and with it the scale, fractional.
    """
    return round(max(cells / n for cells, n in zip(target.cells, target.latents(size).cells, strict=True)), 6)


def intensity(decoder: Decoder, latent: Latent) -> Tensor:
    """Return the modulation intensity (B, h, w) of ``latent`` on the CPU, in float32 or float64.

    Raises:
        UserError: if the latent has none, or holds no image to start from.
    """
    strength = decoder.intensity(latent)
    if strength is None or latent.image is None:
        raise UserError(
            f"CMSR needs a decoder with latent modulation, such as LMLIIF; {type(decoder).__name__} has none"
        )
    return strength.to("cpu", torch.promote_types(strength.dtype, torch.float32))


def summarise(levels: list[Level], target: Grid) -> Stats:
    """Return the statistics of rendering ``levels``."""
    level_map = np.zeros(levels[0].inside.shape, dtype=np.uint8)
    for i, level in enumerate(levels):
        level_map[level.inside] = i
    return Stats(
        levels=tuple(x.scale for x in levels),
        rendered=tuple(x.pixels for x in levels),
        pixels=math.prod(target.size),
        level_map=torch.from_numpy(level_map),
    )


def dense_stats(target: Grid, size: Size, reason: str) -> Stats:
    """Return the statistics of rendering ``target`` densely from ``size`` (h, w) latents for a ``reason``."""
    pixels, level_map = math.prod(target.size), torch.zeros(size, dtype=torch.uint8)
    return Stats((scale_of(target, size),), (pixels,), pixels, level_map, dense=reason)
