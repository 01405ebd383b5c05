"""CMSR: controllable multi-scale rendering (He & Jin, CVPR 2024, section 3.4).

A latent of low modulation intensity carries little detail: its pixels are rendered at a coarser level, one for
several output pixels, and enlarged bilinearly. A table says which intensities may be rendered how coarsely.
"""

from __future__ import annotations

import logging
import math
import warnings
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmf.decoders.base import Decoder, Latent
from lmf.errors import UserError
from lmf.grid import Grid, Size
from lmf.kernels.enlarge import enlarge
from lmf.region import Layer
from lmf.renderers.base import Renderer, Stats
from lmf.renderers.cmsr.levels import Level, levels_of, region
from lmf.renderers.cmsr.painter import Painter
from lmf.renderers.cmsr.probe import Probe
from lmf.renderers.cmsr.tables import Table, TableError, Tables, mean_square, psnr
from lmf.renderers.dense import Dense

log = logging.getLogger(__name__)

DENSE_SHARE = 0.85
BEYOND = "enlarging beyond x{:g}, the largest scale of the tables: their mse_threshold is not known to be kept there"
SMALLEST = 65536  # output pixels; where there are fewer, finding out what precision takes costs as much as rendering


class CMSR(Renderer):
    """Renders each latent at the level that its modulation intensity asks for.

    Args:
        tables: scale-to-modulation tables: `Tables`, a file, or its content as a mapping.
        mse_threshold: use the cheapest tables that keep this mean squared difference from dense rendering, in network
            units [-1, 1]. They keep it on average over pictures like those they were made from.
        precision_db: keep this PSNR against dense rendering, colours in [0, 1], on each picture: the cheapest table
            that does, as a sample of its pixels tells (`Probe`), or dense rendering.
        budget: use, for each picture, the most precise table that renders at most this share of its pixels, or the
            cheapest there is. At most one of the three; none goes with a single table for each scale.
        overlap: render, at each level, also the pixels just beyond its latents that their enlargement reads, and
            enlarge them straight to the output. Otherwise one level is enlarged to the next, with whatever lies
            beyond: the authors' way, further from dense rendering for a few pixels less. None: as the tables were
            made for, the authors' without; but `precision_db` always takes it.
        above: scales up to this one are rendered densely.
        queries: bounds the temporaries of the decoder, as in `Dense`.

    Raises:
        TableError: no tables, or none that keep what is asked.
    """

    multi_scale = True

    def __init__(
        self,
        tables: Tables | Mapping[Any, Any] | str | Path | None,
        mse_threshold: float | None = None,
        precision_db: float | None = None,
        budget: float | None = None,
        overlap: bool | None = None,
        above: float = 4.0,
        queries: int = 262144,
    ) -> None:
        self._settings = {
            "tables": str(tables) if isinstance(tables, str | Path) else None,
            "mse_threshold": mse_threshold,
            "precision_db": precision_db,
            "budget": budget,
            "above": above,
        }
        asked = {"mse_threshold": mse_threshold, "precision_db": precision_db, "budget": budget}
        given = [f"{name}={value}" for name, value in asked.items() if value is not None]
        if len(given) > 1:
            raise UserError(f"give one of mse_threshold, precision_db and budget, got {' and '.join(given)}")
        if budget is not None and not 0 < budget <= 1:
            raise UserError(f"budget is a share of the pixels, above 0 and at most 1, got {budget}")
        if mse_threshold is not None and not mse_threshold > 0:
            raise UserError(f"mse_threshold must be positive, got {mse_threshold}")
        if tables is None:
            raise TableError("CMSR needs tables; python run.py task=calibrate ckpt_path=... makes them")
        self.tables = Tables.of(tables)
        self.most = None if precision_db is None else mean_square(precision_db)
        if self.most is not None:
            self.tables.keeping(self.most)  # complains if none can be expected to
        elif mse_threshold is not None:
            self.tables = self.tables.keeping(mse_threshold)
        elif budget is None and any(len(found) > 1 for found in self.tables.tables.values()):
            raise UserError("the tables are for several thresholds; give mse_threshold, precision_db or budget")
        self.known = max(self.tables.tables) if mse_threshold is not None else None  # scales to which that is known
        self.budget = budget
        if precision_db is not None and overlap is False:
            raise UserError("precision_db needs overlap: without it no latent comes out as a sample of it tells")
        self.overlap = precision_db is not None or (self.tables.overlap if overlap is None else overlap)
        self.above = above
        self.queries = Dense(queries).queries

    @property
    def settings(self) -> Mapping[str, Any]:
        return self._settings

    def check(self, model: nn.Module) -> None:
        """Refuses tables that were made for another ``model``; warns of those that do not say."""
        self.tables.check(model)
        if self.tables.model is None:
            log.warning("the tables do not name the model they were made for, so that it cannot be checked")

    def watched(self, stats: list[Stats]) -> Renderer:
        return Watched(self, stats)

    def __call__(self, decoder: Decoder, latent: Latent, target: Grid, cell: Tensor) -> Tensor:
        """Picture (B, 3, rows, cols) of ``target`` in network units; see `Renderer`.

        Raises:
            UserError: a decoder whose latents have no modulation intensity.
        """
        return self.render(decoder, latent, target, cell)[0]

    def render(self, decoder: Decoder, latent: Latent, target: Grid, cell: Tensor) -> tuple[Tensor, list[Stats]]:
        """The picture, and for each image of the batch what was rendered."""
        out = torch.empty(len(cell), 3, *target.size, device=cell.device)
        stats = []
        for i, strength in enumerate(intensity(decoder, latent)):
            painter, own = Painter(decoder, single(latent, i), self.queries), cell[i : i + 1]
            if self.most is not None and self.coarsens(target, latent.size) and math.prod(target.size) >= SMALLEST:
                stats.append(self.keep(out[i], painter, target, own, strength, self.most))
            else:
                stats.append(self.paint(out[i], painter, target, own, self.plan(strength, target)))
        return out, stats

    def coarsens(self, target: Grid, size: Size) -> bool:
        """Whether the enlargement of ``size`` to ``target`` is one beyond ``above``."""
        return math.prod(target.cells) > self.above**2 * math.prod(size) + 1e-6

    def plan(self, strength: Tensor, target: Grid) -> list[Level]:
        """What to render at which level, coarse to fine, for one image's intensity ``strength`` (h, w)."""
        size = (strength.shape[0], strength.shape[1])
        scale = scale_of(target, size)
        if not self.coarsens(target, size) or self.most is not None:
            return levels_of(Table({}), scale, strength, target)
        if self.known is not None and scale > self.known:
            warnings.warn(BEYOND.format(self.known), stacklevel=2)
        tables, most = self.tables.at(scale), math.inf if self.budget is None else self.budget * math.prod(target.size)

        # They go from precise to cheap. What an overlap adds is little, and takes longer to count.
        bare = partial(levels_of, scale=scale, strength=strength, target=target)
        first = bisect_left(tables, True, hi=len(tables) - 1, key=lambda table: cost(bare(table)) <= most)
        for table in tables[first:]:
            found = bare(table, overlap=self.overlap)
            if cost(found) <= most:
                break
        return found if math.prod(target.size) > most else self.unless_dense(found, target)

    def unless_dense(self, levels: list[Level], target: Grid) -> list[Level]:
        """``levels``, or dense rendering where that is as fast; the authors render in levels all the same."""
        if not self.overlap or cost(levels) <= DENSE_SHARE * math.prod(target.size):
            return levels
        everything = torch.ones_like(levels[0].inside)
        return [Level(scale_of(target, (everything.shape[0], everything.shape[1])), target, everything)]

    def keep(self, out: Tensor, painter: Painter, target: Grid, cell: Tensor, strength: Tensor, most: float) -> Stats:
        """Fills ``out`` as cheaply as keeps a mean squared difference of ``most`` from dense rendering."""
        decoder, latent = painter.decoder, painter.latent
        scale = scale_of(target, latent.size)
        tables = [Table({}), *self.tables.at(scale)]
        probe = Probe(decoder, latent, target, cell, strength, scale, {x for table in tables for x in table.bounds})
        table = next(table for table in reversed(tables) if probe.keeps(probe.expected(table), most))
        levels = self.unless_dense(levels_of(table, scale, strength, target, self.overlap), target)
        stats = self.paint(out, painter, target, cell, levels)
        found = psnr(max(probe.measured(out).mean().item(), 4e-10))
        return replace(stats, tried=probe.queries, precision_db=found)

    def paint(self, out: Tensor, painter: Painter, target: Grid, cell: Tensor, levels: list[Level]) -> Stats:
        """Fills ``out`` (3, rows, cols) and says what was rendered."""
        decoder, latent = painter.decoder, painter.latent

        def cell_of(at: Grid) -> Tensor:
            return cell if at == target else decoder.cell(at, latent.size, 1, cell.device).to(cell.dtype)

        if levels[0].target is not None:
            shown = [None if level.grid == target else region(level.inside, target) for level in levels]
            layers = [Layer(x.grid, cell_of(x.grid), x.region, own) for x, own in zip(levels, shown, strict=True)]
            painter.paint_layers(out, target, layers)
            return summarise(levels, target)
        assert latent.image is not None
        before, at = latent.image[0].to(out.dtype), Grid.of(*latent.size)
        for level in levels:  # coarse to fine
            picture = out if level.grid == target else out.new_empty(3, *level.grid.size)
            own = cell_of(level.grid)
            if level.pixels == math.prod(level.grid.size):
                picture.copy_(painter.picture(level.grid, own))
            else:
                enlarge(before, at, level.grid, picture)
                painter.paint(picture, level.region, level.grid, own)
            before, at = picture, level.grid
        if at != target:
            enlarge(before, at, target, out)
        return summarise(levels, target)


