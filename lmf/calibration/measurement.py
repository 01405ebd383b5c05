"""Measurement of the errors of multi-scale rendering on one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from lmf.calibration.estimators import Array, Errors
from lmf.calibration.painter import RememberingPainter
from lmf.grid import Size, axis
from lmf.io.colour import to_network
from lmf.kernels.enlarge import enlarge
from lmf.model import SRModel
from lmf.renderers import CMSR, Dense, Tables
from lmf.renderers.cmsr.levels import intensity, level_grid, owner, touched
from lmf.renderers.cmsr.tables import Table


@torch.inference_mode()
def measure(
    model: SRModel, lr: Tensor, size: Size, levels: list[float], *, clip: bool = True, skip: bool = True
) -> Errors:
    """Measure the errors of rendering a picture at each of ``levels``, per latent.

    Args:
        model: the model to render with.
        lr: (3, h, w) in [0, 1].
        size: output (H, W).
        levels: scales to render at; those at or above the scale of the enlargement are ignored.
        clip: whether to clip the cell at each level as in rendering. The released code clips only the target's cell.
        skip: whether to add the bilinear skip, if the decoder has one.
    """
    enlargement = model.prepare(on_device(model, lr), size)
    latent, target, cell = enlargement.latent(), enlargement.target, enlargement.cell
    h, w = latent.size
    strength = intensity(model.decoder, latent)[0]
    if not skip:
        latent = replace(latent, image=None)
    rows = owner(axis(target.cells[0], *target.rows), h)
    cols = owner(axis(target.cells[1], *target.cols), w)

    def by_latent(x: Tensor) -> Array:
        """Sum ``x`` (rows, cols) over the pixels of each latent: (h w,), on the CPU, which always has float64."""
        x = x.cpu().double()
        x = x.new_zeros(h, x.shape[1]).index_add_(0, rows, x)
        return x.new_zeros(h, w).index_add_(1, cols, x).flatten().numpy()

    exact = Dense()(model.decoder, latent, target, cell)[0]
    squares = {}
    for level in levels:
        if level * h >= target.cells[0] or level * w >= target.cells[1]:
            continue
        at = level_grid(level, target, latent.size, *touched(target, latent.size))
        level_cell = (
            model.decoder.cell(at, latent.size, 1, cell.device, cell.dtype) if clip else cell.new_tensor([at.cell])
        )
        coarse = enlarge(Dense()(model.decoder, latent, at, level_cell)[0], at, target)
        squares[level] = by_latent((coarse - exact).square().sum(dim=0))
    pixels = by_latent(torch.ones(target.size))
    return Errors(strength.flatten().float().numpy(), pixels, squares)


@torch.inference_mode()
def outcome(
    model: SRModel, lr: Tensor, size: Size, tables: Sequence[Table], overlap: bool
) -> tuple[list[float], list[int]]:
    """Render a picture with each of ``tables``.

    Args:
        model: the model to render with.
        lr: (3, h, w) in [0, 1].
        size: output (H, W).
        tables: the tables to try.
        overlap: see `lmf.renderers.CMSR`.

    Returns:
        For each table, the sum of squared differences from dense rendering in network units, and the number of rendered
        pixels.
    """
    enlargement = model.prepare(on_device(model, lr), size)
    latent, target, cell = enlargement.latent(), enlargement.target, enlargement.cell
    painter = RememberingPainter(model.decoder, latent, Dense().queries)
    exact, strength = painter.picture(target, cell), intensity(model.decoder, latent)[0]
    out = torch.empty_like(exact)
    found: dict[str, tuple[float, int]] = {}
    for table in tables:
        if str(table.bounds) not in found:
            renderer = CMSR(Tables({1: [table]}), overlap=overlap, above=0, dense="never")
            levels = renderer.plan(strength, target)
            stats = painter.paint_levels(out, target, cell, levels)
            found[str(table.bounds)] = mse_loss(out, exact).item() * exact.numel(), sum(stats.rendered)
    squares, rendered = zip(*(found[str(table.bounds)] for table in tables), strict=True)
    return list(squares), list(rendered)


def on_device(model: SRModel, lr: Tensor) -> Tensor:
    """Convert ``lr`` (3, h, w) in [0, 1] to a batch in network units on the model's device."""
    return to_network(lr[None].to(model.device))
