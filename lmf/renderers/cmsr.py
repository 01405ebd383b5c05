"""CMSR: controllable multi-scale rendering (He & Jin, CVPR 2024, section 3.4).

A latent of low modulation intensity carries little detail: its pixels are rendered at a coarser level, one for
several output pixels, and enlarged bilinearly. A table says which intensities may be rendered how coarsely.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmf import grid
from lmf.decoders.base import Decoder, Latent
from lmf.grid import Grid, Size
from lmf.renderers.dense import Dense
from lmf.renderers.tables import Table, TableError, Tables, mean_square


@dataclass(frozen=True)
class Stats:
    """What was rendered of one picture.

    Attributes:
        levels: scales at which something was rendered, ascending.
        rendered: pixels rendered at each of them.
        pixels: of the output.
        band: uint8 (h, w), for each latent the index in ``levels`` of its own level.
    """

    levels: tuple[float, ...]
    rendered: tuple[int, ...]
    pixels: int
    band: Tensor

    @property
    def share(self) -> float:
        """Rendered pixels / output pixels."""
        return sum(self.rendered) / self.pixels


class CMSR:
    """Renders each latent at the level that its modulation intensity asks for.

    Args:
        tables: scale-to-modulation tables: `Tables`, a file, or its content as a mapping.
        mse_threshold: use the cheapest tables that keep this mean squared difference from dense rendering, in network
            units [-1, 1].
        precision_db: the same as a PSNR of colours in [0, 1].
        budget: use, for each picture, the most precise table that renders at most this share of its pixels, or the
            cheapest there is. At most one of the three; none goes with a single table for each scale.
        above: scales up to this one are rendered densely.
        queries: bounds the temporaries of the decoder, as in `Dense`.

    Raises:
        TableError: no tables, or none that keep what is asked.
    """

    def __init__(
        self,
        tables: Tables | Mapping[Any, Any] | str | Path | None,
        mse_threshold: float | None = None,
        precision_db: float | None = None,
        budget: float | None = None,
        above: float = 4.0,
        queries: int = 262144,
    ) -> None:
        asked = {"mse_threshold": mse_threshold, "precision_db": precision_db, "budget": budget}
        given = [f"{name}={value}" for name, value in asked.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"give one of mse_threshold, precision_db and budget, got {' and '.join(given)}")
        if budget is not None and not 0 < budget <= 1:
            raise ValueError(f"budget is a share of the pixels, above 0 and at most 1, got {budget}")
        if mse_threshold is not None and not mse_threshold > 0:
            raise ValueError(f"mse_threshold must be positive, got {mse_threshold}")
        if tables is None:
            raise TableError("CMSR needs tables; python run.py task=calibrate ckpt_path=... makes them")
        self.tables = Tables.of(tables)
        if precision_db is not None:
            mse_threshold = mean_square(precision_db)
        if mse_threshold is not None:
            self.tables = self.tables.keeping(mse_threshold)
        elif budget is None and any(len(found) > 1 for found in self.tables.tables.values()):
            raise ValueError("the tables are for several thresholds; give mse_threshold, precision_db or budget")
        self.budget = budget
        self.above = above
        self.dense = Dense(queries)

    def __call__(self, decoder: Decoder, latent: Latent, target: Grid, cell: Tensor) -> Tensor:
        """Picture (B, 3, rows, cols) of ``target`` in network units; see `Dense`.

        Raises:
            ValueError: a decoder whose latents have no modulation intensity.
        """
        return self.render(decoder, latent, target, cell)[0]

    def render(self, decoder: Decoder, latent: Latent, target: Grid, cell: Tensor) -> tuple[Tensor, list[Stats]]:
        """The picture, and for each image of the batch what was rendered."""
        out = torch.empty(len(cell), 3, *target.size, device=cell.device)
        stats = []
        for i, strength in enumerate(intensity(decoder, latent)):
            levels = self.plan(strength, target)
            self.paint(out[i], decoder, single(latent, i), cell[i : i + 1], levels, target)
            stats.append(summarise(levels, target))
        return out, stats

    def plan(self, strength: Tensor, target: Grid) -> list[Level]:
        """What to render at which level, coarse to fine, for one image's intensity ``strength`` (h, w)."""
        size = (strength.shape[0], strength.shape[1])
        # Rounded: with padded images the cells, and so the scale, are fractions.
        scale = round(max(cells / n for cells, n in zip(target.cells, size, strict=True)), 6)
        if math.prod(target.cells) <= self.above**2 * math.prod(size) + 1e-6:
            return levels_of(Table({}), scale, strength, target)
        for table in self.tables.at(scale):
            levels = levels_of(table, scale, strength, target)
            if self.budget is None or sum(x.pixels for x in levels) <= self.budget * math.prod(target.size):
                break
        return levels

    def paint(
        self, out: Tensor, decoder: Decoder, latent: Latent, cell: Tensor, levels: list[Level], target: Grid
    ) -> None:
        """Fills ``out`` (3, rows, cols) coarse to fine: enlarge what there is, then render what asks for more."""
        canvas, at = latent.image[0].to(out.dtype), Grid.of(*latent.size)
        for level in levels:
            last = level.grid == target
            own = cell if last else decoder.cell(level.grid, latent.size, 1, cell.device).to(cell.dtype)
            if level.pixels == math.prod(level.grid.size):
                canvas, at = self.dense(decoder, latent, level.grid, own)[0].to(out.dtype), level.grid
                if last:
                    out.copy_(canvas)
                continue
            canvas, at = enlarge(canvas, at, level.grid, out if last else None), level.grid
            flat = canvas.view(3, -1)
            for index, coord in level.chunks(self.dense.queries):
                rgb = decoder.query(latent, coord[None], own)[0]  # (Q, 3)
                flat.scatter_(1, index.expand(3, -1), rgb.T.to(flat.dtype))
        if at != target:
            enlarge(canvas, at, target, out)


