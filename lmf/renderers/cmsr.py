"""CMSR: controllable multi-scale rendering (He & Jin, CVPR 2024, section 3.4).

A latent of low modulation intensity carries little detail: its pixels are rendered at a coarser level, one for
several output pixels, and enlarged bilinearly. A table says which intensities may be rendered how coarsely.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmf.decoders.base import Decoder, Latent
from lmf.grid import Grid
from lmf.renderers.dense import Dense
from lmf.renderers.levels import Level, enlarge, levels_of
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


DENSE_SHARE = 0.85


class CMSR:
    """Renders each latent at the level that its modulation intensity asks for.

    Args:
        tables: scale-to-modulation tables: `Tables`, a file, or its content as a mapping.
        mse_threshold: use the cheapest tables that keep this mean squared difference from dense rendering, in network
            units [-1, 1].
        precision_db: the same as a PSNR of colours in [0, 1].
        budget: use, for each picture, the most precise table that renders at most this share of its pixels, or the
            cheapest there is. At most one of the three; none goes with a single table for each scale.
        overlap: render, at each level, also the pixels just beyond its latents, so that the enlargement does not mix
            them with pixels not yet rendered: far closer to dense rendering for a few more pixels. None: as the
            tables were made for; the authors' are for rendering without.
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
        overlap: bool | None = None,
        above: float = 4.0,
        queries: int = 262144,
    ) -> None:
        self.settings = {
            "tables": str(tables) if isinstance(tables, str | Path) else None,
            "mse_threshold": mse_threshold,
            "precision_db": precision_db,
            "budget": budget,
            "above": above,
        }  # as given, for those who log
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
        self.overlap = self.tables.overlap if overlap is None else overlap
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
        tables, pixels = self.tables.at(scale), math.prod(target.size)
        most = math.inf if self.budget is None else self.budget * pixels

        def levels(table: Table) -> list[Level]:
            return levels_of(table, scale, strength, target, self.overlap)

        # They go from precise to cheap.
        first = bisect_left(tables, True, hi=len(tables) - 1, key=lambda table: cost(levels(table)) <= most)
        found = levels(tables[first])
        # Beyond that dense rendering is as fast; the authors render in levels all the same.
        if self.overlap and DENSE_SHARE * pixels < cost(found) and pixels <= most:
            return levels(Table({}))
        return found

    def paint(
        self, out: Tensor, decoder: Decoder, latent: Latent, cell: Tensor, levels: list[Level], target: Grid
    ) -> None:
        """Fills ``out`` (3, rows, cols) coarse to fine: enlarge what there is, then render what asks for more."""
        assert latent.image is not None
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
            decoder.paint(canvas, level.marked, latent, level.grid, own, self.dense.queries)
        if at != target:
            enlarge(canvas, at, target, out)


def cost(levels: list[Level]) -> int:
    """How many pixels are rendered."""
    return sum(level.pixels for level in levels)


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
    own: dict[str, Any] = {name: part[i : i + 1] for name, part in parts.items() if isinstance(part, Tensor)}
    return replace(latent, **own)
