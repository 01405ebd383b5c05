"""Estimation of the error of multi-scale rendering from a sample of the pixels of a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from lmf.decoders.base import Decoder, Latent
from lmf.grid import Grid
from lmf.kernels.enlarge import taps
from lmf.renderers.cmsr.levels import level_grid, owner, touched
from lmf.renderers.cmsr.tables import Table

SPARSITY, LEAST, MOST = 256, 512, 4096  # output pixels per sample; minimum and maximum number of samples
CONFIDENCE = 2.33  # in standard errors; a one-sided level of 99 %


class Probe:
    """Measures squared differences from dense rendering at pixels spread evenly over one picture.

    All differences are in network units [-1, 1].

    Args:
        decoder, latent, target, cell: as for `lmf.renderers.Renderer`, for one image.
        strength: (h, w) modulation intensity of each latent.
        scale: scale of ``target``.
        levels: levels of the tables to be tried; those at or above ``scale`` are ignored.
    """

    def __init__(
        self,
        decoder: Decoder,
        latent: Latent,
        target: Grid,
        cell: Tensor,
        strength: Tensor,
        scale: float,
        levels: Iterable[float],
    ) -> None:
        height, width = target.size
        total = height * width
        self.scale, self.device = scale, cell.device
        self.count = self.samples(target)
        # The samples are the same in every call, so that results are reproducible.
        within = torch.rand(self.count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.index = ((torch.arange(self.count) + within) * (total / self.count)).long().to(self.device)
        self.rows, self.cols = self.index // width, self.index % width
        y, x = target.axes(self.device, cell.dtype)
        h, w = latent.size
        self.strength = strength.to(self.device)[owner(y, h)[self.rows], owner(x, w)[self.cols]]  # (n,)
        self.exact = decoder.query(latent, torch.stack([y[self.rows], x[self.cols]], -1)[None], cell)[0]  # (n, 3)
        self.squares, self.queries = {}, self.count
        for level in sorted({level for level in levels if 1 <= level < scale}):
            at = level_grid(level, target, latent.size, *touched(target, latent.size))
            level_cell = decoder.cell(at, latent.size, 1, self.device, cell.dtype)
            self.squares[level] = self.square(self.enlarged(decoder, latent, at, target, level_cell))

    @staticmethod
    def samples(target: Grid) -> int:
        """Return the number of pixels of ``target`` to sample."""
        total = math.prod(target.size)
        return min(max(total // SPARSITY, LEAST), MOST, total)

    def enlarged(self, decoder: Decoder, latent: Latent, at: Grid, target: Grid, cell: Tensor) -> Tensor:
        """Return the sampled colours (n, 3) of a picture rendered at ``at`` and enlarged to ``target``."""
        above, below, down = (
            t[self.rows] for t in taps(at.cells[0], at.rows, target.cells[0], target.rows, self.exact)
        )
        left, right, along = (
            t[self.cols] for t in taps(at.cells[1], at.cols, target.cells[1], target.cols, self.exact)
        )
        corners = [(i, j) for i in (above, below) for j in (left, right)]
        height, width = at.size
        if height * width <= 4 * self.count:
            picture = decoder.render(latent, at, cell)[0].flatten(1).T  # (pixels, 3)
            rgb = torch.stack([picture[i * width + j] for i, j in corners])  # (4, n, 3)
        else:
            y, x = at.axes(self.device, cell.dtype)
            coord = torch.cat([torch.stack([y[i], x[j]], dim=-1) for i, j in corners])
            rgb = decoder.query(latent, coord[None], cell)[0].view(4, self.count, 3)
        self.queries += min(4 * self.count, height * width)
        return rgb[0].lerp(rgb[1], along[:, None]).lerp(rgb[2].lerp(rgb[3], along[:, None]), down[:, None])

    def square(self, rgb: Tensor) -> Tensor:
        """Return the mean squared difference (n,) of sampled colours (n, 3) from dense rendering."""
        return (rgb - self.exact).square().mean(dim=-1)

    def expected(self, table: Table) -> Tensor:
        """Return the expected squared differences (n,) of a picture rendered with ``table``."""
        levels, _, highs = zip(*table.intervals(self.scale), strict=True)
        found = torch.bucketize(self.strength, self.strength.new_tensor(highs[:-1]), right=True)  # (n,)
        squares = torch.zeros_like(self.exact[:, 0])
        for i, level in enumerate(levels):
            if level < self.scale:
                squares = torch.where(found == i, self.squares[level], squares)
        return squares

    def measured(self, picture: Tensor) -> Tensor:
        """Return the squared differences (n,) of ``picture`` (3, rows, cols)."""
        return self.square(picture.flatten(1)[:, self.index].T)

    def keeps(self, squares: Tensor, threshold: float) -> bool:
        """Return whether the picture's mean of ``squares`` (n,) is at most ``threshold`` with 99 % confidence."""
        standard_error = squares.std().item() / math.sqrt(len(squares)) if len(squares) > 1 else 0.0
        return squares.mean().item() + CONFIDENCE * standard_error <= threshold
