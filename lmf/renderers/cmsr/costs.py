"""The expected time of rendering in levels and of dense rendering, by which the faster of both is chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from lmf.grid import Grid
from lmf.renderers.cmsr.tables import Table

DENSE_SHARE = 0.85  # above this share of rendered pixels, dense rendering is about as fast
GAIN = 0.95  # levels pay if they take less than this share of the time, since the expected times err by some percent
SMALLEST = 65536  # output pixels; below this, sampling them costs about as much as rendering them


@dataclass(frozen=True)
class Work:
    """An estimate of the work of rendering one picture in levels.

    Attributes:
        pixels: number of output pixels.
        levels: number of levels.
        coarse: number of pixels rendered at the grids of coarser levels, without those that only overlap needs.
        fine: number of output pixels rendered.
        enlarged: number of pixels enlarged from a coarser level.
        queries: number of pixels sampled to choose a table.
    """

    pixels: int
    levels: int
    coarse: float
    fine: float
    enlarged: float
    queries: int = 0

    @classmethod
    def of(cls, table: Table, scale: float, strength: Tensor, target: Grid, overlap: bool, queries: int = 0) -> Work:
        """Estimate the work of rendering with ``table`` from the distribution of intensities, in little time.

        Args:
            table, scale, strength, target, overlap: see `lmf.renderers.cmsr.levels.levels_of`.
            queries: see `Work`.
        """
        levels, _, highs = zip(*table.intervals(scale), strict=True)
        found = np.searchsorted(np.array(highs[:-1], dtype=np.float32), strength.numpy().ravel())
        shares = np.bincount(found, minlength=len(levels)) / found.size
        pixels = math.prod(target.size)
        rendered = shares * pixels * [(level / scale) ** 2 for level in levels]
        fine = float(rendered[-1]) if levels[-1] == scale else 0.0
        # Without overlap, each level is enlarged to the next one as a whole.
        whole = pixels * sum((level / scale) ** 2 for level, share in zip(levels, shares, strict=True) if share)
        enlarged = pixels - fine if overlap else whole
        return cls(pixels, int((shares > 0).sum()), float(rendered.sum()) - fine, fine, enlarged, queries)


class Advisor(Protocol):
    """Chooses between rendering in levels and dense rendering."""

    def dense(self, work: Work) -> str | None:
        """Return why a picture is better rendered densely than with ``work``; None if it is not."""


@dataclass(frozen=True)
class Share:
    """Advises dense rendering above a share of rendered pixels, and instead of sampling small pictures.

    Attributes:
        limit: the share; infinite for never.
    """

    limit: float = DENSE_SHARE

    def dense(self, work: Work) -> str | None:
        if work.queries and work.pixels < SMALLEST:
            return "sampling would take as long"
        share = (work.coarse + work.fine) / work.pixels
        return f"{share:.0%} of the pixels would be rendered" if share > self.limit else None


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Advises dense rendering where levels are not expected to save at least 5 % of its time.

    Attributes:
        dense_call, dense_pixel: seconds of dense rendering, per picture and per output pixel.
        call, level: seconds of rendering in levels, per picture and per level.
        coarse, fine, enlarged, query: seconds per pixel of each kind, see `Work`.
    """

    dense_call: float
    dense_pixel: float
    call: float
    level: float
    coarse: float
    fine: float
    enlarged: float
    query: float

    def dense_seconds(self, pixels: float) -> float:
        """Return the expected seconds of rendering ``pixels`` output pixels densely."""
        return self.dense_call + self.dense_pixel * pixels

    def seconds(self, work: Work) -> float:
        """Return the expected seconds of rendering in levels."""
        per_pixel = self.coarse * work.coarse + self.fine * work.fine + self.enlarged * work.enlarged
        return self.call + self.level * work.levels + per_pixel + self.query * work.queries

    def dense(self, work: Work) -> str | None:
        dense, levels = self.dense_seconds(work.pixels), self.seconds(work)
        if levels < GAIN * dense:
            return None
        return f"{1e3 * dense:.3g} ms expected, at least {1e3 * levels:.3g} ms in levels"
