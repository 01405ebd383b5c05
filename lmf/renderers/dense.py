"""Dense rendering: every output pixel is queried, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lmf.decoders.base import Decoder, Latent
from lmf.errors import UserError
from lmf.grid import Grid
from lmf.renderers.base import Renderer


class Dense(Renderer):
    """Renders bands of rows, each of at most ``queries`` pixels of the whole batch (at least one row).

    A decoder that needs no temporaries (`Decoder.constant_memory`) renders the whole picture at once.

    Args:
        queries: bounds the temporaries of the decoder; the picture itself is always kept whole.
    """

    pointwise = True

    def __init__(self, queries: int = 65536) -> None:
        if queries < 1:
            raise UserError(f"queries must be at least 1, got {queries}")
        self.queries = queries

    def __call__(self, decoder: Decoder, latent: Latent, target: Grid, cell: Tensor) -> Tensor:
        """Picture (B, 3, rows, cols) of ``target`` in network units, float32; see `Renderer`."""
        if decoder.constant_memory:
            return decoder.render(latent, target, cell)
        h, w = target.size
        out = torch.empty(len(cell), 3, h, w, device=cell.device)
        for start, stop, band in self.bands(decoder, latent, target, cell):
            out[:, :, start:stop] = band
        return out

    def bands(self, decoder: Decoder, latent: Latent, target: Grid, cell: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """The same picture as (first row, end row, (B, 3, rows, cols)), top to bottom."""
        h, w = target.size
        rows = max(1, self.queries // (len(cell) * w))
        for start in range(0, h, rows):
            stop = min(start + rows, h)
            yield start, stop, decoder.render(latent, target.band(start, stop), cell)
