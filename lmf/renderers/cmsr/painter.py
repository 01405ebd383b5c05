"""Rendering some pixels of a grid: the fused kernel paints all levels at once where it can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmf import kernels
from lmf.decoders.base import Decoder, Latent
from lmf.grid import Grid
from lmf.kernels.enlarge import enlarge
from lmf.region import Layer, Region
from lmf.renderers.dense import Dense


@dataclass(frozen=True)
class Painter:
    """Renders the latent of one image.

    Attributes:
        decoder: made the latent.
        latent: of one image.
        queries: pixels at a time where the decoder needs temporaries.
    """

    decoder: Decoder
    latent: Latent
    queries: int

    def picture(self, target: Grid, cell: Tensor) -> Tensor:
        """All pixels of ``target``: (3, rows, cols)."""
        return Dense(self.queries)(self.decoder, self.latent, target, cell)[0]

    def paint(self, out: Tensor, part: Region, target: Grid, cell: Tensor) -> None:
        """Renders the pixels ``part`` of ``target`` into ``out`` (3, rows, cols), contiguous; others stay."""
        if self.fused(out, target, [Layer(target, cell, part)]):
            return
        y, x = target.axes(cell.device)
        for index in part.mask.flatten().nonzero()[:, 0].split(self.queries):
            coord = torch.stack([y[index // len(x)], x[index % len(x)]], dim=-1)  # (Q, 2)
            rgb = self.decoder.query(self.latent, coord[None], cell)[0]  # (Q, 3)
            out.view(3, -1)[:, index] = rgb.T.to(out.dtype)

    def paint_layers(self, out: Tensor, target: Grid, layers: Sequence[Layer]) -> None:
        """Paints every level and enlarges it to ``target`` into ``out`` (3, rows, cols), contiguous.

        Pixels that no layer shows stay as they are.
        """
        if self.fused(out, target, layers):
            return
        for layer in layers:
            picture = out if layer.shown is None else out.new_empty(3, *layer.grid.size)
            self.paint(picture, layer.part, layer.grid, layer.cell)
            if layer.shown is not None:
                enlarge(picture, layer.grid, target, out, layer.shown)

    def fused(self, out: Tensor, target: Grid, layers: Sequence[Layer]) -> bool:
        """Paints all layers in one pass over ``out`` if decoder and kernel can; says whether it did."""
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
