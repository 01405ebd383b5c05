"""Defines heat fields in plain PyTorch: readable, differentiable, and the reference for the tests of the kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from lmf import grid
from lmf.grid import Position

GATHERED = 1 << 24  # numbers of latents to gather at a time


def serves(latents: Tensor) -> bool:
    """Return True: this implementation supports all tensors."""
    return True


def render(latents: Tensor, frequencies: Tensor, decay: Tensor, base: Tensor, index: Tensor, offset: Tensor) -> Tensor:
    """Render scattered places; see `lmf.kernels.fields.render`."""
    tensors = latents, frequencies, decay, base
    if torch.is_grad_enabled() or torch.compiler.is_exporting() or not index.numel():
        return gathered(*tensors, index, offset)
    step = max(1, GATHERED // (len(index) * latents.shape[-1]))
    parts = zip(index.split(step, dim=1), offset.split(step, dim=1), strict=True)
    return torch.cat([gathered(*tensors, *part) for part in parts], dim=1)


def gathered(
    latents: Tensor, frequencies: Tensor, decay: Tensor, base: Tensor, index: Tensor, offset: Tensor
) -> Tensor:
    """Render scattered places with a copy of the latent of each."""
    amplitudes, phase = unpack(grid.take(latents, index))  # (B, Q, 3, N), (B, Q, N)
    wave = (offset @ frequencies + phase).sin() * decay[:, None]
    return (amplitudes @ wave[..., None]).squeeze(-1) + grid.take(base.permute(0, 2, 3, 1), index)


def render_grid(
    latents: Tensor,
    frequencies: Tensor,
    decay: Tensor,
    base: Tensor,
    row: Tensor,
    row_offset: Tensor,
    column: Tensor,
    column_offset: Tensor,
) -> Tensor:
    """Render a grid in bands of rows; see `lmf.kernels.fields.render_grid`.

    If all latent cells hold the same places, as at whole-number scales, no sine is computed for a pixel: a matrix
    product adds up the field, because ``sin(z + p) = sin(z) cos(p) + cos(z) sin(p)``.
    """
    b, _, w, numbers = latents.shape
    if not len(row) or not len(column):
        return latents.new_empty(b, 3, len(row), len(column))
    rows, columns = Position(row, row_offset), Position(column, column_offset)
    high, wide = repeats(rows), repeats(columns)
    bands = []
    if high and wide:
        table = sines(rows.offset[:high], columns.offset[:wide], frequencies)  # (2 N, high * wide)
        cells = slice(int(column[0]), int(column[0]) + len(column) // wide)
        for line in row[::high].split(max(1, GATHERED // max(1, b * (len(column) // wide) * numbers))):
            at = slice(int(line[0]), int(line[0]) + len(line))
            field = matrices(latents[:, at, cells], decay) @ table  # (B, rows, cols, 3, high * wide)
            field = field.unflatten(-1, (high, wide)) + base[:, :, at, cells].permute(0, 2, 3, 1)[..., None, None]
            bands.append(field.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3))
        return torch.cat(bands, dim=2)
    for band, place in zip(
        *(t.split(max(1, GATHERED // max(1, b * len(column) * numbers))) for t in rows), strict=True
    ):
        index = (band[:, None] * w + column).flatten().expand(b, -1)
        offset = torch.stack(torch.meshgrid(place, column_offset, indexing="ij"), dim=-1).flatten(0, 1)
        rgb = render(latents, frequencies, decay, base, index, offset.expand(b, -1, 2))
        bands.append(rgb.transpose(1, 2).unflatten(2, (len(band), len(column))))
    return torch.cat(bands, dim=2)


def unpack(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Split latents (..., 4 N) into amplitudes (..., 3, N) and phases (..., N)."""
    parts = latents.unflatten(-1, (4, -1))
    return parts[..., :3, :], parts[..., 3, :]


def matrices(latents: Tensor, decay: Tensor) -> Tensor:
    """Return the amplitudes of `sines` for each latent: (B, h, w, 3, 2 N)."""
    amplitudes, phase = unpack(latents)
    amplitudes = amplitudes * decay[:, None, None, None]
    phase = phase[..., None, :]
    return torch.cat([amplitudes * phase.cos(), amplitudes * phase.sin()], dim=-1)


def sines(y: Tensor, x: Tensor, frequencies: Tensor) -> Tensor:
    """Return the sines, then the cosines of all frequencies at the crossings of offsets: (2 N, rows * cols)."""
    place = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flatten(0, 1)
    angle = (place @ frequencies).T
    return torch.cat([angle.sin(), angle.cos()])


def repeats(places: Position) -> int | None:
    """Return how many places each cell of an axis holds, if the cells are neighbours and hold the same offsets."""
    numbers = places.number
    count = int((numbers == numbers[0]).sum())
    if len(numbers) % count:
        return None
    cells = torch.arange(len(numbers), device=numbers.device) // count + numbers[0]
    offsets = places.offset.view(-1, count)
    if not torch.equal(cells, numbers) or (offsets - offsets[0]).abs().max() > 1e-6:
        return None
    return count
