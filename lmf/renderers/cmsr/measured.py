"""Measures `Costs` on this machine once and keeps them beside the compiled kernels."""

from __future__ import annotations

import math
import threading
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lmf import kernels
from lmf.decoders.base import Decoder, Latent
from lmf.grid import Grid
from lmf.kernels.build import library
from lmf.kernels.measurements import kept, turns
from lmf.renderers.cmsr.costs import Costs, Work
from lmf.renderers.cmsr.levels import intensity, levels_of
from lmf.renderers.cmsr.painter import Painter
from lmf.renderers.cmsr.probe import Probe
from lmf.renderers.cmsr.tables import Table
from lmf.renderers.dense import Dense

SCALE = 8
LARGE, SMALL = 48, 16  # latents per side
TABLE = Table({1: 0.1, 1.5: 0.2, 2: 0.4, 3: 0.5, 4: 0.7, 6: 0.9})
TABLES = [Table({1: math.inf}), Table({4: math.inf}), Table({4: 0.5}), Table({2: 0.3, 4: 0.6}), Table({})]
NAMES = ("call", "level", "coarse", "fine", "enlarged")  # coefficients of rendering in levels
FIGURES = [field.name for field in fields(Costs)]
_LOCK = threading.Lock()
_KNOWN: dict[Hashable, Costs | None] = {}


def measured(painter: Painter, cell: Tensor, overlap: bool) -> Costs | None:
    """Return the costs of rendering with ``painter`` on this machine, measured on first use.

    They are kept in `lmf.io.files.cache_folder`, in one file for each compiled kernel, shape of the MLP and number of
    threads. A damaged file, or one of another machine, is measured again.

    Returns:
        The costs; None if the machine was too busy to measure them, or if no compiled kernel renders all levels at
        once. Pixels then cost so much that the rest does not count.
    """
    inputs = painter.decoder.kernel_inputs(painter.latent, cell)
    out = cell.new_empty(3, 0, 0)
    if inputs is None or not kernels.layered(out, inputs.modulation, inputs.weights, inputs.encoding):
        return None
    shape = inputs.encoding, *inputs.weights.bias.shape, *inputs.weights.first.shape, inputs.modulation.dtype
    case = *shape, inputs.image is not None, overlap, torch.get_num_threads()
    with _LOCK:
        if case not in _KNOWN:
            key = f"{Path(getattr(library(), '_name', '')).name}, torch {torch.__version__}, {case}"
            figures = kept("cmsr", key, FIGURES, lambda: measure(painter.decoder, painter.latent, overlap))
            _KNOWN[case] = None if figures is None else Costs(**figures)
        return _KNOWN[case]


@torch.inference_mode()
def measure(decoder: Decoder, latent: Latent, overlap: bool) -> dict[str, float] | None:
    """Measure the costs in some tenths of a second, and return the attributes of `Costs`.

    Args:
        decoder: the decoder.
        latent: any latent of one image, which is repeated or cut to the sizes that are measured.
        overlap: see `lmf.renderers.CMSR`.

    Returns:
        None if other load on the machine spoils them.
    """
    large, small = (Bench.of(decoder, latent, side, overlap) for side in (LARGE, SMALL))
    cases = [*((large, table) for table in (TABLE, *TABLES)), *((small, table) for table in (TABLE, TABLES[0]))]
    works, calls = zip(*((bench.levels(table), partial(bench.levels, table)) for bench, table in cases), strict=True)
    (short, long, sampling, *seconds), steady = turns([small.dense, large.dense, large.probe, *calls])
    pixel = max(0.0, (long - short) / (large.pixels - small.pixels))
    call = max(0.0, short - small.pixels * pixel)
    costs = Costs(dense_call=call, dense_pixel=pixel, query=sampling / large.probe(), **fit(works, seconds))
    return asdict(costs) if steady else None


@dataclass(frozen=True)
class Bench:
    """A square picture with smooth modulation intensities to measure on."""

    painter: Painter
    target: Grid
    cell: Tensor
    strength: Tensor
    overlap: bool

    @classmethod
    def of(cls, decoder: Decoder, latent: Latent, side: int, overlap: bool) -> Bench:
        """Return a picture of ``side`` latents per side."""
        target, latent = Grid.of(SCALE * side, SCALE * side), resized(latent, side)
        like = next(iter(latent.tensors().values()))
        dtype = torch.promote_types(like.dtype, torch.float32)
        cell = decoder.cell(target, (side, side), 1, like.device, dtype)
        noise = torch.rand(1, 1, side // 4, side // 4, generator=torch.Generator().manual_seed(0))
        ranks = F.interpolate(noise, (side, side), mode="bilinear").flatten().argsort().argsort()
        return cls(Painter(decoder, latent, Dense().queries), target, cell, ranks.view(side, side) / side**2, overlap)

    @property
    def pixels(self) -> int:
        """Number of output pixels."""
        return math.prod(self.target.size)

    def dense(self) -> None:
        """Render all pixels."""
        self.painter.picture(self.target, self.cell)

    def levels(self, table: Table) -> Work:
        """Render in levels, with all that belongs to it, and return the work."""
        intensity(self.painter.decoder, self.painter.latent)
        work = Work.of(table, SCALE, self.strength, self.target, self.overlap)
        levels = levels_of(table, SCALE, self.strength, self.target, self.overlap)
        self.painter.paint_levels(self.cell.new_empty(3, *self.target.size), self.target, self.cell, levels)
        return work

    def probe(self) -> int:
        """Sample pixels at the levels of `TABLE` and return their number."""
        decoder, latent = self.painter.decoder, self.painter.latent
        return Probe(decoder, latent, self.target, self.cell, self.strength, SCALE, TABLE.bounds).queries


def resized(latent: Latent, side: int) -> Latent:
    """Repeat or cut the maps of ``latent`` to ``side`` x ``side`` latents."""
    rows, cols = (torch.arange(side) % n for n in latent.size)
    maps: dict[str, Any] = {
        name: value[..., rows[:, None], cols] if name == "image" else value[:, rows[:, None], cols]
        for name, value in latent.tensors().items()
    }
    return replace(latent, size=(side, side), **maps)


def fit(works: Sequence[Work], seconds: Sequence[float]) -> dict[str, float]:
    """Fit the costs of rendering in levels, none of them negative, with the least relative error."""
    rows = np.array([[1, work.levels, work.coarse, work.fine, work.enlarged] for work in works])
    rows = rows / np.array(seconds)[:, None]
    kept = list(range(len(NAMES)))
    while True:
        found = np.linalg.lstsq(rows[:, kept], np.ones(len(rows)), rcond=None)[0]
        if (found >= 0).all():
            return dict.fromkeys(NAMES, 0.0) | {NAMES[i]: float(x) for i, x in zip(kept, found, strict=True)}
        kept = [i for i, x in zip(kept, found, strict=True) if x >= 0]
