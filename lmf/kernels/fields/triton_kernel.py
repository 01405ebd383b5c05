"""Renders heat fields on CUDA with one Triton kernel, whose programs render `PIXELS` places of an image each."""

# Triton assigns types to the parameters of kernels when it compiles them, and its decorators have no types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

PIXELS = 32
MOST = 2**31 - PIXELS  # the kernel counts places in 32 bits


def serves(latents: Tensor) -> bool:
    """Return whether this implementation supports these tensors here."""
    return (
        (latents.is_cuda or bool(knobs.runtime.interpret))
        and latents.dtype == torch.float32
        and latents.shape[-1] % 64 == 0
    )


def render(latents: Tensor, frequencies: Tensor, decay: Tensor, base: Tensor, index: Tensor, offset: Tensor) -> Tensor:
    """Render scattered places; see `lmf.kernels.fields.render`."""
    rgb = latents.new_empty(*index.shape, 3)
    launch(latents, frequencies, decay, base, (index, offset, index, offset), rgb, index.shape[1], 0)
    return rgb


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
    """Render a grid; see `lmf.kernels.fields.render_grid`."""
    rgb = latents.new_empty(len(latents), 3, len(row), len(column))
    places = row, row_offset, column, column_offset
    launch(latents, frequencies, decay, base, places, rgb, len(row) * len(column), len(column))
    return rgb


def launch(
    latents: Tensor,
    frequencies: Tensor,
    decay: Tensor,
    base: Tensor,
    places: tuple[Tensor, Tensor, Tensor, Tensor],
    rgb: Tensor,
    count: int,
    columns: int,
) -> None:
    """Run the kernel for ``count`` places per image, on a grid of ``columns`` unless that is 0.

    Raises:
        ValueError: if there are more than `MOST` places per image.
    """
    if not rgb.numel():
        return
    if count > MOST:
        raise ValueError(f"Triton renders at most {MOST} pixels of an image at once, got {count}")
    b, h, w, numbers = latents.shape
    tensors = (latents, frequencies, decay, base, *places)
    kernel[(triton.cdiv(count, PIXELS), b)](
        *(t.contiguous() for t in tensors),
        rgb,
        count,
        columns,
        h,
        w,
        N=numbers // 4,
        GRID=columns > 0,
        PIXELS=PIXELS,
        WAVES=16,
    )


@triton.jit
def kernel(
    latents,
    frequencies,
    decay,
    base,
    row,
    row_offset,
    column,
    column_offset,
    rgb,
    count,
    columns,
    h,
    w,
    N: tl.constexpr,
    GRID: tl.constexpr,
    PIXELS: tl.constexpr,
    WAVES: tl.constexpr,
):
    """Render `PIXELS` places of one image; scattered places have flat indices in row and pairs in row_offset."""
    b = tl.program_id(1).to(tl.int64)
    q = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    inside = q < count
    q = tl.minimum(q, count - 1)
    if GRID:
        i = tl.minimum(tl.maximum(tl.load(row + q // columns), 0), h - 1)
        j = tl.minimum(tl.maximum(tl.load(column + q % columns), 0), w - 1)
        at = i * w + j
        y = tl.load(row_offset + q // columns)
        x = tl.load(column_offset + q % columns)
    else:
        at = tl.minimum(tl.maximum(tl.load(row + b * count + q), 0), h * w - 1)
        y = tl.load(row_offset + (b * count + q) * 2)
        x = tl.load(row_offset + (b * count + q) * 2 + 1)
    own = latents + (b * h * w + at) * (4 * N)  # (PIXELS,) pointers
    red = tl.zeros((PIXELS,), tl.float32)
    green = tl.zeros((PIXELS,), tl.float32)
    blue = tl.zeros((PIXELS,), tl.float32)
    for start in range(0, N, WAVES):
        n = start + tl.arange(0, WAVES)
        angle = y[:, None] * tl.load(frequencies + n)[None, :] + x[:, None] * tl.load(frequencies + N + n)[None, :]
        numbers = own[:, None] + n[None, :]
        wave = tl.sin(angle + tl.load(numbers + 3 * N)) * tl.load(decay + b * N + n)[None, :]
        red += tl.sum(wave * tl.load(numbers), axis=1)
        green += tl.sum(wave * tl.load(numbers + N), axis=1)
        blue += tl.sum(wave * tl.load(numbers + 2 * N), axis=1)
    below = base + b * 3 * h * w + at
    if GRID:
        out, step = rgb + b * 3 * count + q, count
    else:
        out, step = rgb + (b * count + q) * 3, 1
    tl.store(out, red + tl.load(below), mask=inside)
    tl.store(out + step, green + tl.load(below + h * w), mask=inside)
    tl.store(out + 2 * step, blue + tl.load(below + 2 * h * w), mask=inside)
