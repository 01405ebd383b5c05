"""Rendering of heat fields: sums of damped sine waves with amplitudes and phases of each latent (Thera).

`render` takes scattered places and `render_grid` pixel grids. There are three implementations: `reference` (plain
PyTorch, the definition), `cpu` (C++) and `triton_kernel` (CUDA). They are chosen as in `lmf.kernels`, and
`lmf.kernels.backend` overrides the choice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmf.grid import Position
from lmf.kernels.fields import ops, reference
from lmf.kernels.fields.checks import check_grid, check_latents, check_places

__all__ = ["render", "render_grid"]


def render(latents: Tensor, frequencies: Tensor, decay: Tensor, base: Tensor, index: Tensor, offset: Tensor) -> Tensor:
    """Render colours at scattered places.

    The colour at an offset o from the centre of a latent with amplitudes a and phases p is
    ``base + sum over n of a_n decay_n sin(o . frequencies_n + p_n)``.

    Args:
        latents: (B, h, w, 4 N), the amplitudes of red, green and blue (N each), then the phases (N).
        frequencies: (2, N), along y and x, in radians per latent cell.
        decay: (B, N), factor of each wave.
        base: (B, 3, h, w), colours to which the fields are added.
        index: int64 (B, Q), flat row-major index of the latent that holds each place. The kernels clamp it to the grid.
        offset: (B, Q, 2) as (y, x), position relative to the latent's centre; a latent cell spans 1 unit.

    Returns:
        (B, Q, 3), float64 if latents is float64, else float32. It is differentiable with respect to all arguments but
        ``index``.

    Raises:
        ValueError: if the shape or device of a tensor does not fit the others.
    """
    latents, frequencies, decay, base, offset = same_type(latents, frequencies, decay, base, offset)
    if plain(latents, frequencies, decay, base, offset):
        check_latents(latents, frequencies, decay, base)
        check_places(latents, index, offset)
        with torch.autocast(latents.device.type, enabled=False):
            return reference.render(latents, frequencies, decay, base, index, offset)
    rgb: Tensor = ops.render(latents, frequencies, decay, base, index, offset)
    return rgb


def render_grid(
    latents: Tensor, frequencies: Tensor, decay: Tensor, base: Tensor, rows: Position, columns: Position
) -> Tensor:
    """Render the pixels of a grid.

    Args:
        latents: see `render`.
        frequencies: see `render`.
        decay: see `render`.
        base: see `render`.
        rows: the rows of latents that hold the rows of pixels, and their offsets, see `lmf.grid.Grid.holders`.
        columns: the same for columns.

    Returns:
        (B, 3, rows, cols).

    Raises:
        ValueError: if the shape or device of a tensor does not fit the others.
    """
    latents, frequencies, decay, base, y, x = same_type(latents, frequencies, decay, base, rows.offset, columns.offset)
    axes = rows.number, y, columns.number, x
    if plain(latents, frequencies, decay, base):
        check_latents(latents, frequencies, decay, base)
        check_grid(latents, *axes)
        with torch.autocast(latents.device.type, enabled=False):
            return reference.render_grid(latents, frequencies, decay, base, *axes)
    rgb: Tensor = ops.render_grid(latents, frequencies, decay, base, *axes)
    return rgb


def plain(*tensors: Tensor) -> bool:
    """Return whether plain PyTorch must be used, because it is forced or a gradient is wanted."""
    return ops.forced() == "reference" or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))


def same_type(*tensors: Tensor) -> list[Tensor]:
    """Convert ``tensors`` to float64 if the first is float64, else to float32."""
    dtype = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    return [t.to(dtype) for t in tensors]
