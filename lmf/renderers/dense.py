"""Dense rendering, which queries every output pixel in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from lmf.decoders.base import Decoder, Latent
from lmf.errors import UserError
from lmf.grid import Grid
from lmf.renderers.base import Renderer


class Dense(Renderer):
    """Renders every output pixel, in bands of rows.

    A decoder that needs no temporaries (`Decoder.constant_memory`) renders the whole picture at once.

    Args:
        queries: maximum number of pixels per band over the whole batch; a band has at least one row. It bounds the
            temporaries of the decoder. The output is always kept whole.

    Raises:
        UserError: if ``queries`` is smaller than 1.
    """

    pointwise = True

    def __init__(self, queries: int = 65536) -> None:
        if queries < 1:
            raise UserError(f"queries must be at least 1, got {queries}")
        self.queries = queries

    def __call__(self, decoder: Decoder, latent: Latent, target: Grid, cell: Tensor) -> Tensor:
        """Render ``target`` as (B, 3, rows, cols) in network units and the type of ``cell``; see `Renderer`."""
        if decoder.constant_memory:
            return decoder.render(latent, target, cell)
        latent = decoder.summarise(latent, target, cell)
        h, w = target.size
        out = cell.new_empty(len(cell), 3, h, w)
        for start, stop, band in self.bands(decoder, latent, target, cell):
            out[:, :, start:stop] = band
        return out

    def bands(self, decoder: Decoder, latent: Latent, target: Grid, cell: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Yield bands as (first row, end row, pixels (B, 3, rows, cols)), from top to bottom."""
        h, w = target.size
        rows = max(1, self.queries // (len(cell) * w))
        for start in range(0, h, rows):
            stop = min(start + rows, h)
            yield start, stop, decoder.render(latent, target.band(start, stop), cell)
