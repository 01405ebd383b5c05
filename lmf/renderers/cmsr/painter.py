"""Rendering of parts of a grid, by the fused kernel for all levels at once if it supports the decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmf import kernels
from lmf.decoders.base import Decoder, Latent
from lmf.grid import Grid
from lmf.kernels.enlarge import enlarge
from lmf.kernels.region import Layer, Region
from lmf.renderers.base import Stats
from lmf.renderers.cmsr.levels import Level, region, summarise
from lmf.renderers.dense import Dense


@dataclass(frozen=True)
class Painter:
    """Renders parts of one picture from its latent.

    Attributes:
        decoder: the decoder that computed ``latent``.
        latent: latent of one image.
        queries: maximum number of pixels per call of a decoder that needs temporaries.
    """

    decoder: Decoder
    latent: Latent
    queries: int

    def picture(self, target: Grid, cell: Tensor) -> Tensor:
        """Render all pixels of ``target``: (3, rows, cols)."""
        return Dense(self.queries)(self.decoder, self.latent, target, cell)[0]

    def paint(self, out: Tensor, part: Region, target: Grid, cell: Tensor) -> None:
        """Render the pixels ``part`` of ``target`` into a contiguous ``out`` (3, rows, cols); others are kept."""
        if self.fused(out, target, [Layer(target, cell, part)]):
            return
        y, x = target.axes(cell.device, cell.dtype)
        for index in part.mask.flatten().nonzero()[:, 0].to(cell.device).split(self.queries):
            coord = torch.stack([y[index // len(x)], x[index % len(x)]], dim=-1)  # (Q, 2)
            rgb = self.decoder.query(self.latent, coord[None], cell)[0]  # (Q, 3)
            out.view(3, -1)[:, index] = rgb.T.to(out.dtype)

    def paint_levels(self, out: Tensor, target: Grid, cell: Tensor, levels: list[Level]) -> Stats:
        """Render ``levels``, from coarse to fine, into ``out`` (3, rows, cols) and return the statistics."""

        def cell_of(at: Grid) -> Tensor:
            return cell if at == target else self.decoder.cell(at, self.latent.size, 1, cell.device, cell.dtype)

        if levels[0].target is not None:
            shown = [None if level.grid == target else region(level.inside, target) for level in levels]
            layers = [Layer(x.grid, cell_of(x.grid), x.region, part) for x, part in zip(levels, shown, strict=True)]
            self.paint_layers(out, target, layers)
            return summarise(levels, target)
        assert self.latent.image is not None
        before, at = self.latent.image[0].to(out.dtype), target.latents(self.latent.size)
        for level in levels:
            picture = out if level.grid == target else out.new_empty(3, *level.grid.size)
            level_cell = cell_of(level.grid)
            if level.pixels == math.prod(level.grid.size):
                picture.copy_(self.picture(level.grid, level_cell))
            else:
                enlarge(before, at, level.grid, picture)
                self.paint(picture, level.region, level.grid, level_cell)
            before, at = picture, level.grid
        if at != target:
            enlarge(before, at, target, out)
        return summarise(levels, target)

    def paint_layers(self, out: Tensor, target: Grid, layers: Sequence[Layer]) -> None:
        """Render every level and enlarge it to ``target`` into a contiguous ``out`` (3, rows, cols).

        Pixels that no layer shows keep their value.
        """
        if self.fused(out, target, layers):
            return
        for layer in layers:
            picture = out if layer.shown is None else out.new_empty(3, *layer.grid.size)
            self.paint(picture, layer.part, layer.grid, layer.cell)
            if layer.shown is not None:
                enlarge(picture, layer.grid, target, out, layer.shown)

    def fused(self, out: Tensor, target: Grid, layers: Sequence[Layer]) -> bool:
        """Render all layers in one pass over ``out`` if decoder and kernel support it; return whether they do."""
        inputs = self.decoder.kernel_inputs(self.latent, torch.cat([layer.cell for layer in layers]))
        if inputs is None or not kernels.layered(out, inputs.modulation, inputs.weights, inputs.encoding):
            return False
        kernels.render_layers(
            out,
            target,
            layers,
            inputs.modulation,
            inputs.code,
            inputs.extra,
            inputs.image,
            inputs.weights,
            inputs.encoding,
        )
        return True
