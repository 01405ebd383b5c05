"""CMSR: controllable multi-scale rendering (He & Jin, CVPR 2024, section 3.4).

A latent of low modulation intensity carries little detail. Its pixels are rendered at a coarser level, one for several
output pixels, and enlarged bilinearly. A table maps modulation intensities to levels.
"""

from __future__ import annotations

import logging
import math
import warnings
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lmf.decoders.base import Decoder, Latent
from lmf.errors import UserError
from lmf.grid import Grid, Size
from lmf.renderers.base import Renderer, Stats
from lmf.renderers.cmsr.costs import Advisor, Costs, Share, Work
from lmf.renderers.cmsr.levels import Level, dense_stats, intensity, levels_of, scale_of
from lmf.renderers.cmsr.measured import measured
from lmf.renderers.cmsr.painter import Painter
from lmf.renderers.cmsr.probe import Probe
from lmf.renderers.cmsr.tables import Table, TableError, Tables, mean_square, psnr
from lmf.renderers.dense import Dense

log = logging.getLogger(__name__)

When = Literal["measured", "share", "never"]
BEYOND = "enlarging beyond x{:g}, the largest scale of the tables; mse_threshold may be exceeded there"


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
        dense: when to render a picture densely instead, which is never less precise. ``"measured"``: if that is
            expected to be faster, by `Costs` that are measured on this machine on first use, in some tenths of a
            second, and kept in the cache folder. ``"share"``: if more than 85 % of its pixels would be rendered, but
            with a budget below this or without overlap never; also what ``"measured"`` does where the compiled kernel
            does not render the levels. ``"never"``: above the scale ``above`` always render in levels, to measure the
            method itself. Also accepts `Costs`. Unless costs are measured, precision_db renders pictures below 65536
            output pixels densely, because sampling would take as long.
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
        dense: When | Costs = "measured",
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
        if not isinstance(dense, Costs) and dense not in get_args(When):
            raise UserError(f"dense must be one of {', '.join(get_args(When))}, got {dense!r}")
        self.tables = Tables.of(tables)
        self.max_mse = None if precision_db is None else mean_square(precision_db)
        if self.max_mse is not None:
            self.likely = self.tables.keeping(self.max_mse)  # raises if no table is expected to keep it
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
        self.above, self.dense = above, dense
        self.queries = Dense(queries).queries
        self._settings = {
            "tables": str(tables) if isinstance(tables, str | Path) else None,
            **asked,
            "overlap": self.overlap,
            "above": above,
            "dense": asdict(dense) if isinstance(dense, Costs) else dense,
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
        pictures, stats = [], []
        for i in range(len(cell)):
            picture, found = self.single(Painter(decoder, latent.single(i), self.queries), target, cell[i : i + 1])
            pictures.append(picture[None])
            stats.append(found)
        return (
            pictures[0] if len(pictures) == 1 else torch.cat([cell.new_empty(0, 3, *target.size), *pictures])
        ), stats

    def single(self, painter: Painter, target: Grid, cell: Tensor) -> tuple[Tensor, Stats]:
        """Render one picture (3, rows, cols) and return its statistics as well."""
        levels, probe = self.choose(painter, target, cell)
        if isinstance(levels, str):
            picture, stats = painter.picture(target, cell), dense_stats(target, painter.latent.size, levels)
        else:
            picture = cell.new_empty(3, *target.size)
            stats = painter.paint_levels(picture, target, cell, levels)
        if probe is not None:
            precision = psnr(max(probe.measured(picture).mean().item(), 4e-10))
            stats = replace(stats, tried=probe.queries, precision_db=precision)
        return picture, stats

    def choose(self, painter: Painter, target: Grid, cell: Tensor) -> tuple[list[Level] | str, Probe | None]:
        """Return the levels to render, or why to render densely, and the samples that were taken to decide this."""
        size, probe = painter.latent.size, None
        if not self.coarsens(target, size):
            return f"the scale is at most {self.above:g}", None
        advisor = self.advisor(painter, cell)
        # What is certain before the intensities are known.
        least = Work(math.prod(target.size), levels=1, coarse=math.prod(size), fine=0, enlarged=math.prod(target.size))
        if reason := advisor.dense(least):
            return reason, None
        strength, scale = intensity(painter.decoder, painter.latent)[0], scale_of(target, size)
        work = partial(Work.of, scale=scale, strength=strength, target=target, overlap=self.overlap)
        if self.max_mse is None:
            reason = advisor.dense(self.within_budget(self.tables.at(scale), work))
            return reason or self.plan(strength, target), None
        tables = [Table({}), *self.tables.at(scale)]
        coarser = {level for table in tables for level in table.bounds if 1 <= level < scale}
        queries = Probe.samples(target) * (1 + 4 * len(coarser))
        if reason := advisor.dense(work(self.likely.at(scale)[0], queries=queries)):
            return reason, None
        probe = Probe(painter.decoder, painter.latent, target, cell, strength, scale, coarser)
        table = next(table for table in reversed(tables) if probe.keeps(probe.expected(table), self.max_mse))
        return advisor.dense(work(table)) or levels_of(table, scale, strength, target, True), probe

    def within_budget(self, tables: Sequence[Table], work: Callable[[Table], Work]) -> Work:
        """Return the estimated work with the table that keeps the budget."""

        def keeps(table: Table) -> bool:
            needed = work(table)
            return needed.coarse + needed.fine <= (self.budget or math.inf) * needed.pixels

        return work(tables[bisect_left(tables, True, hi=len(tables) - 1, key=keeps)])

    def advisor(self, painter: Painter, cell: Tensor) -> Advisor:
        """Return what decides whether a picture is rendered densely."""
        if isinstance(self.dense, Costs):
            return self.dense
        if self.dense == "measured" and (costs := measured(painter, cell, self.overlap)):
            return costs
        bounded = self.budget is not None and self.budget < 1
        return Share(math.inf) if self.dense == "never" or bounded or not self.overlap else Share()

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
        return levels


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


def cost(levels: list[Level]) -> int:
    """Return the number of pixels that ``levels`` render."""
    return sum(level.pixels for level in levels)