class Watched(Renderer):
    """`CMSR` that appends to a list what it rendered of each picture."""

    multi_scale = True

    def __init__(self, renderer: CMSR, stats: list[Stats]) -> None:
        self.renderer, self.stats = renderer, stats

    def __call__(self, decoder: Decoder, latent: Latent, target: Grid, cell: Tensor) -> Tensor:
        picture, stats = self.renderer.render(decoder, latent, target, cell)
        self.stats += stats
        return picture


def scale_of(target: Grid, size: Size) -> float:
    """Of the enlargement of ``size``. Rounded: with padded images the cells, and so the scale, are fractions."""
    return round(max(cells / n for cells, n in zip(target.cells, size, strict=True)), 6)


def cost(levels: list[Level]) -> int:
    """How many pixels are rendered."""
    return sum(level.pixels for level in levels)


def intensity(decoder: Decoder, latent: Latent) -> Tensor:
    """Modulation intensity (B, h, w) of a ``latent``.

    Raises:
        UserError: it has none, or keeps no image to start from.
    """
    strength = decoder.intensity(latent)
    if strength is None or latent.image is None:
        raise UserError(
            f"CMSR needs a decoder with latent modulation, such as LMLIIF; {type(decoder).__name__} has none"
        )
    return strength


def summarise(levels: list[Level], target: Grid) -> Stats:
    level_map = torch.zeros_like(levels[0].inside, dtype=torch.uint8)
    for i, level in enumerate(levels):
        level_map[level.inside] = i
    return Stats(
        levels=tuple(x.scale for x in levels),
        rendered=tuple(x.pixels for x in levels),
        pixels=math.prod(target.size),
        level_map=level_map,
    )


def single(latent: Latent, i: int) -> Latent:
    """The latent of image ``i`` of a batch alone."""
    parts = {f.name: getattr(latent, f.name) for f in fields(latent)}
    own: dict[str, Any] = {name: part[i : i + 1] for name, part in parts.items() if isinstance(part, Tensor)}
    return replace(latent, **own)
