"""Rendering the same picture in many ways, each pixel of each level once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lmf.decoders.base import Decoder, Latent
from lmf.grid import Grid
from lmf.region import Region
from lmf.renderers.dense import Dense


class Remembering(Decoder):
    """``decoder`` for one latent and its cell: each grid is rendered once, in whole, however often it is asked for."""

    constant_memory = True

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(decoder.in_channels)
        self.decoder = decoder
        self.pictures: dict[Grid, Tensor] = {}

    def cell(self, *args: Any) -> Tensor:
        return self.decoder.cell(*args)

    def render(self, latent: Latent, target: Grid, cell: Tensor) -> Tensor:
        if target not in self.pictures:
            self.pictures[target] = Dense()(self.decoder, latent, target, cell)
        return self.pictures[target]

    def paint(self, out: Tensor, part: Region, latent: Latent, target: Grid, cell: Tensor, queries: int) -> None:
        torch.where(part.mask, self.render(latent, target, cell)[0], out, out=out)