@dataclass(frozen=True)
class Level:
    """Latents ``inside``, bool (h, w), rendered at those pixels of ``grid`` that lie in them."""

    scale: float
    grid: Grid
    inside: Tensor

    @cached_property
    def axes(self) -> tuple[Owned, Owned]:
        return tuple(
            Owned.of(cells, span, n, self.inside.device)
            for cells, span, n in zip(self.grid.cells, (self.grid.rows, self.grid.cols), self.inside.shape, strict=True)
        )

    @cached_property
    def pixels(self) -> int:
        """How many pixels are rendered."""
        y, x = self.axes
        return int((y.count[:, None] * x.count * self.inside).sum())

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


@dataclass(frozen=True)
class Owned:
    """Which pixels of an axis lie in which latent: ``count`` of them from number ``first`` on, both int64 (latents,).

    ``centre`` holds the coordinate of every pixel.
    """

    centre: Tensor
    first: Tensor
    count: Tensor

    @classmethod
    def of(cls, cells: float, span: tuple[int, int], latents: int, device: torch.device) -> Owned:
        centre = grid.axis(cells, *span, device=device)
        count = owner(centre, latents).bincount(minlength=latents)
        return cls(centre, count.cumsum(0) - count, count)

    def pixels(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (N, K) of each ``latent`` (N,), K as many as any has, and which of them are its own."""
        step = torch.arange(int(self.count.max()), device=latent.device)
        own = step < self.count[latent][:, None]
        return (self.first[latent][:, None] + step).clamp(max=len(self.centre) - 1), own


def owner(centre: Tensor, latents: int) -> Tensor:
    """Index of the latent that holds each coordinate ``centre`` (N,) of one axis."""
    return grid.nearest(torch.stack([centre, torch.zeros_like(centre)], dim=-1), (latents, 1))


def intensity(decoder: Decoder, latent: Latent) -> Tensor:
    """Modulation intensity (B, h, w) of a ``latent``.

    Raises:
        ValueError: it has none, or keeps no image to start from.
    """
    if not hasattr(latent, "intensity") or latent.image is None:
        raise ValueError(
            f"CMSR needs a decoder with latent modulation, such as LMLIIF; {type(decoder).__name__} has none"
        )
    return latent.intensity()


def levels_of(table: Table, scale: float, strength: Tensor, target: Grid) -> list[Level]:
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
            levels.append(Level(level, at, inside))
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


def summarise(levels: list[Level], target: Grid) -> Stats:
    band = torch.zeros_like(levels[0].inside, dtype=torch.uint8)
    for i, level in enumerate(levels):
        band[level.inside] = i
    return Stats(
        levels=tuple(x.scale for x in levels),
        rendered=tuple(x.pixels for x in levels),
        pixels=math.prod(target.size),
        band=band,
    )


def single(latent: Latent, i: int) -> Latent:
    """The latent of image ``i`` of a batch alone."""
    parts = {f.name: getattr(latent, f.name) for f in fields(latent)}
    return replace(latent, **{name: part[i : i + 1] for name, part in parts.items() if isinstance(part, Tensor)})


def enlarge(image: Tensor, source: Grid, target: Grid, out: Tensor | None = None) -> Tensor:
    """``image`` (3, rows, cols), the pixels of ``source``, sampled bilinearly at those of ``target``, border repeated.

    One axis after the other, a stretch of rows at a time: on a CPU twice as fast as torch's interpolation.
    """
    h, w = target.size
    above, below, down = taps(source.cells[0], source.rows, target.cells[0], target.rows, image)
    left, right, along = taps(source.cells[1], source.cols, target.cells[1], target.cols, image)
    out = image.new_empty(3, h, w) if out is None else out
    first, last = above.tolist(), below.tolist()
    stretch = max(1, 131072 // w)
    for start in range(0, h, stretch):
        stop = min(start + stretch, h)
        top, bottom = first[start], last[stop - 1] + 1
        x = image[:, top:bottom].mT.contiguous()  # (3, cols, source rows): whole columns are cheap to pick
        x = x.index_select(1, left).lerp_(x.index_select(1, right), along[:, None]).mT.contiguous()
        upper, lower = (x.index_select(1, rows[start:stop] - top) for rows in (above, below))
        torch.lerp(upper, lower, down[start:stop, None], out=out[:, start:stop])
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

