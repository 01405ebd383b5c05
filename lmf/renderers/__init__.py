"""Renderers: a latent to a picture in bounded memory. They know no decoder class."""

from typing import Protocol

from torch import Tensor

from lmf.decoders.base import Decoder, Latent
from lmf.grid import Grid
from lmf.renderers.cmsr.renderer import CMSR, Stats
from lmf.renderers.cmsr.tables import TableError, Tables
from lmf.renderers.dense import Dense

__all__ = ["CMSR", "Dense", "Renderer", "Stats", "TableError", "Tables"]


class Renderer(Protocol):
    def __call__(self, decoder: Decoder, latent: Latent, target: Grid, cell: Tensor) -> Tensor:
        """Picture (B, 3, rows, cols) of ``target`` in network units; see `Dense`."""
        ...
