"""CMSR: controllable multi-scale rendering (He & Jin, CVPR 2024, section 3.4).

A latent of low modulation intensity carries little detail. Its pixels are rendered at a coarser level, one for several
output pixels, and enlarged bilinearly. A table maps modulation intensities to levels.
"""

from __future__ import annotations

import logging
import math
import warnings
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmf.decoders.base import Decoder, Latent
from lmf.errors import UserError
from lmf.grid import Grid, Size
from lmf.kernels.enlarge import enlarge
from lmf.kernels.region import Layer
from lmf.renderers.base import Renderer, Stats
from lmf.renderers.cmsr.levels import Level, levels_of, region
from lmf.renderers.cmsr.painter import Painter
from lmf.renderers.cmsr.probe import Probe
from lmf.renderers.cmsr.tables import Table, TableError, Tables, mean_square, psnr
from lmf.renderers.dense import Dense

log = logging.getLogger(__name__)

DENSE_SHARE = 0.85  # above this share of rendered pixels, dense rendering is as fast
BEYOND = "enlarging beyond x{:g}, the largest scale of the tables; mse_threshold may be exceeded there"
SMALLEST = 65536  # output pixels; below this, sampling for precision_db costs as much as rendering


class CMSR(Renderer):
    """Renders each latent at a level that depends on its modulation intensity.

    Give at most one of ``mse_threshold``, ``precision_db`` and ``budget``. None is needed if there is a single table
    per scale.

    Args:
        tables: scale-to-modulation tables, as `Tables`, a file or its content as a mapping.
        mse_threshold: use the cheapest tables whose mean squared difference from dense rendering is at most this, in
            network units [-1, 1]. It holds on average over pictures like those used for calibration.
        precision_db: keep this PSNR in dB against dense rendering, colours in [0, 1], on each picture. The cheapest
            table that keeps it on a sample of the pixels is used (`Probe`), or dense rendering if there is none.
        budget: use, for each picture, the most precise table that renders at most this share of its pixels, or the
            cheapest table if there is none. Above 0 and at most 1.
        overlap: whether to render, at each level, also the pixels outside its latents that their enlargement reads,
            and to enlarge each level directly to the output. Otherwise each level is enlarged to the next one together
            with its surroundings, as in the released code; this renders slightly fewer pixels and is less precise. None
            uses the setting that the tables were calibrated for (False for those of the released code), or True with
            ``precision_db``.
        above: largest scale that is rendered densely.
        queries: bounds the temporaries of the decoder, as in `Dense`.

    Raises:
        TableError: if there are no tables or none that keeps the given threshold or precision.
        UserError: if an option is out of range or options contradict each other.
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
        asked = {"mse_threshold": mse_threshold, "precision_db": precision_db, "budget": budget}
        given = [f"{name}={value}" for name, value in asked.items() if value is not None]
        if len(given) > 1:
            raise UserError(f"give one of mse_threshold, precision_db and budget, not several; got {', '.join(given)}")
        if budget is not None and not 0 < budget <= 1:
            raise UserError(f"budget must be a share of the pixels, above 0 and at most 1, got {budget}")
        if mse_threshold is not None and not mse_threshold > 0:
            raise UserError(f"mse_threshold must be positive, got {mse_threshold}")
        if tables is None:
            raise TableError("CMSR needs tables; create them with lmf task=calibrate ckpt_path=...")
        self.tables = Tables.of(tables)
        self.max_mse = None if precision_db is None else mean_square(precision_db)
        if self.max_mse is not None:
            self.tables.keeping(self.max_mse)  # raises if no table is expected to keep it
        elif mse_threshold is not None:
            self.tables = self.tables.keeping(mse_threshold)
        elif budget is None and any(len(found) > 1 for found in self.tables.tables.values()):
            raise UserError("the tables are for several thresholds; give one of mse_threshold, precision_db and budget")
        # The threshold is not calibrated beyond the largest scale.
        self.largest_scale = max(self.tables.tables) if mse_threshold is not None else None
        self.budget = budget
        if precision_db is not None and overlap is False:
            raise UserError(
                "precision_db needs overlap=true, got overlap=false; sampled errors do not predict the result otherwise"
            )
        self.overlap = precision_db is not None or (self.tables.overlap if overlap is None else overlap)
        self.above = above
        self.queries = Dense(queries).queries
        self._settings = {
            "tables": str(tables) if isinstance(tables, str | Path) else None,
            **asked,
            "overlap": self.overlap,
            "above": above,
        }

    @property
    def settings(self) -> Mapping[str, Any]:
        return self._settings

    def check(self, model: nn.Module) -> None:
        """Check that the tables were made for ``model``; warn if they do not name their model.

        Raises:
            TableError: if they were made for another model.
        """
        self.tables.check(model)
        if self.tables.model is None:
            log.warning("the tables do not name the model they were made for, so this cannot be checked")

    def watched(self, stats: list[Stats]) -> Renderer:
        return Watched(self, stats)

    def __call__(self, decoder: Decoder, latent: Latent, target: Grid, cell: Tensor) -> Tensor:
        """Render ``target`` as (B, 3, rows, cols) in network units; see `Renderer`.

        Raises:
            UserError: if the decoder's latents have no modulation intensity.
        """
        return self.render(decoder, latent, target, cell)[0]

    def render(self, decoder: Decoder, latent: Latent, target: Grid, cell: Tensor) -> tuple[Tensor, list[Stats]]:
        """Render ``target`` as in `__call__` and return the `Stats` of each image as well."""
        out = cell.new_empty(len(cell), 3, *target.size)
        stats = []
        for i, strength in enumerate(intensity(decoder, latent)):
            painter, image_cell = Painter(decoder, latent.single(i), self.queries), cell[i : i + 1]
            if self.max_mse is not None and self.coarsens(target, latent.size) and math.prod(target.size) >= SMALLEST:
                stats.append(self.keep(out[i], painter, target, image_cell, strength, self.max_mse))
            else:
                stats.append(self.paint(out[i], painter, target, image_cell, self.plan(strength, target)))
        return out, stats

    def coarsens(self, target: Grid, size: Size) -> bool:
        """Return whether the enlargement of ``size`` to ``target`` exceeds the scale ``above``."""
        return math.prod(target.cells) > self.above**2 * math.prod(target.latents(size).cells) + 1e-6

    def plan(self, strength: Tensor, target: Grid) -> list[Level]:
        """Assign the latents of one image to levels, from coarse to fine.

        Args:
            strength: (h, w) modulation intensity of each latent.
            target: the output pixels.
        """
        size = (strength.shape[0], strength.shape[1])
        scale = scale_of(target, size)
        if not self.coarsens(target, size) or self.max_mse is not None:
            return levels_of(Table({}), scale, strength, target)
        if self.largest_scale is not None and scale > self.largest_scale:
            warnings.warn(BEYOND.format(self.largest_scale), stacklevel=2)
        tables = self.tables.at(scale)
        max_pixels = math.inf if self.budget is None else self.budget * math.prod(target.size)

        # Tables are sorted from precise to cheap. The bisection ignores the overlap, which adds few pixels and takes
        # longer to count.
        assign = partial(levels_of, scale=scale, strength=strength, target=target)
        first = bisect_left(tables, True, hi=len(tables) - 1, key=lambda table: cost(assign(table)) <= max_pixels)
        for table in tables[first:]:
            levels = assign(table, overlap=self.overlap)
            if cost(levels) <= max_pixels:
                break
        return levels if math.prod(target.size) > max_pixels else self.unless_dense(levels, target)

    def unless_dense(self, levels: list[Level], target: Grid) -> list[Level]:
        """Return ``levels``, or dense rendering if that is as fast; without overlap always ``levels``, as published."""
        if not self.overlap or cost(levels) <= DENSE_SHARE * math.prod(target.size):
            return levels
        everything = np.ones_like(levels[0].inside)
        return [Level(scale_of(target, (everything.shape[0], everything.shape[1])), target, everything)]

    def keep(
        self, out: Tensor, painter: Painter, target: Grid, cell: Tensor, strength: Tensor, max_mse: float
    ) -> Stats:
        """Render into ``out`` as cheaply as possible with a mean squared difference of at most ``max_mse``."""
        decoder, latent = painter.decoder, painter.latent
        scale = scale_of(target, latent.size)
        tables = [Table({}), *self.tables.at(scale)]
        probe = Probe(decoder, latent, target, cell, strength, scale, {x for table in tables for x in table.bounds})
        table = next(table for table in reversed(tables) if probe.keeps(probe.expected(table), max_mse))
        levels = self.unless_dense(levels_of(table, scale, strength, target, self.overlap), target)
        stats = self.paint(out, painter, target, cell, levels)
        measured = psnr(max(probe.measured(out).mean().item(), 4e-10))
        return replace(stats, tried=probe.queries, precision_db=measured)

    def paint(self, out: Tensor, painter: Painter, target: Grid, cell: Tensor, levels: list[Level]) -> Stats:
        """Render ``levels`` into ``out`` (3, rows, cols) and return the statistics."""
        decoder, latent = painter.decoder, painter.latent

        def cell_of(at: Grid) -> Tensor:
            return cell if at == target else decoder.cell(at, latent.size, 1, cell.device, cell.dtype)

        if levels[0].target is not None:
            shown = [None if level.grid == target else region(level.inside, target) for level in levels]
            layers = [Layer(x.grid, cell_of(x.grid), x.region, part) for x, part in zip(levels, shown, strict=True)]
            painter.paint_layers(out, target, layers)
            return summarise(levels, target)
        assert latent.image is not None
        before, at = latent.image[0].to(out.dtype), target.latents(latent.size)
        for level in levels:  # coarse to fine
            picture = out if level.grid == target else out.new_empty(3, *level.grid.size)
            level_cell = cell_of(level.grid)
            if level.pixels == math.prod(level.grid.size):
                picture.copy_(painter.picture(level.grid, level_cell))
            else:
                enlarge(before, at, level.grid, picture)
                painter.paint(picture, level.region, level.grid, level_cell)
            before, at = picture, level.grid
        if at != target:
            enlarge(before, at, target, out)
        return summarise(levels, target)


class Watched(Renderer):
    """A `CMSR` renderer that appends the statistics of each picture to a list.

    Args:
        renderer: the renderer.
        stats: the list to append to.
    """

    multi_scale = True

    def __init__(self, renderer: CMSR, stats: list[Stats]) -> None:
        self.renderer, self.stats = renderer, stats

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.renderer.settings

    def check(self, model: nn.Module) -> None:
        self.renderer.check(model)

    def watched(self, stats: list[Stats]) -> Renderer:
        """Return a renderer that appends the statistics to ``stats`` instead."""
        return self.renderer.watched(stats)

    def __call__(self, decoder: Decoder, latent: Latent, target: Grid, cell: Tensor) -> Tensor:
        picture, stats = self.renderer.render(decoder, latent, target, cell)
        self.stats += stats
        return picture


def scale_of(target: Grid, size: Size) -> float:
    """Return the scale of the enlargement of ``size`` to ``target``.

    It is rounded because padding makes the number of cells, and with it the scale, fractional.
    """
    return round(max(cells / n for cells, n in zip(target.cells, target.latents(size).cells, strict=True)), 6)


def cost(levels: list[Level]) -> int:
    """Return the number of pixels that ``levels`` render."""
    return sum(level.pixels for level in levels)


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
