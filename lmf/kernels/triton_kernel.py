"""Renders on CUDA with one Triton kernel, whose programs render `PIXELS` queries of an image each from registers.

A row of its matrices is one of the four neighbours of a query. A weight matrix is therefore read once for 4 `PIXELS`
rows. Products run on tensor cores as three TF32 products each, which keeps the accuracy of float32 (about 1e-6 of the
output); plain TF32 has errors of 1e-3.
"""

# Triton assigns types to the parameters of kernels when it compiles them, and its decorators have no types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from lmf.kernels.layout import Weights, fold, strided
from lmf.kernels.reference import backward

__all__ = ["LAYERS", "backward", "render", "render_grid", "serves"]

LAYERS = False  # whether `render_layers` exists
PIXELS = 32
MOST = 2**31 - PIXELS  # the kernel counts queries in 32 bits
PRECISION = "tf32x3"


def serves(modulation: Tensor, weights: Weights, encoding: str) -> bool:
    """Return whether this implementation supports these tensors here."""
    width, in_dim = weights.first.shape
    return (
        (modulation.is_cuda or bool(knobs.runtime.interpret))
        and modulation.dtype == torch.float32
        and width in (16, 32)
        and weights.out.shape[0] == 3
        and (encoding == "linear" or in_dim % 16 == 0)
    )


def render(modulation: Tensor, code: Tensor, extra: Tensor, coord: Tensor, weights: Weights, encoding: str) -> Tensor:
    """Render scattered coordinates; see `lmf.kernels.render`."""
    rgb = coord.new_empty(*coord.shape[:2], 3)
    launch(modulation, code, extra, coord.contiguous(), None, None, rgb, coord.shape[1], weights, encoding)
    return rgb


def render_grid(
    modulation: Tensor,
    code: Tensor,
    extra: Tensor,
    y: Tensor,
    x: Tensor,
    image: Tensor | None,
    weights: Weights,
    encoding: str,
) -> Tensor:
    """Render a pixel grid; see `lmf.kernels.render_grid`."""
    rgb = y.new_empty(len(modulation), 3, len(y), len(x))
    image = None if image is None else image.contiguous()
    launch(modulation, code, extra, y.contiguous(), x.contiguous(), image, rgb, len(y) * len(x), weights, encoding)
    return rgb


def launch(
    modulation: Tensor,
    code: Tensor,
    extra: Tensor,
    y: Tensor,
    x: Tensor | None,
    image: Tensor | None,
    rgb: Tensor,
    queries: int,
    weights: Weights,
    encoding: str,
) -> None:
    """Run the kernel for ``queries`` queries per image and write the colours to ``rgb``.

    Raises:
        ValueError: if there are more than `MOST` queries per image.
    """
    if not rgb.numel():
        return
    if queries > MOST:
        raise ValueError(f"Triton renders at most {MOST} pixels of an image at once, got {queries}")
    (b, h, w, _), (depth, width) = modulation.shape, weights.bias.shape
    first, features = weights.first, 0
    if encoding == "linear":
        code, first = fold(code, extra, first)
    else:
        features = first.shape[1]
    modulation, code = strided(modulation), strided(code)
    rows, cols = image.shape[-2:] if image is not None else (0, 0)
    kernel[(triton.cdiv(queries, PIXELS), b)](
        modulation,
        code,
        extra.contiguous(),
        y,
        y if x is None else x,
        rgb if image is None else image,
        rgb,
        first.T.contiguous(),
        weights.hidden.transpose(1, 2).contiguous() if depth > 1 else first,
        weights.out.contiguous(),
        weights.bias.contiguous(),
        weights.out_bias.contiguous(),
        queries,
        0 if x is None else len(x),
        h,
        w,
        *axis_constants(h),
        *axis_constants(w),
        modulation.stride(0),
        modulation.stride(2),
        code.stride(0),
        code.stride(2),
        rows,
        cols,
        D=width,
        L=depth,
        M=features,
        GRID=x is not None,
        SKIP=image is not None,
        PIXELS=PIXELS,
        PRECISION=PRECISION,
        enable_fp_fusion=False,  # fusion would round ties between neighbours differently than other devices
    )


def axis_constants(cells: int) -> tuple[float, float, float, float]:
    """Return the constants of `locate`: shifts towards both neighbours, and step and start of the latents."""
    return -1 / cells + 1e-6, 1 / cells + 1e-6, 2 / cells, -1 + 1 / cells


@triton.jit
def locate(c, shift, step, start, n):
    """Return the latent on one side of coordinate c along an axis, and c relative to it, as in `lmf.grid.ensemble`."""
    s = tl.minimum(tl.maximum(c + shift, -1 + 1e-6), 1 - 1e-6)
    i = ((s + 1) * n - 1) * 0.5
    i = (i + 12582912.0) - 12582912.0  # 1.5 * 2^23: rounds half to even
    i = tl.where(i > 0, tl.minimum(i, n - 1.0), 0.0)  # NaN maps to a latent as well
    return i.to(tl.int32), (c - (i * step + start)) * n


@triton.jit
def sample(c, n):
    """Return two indices along an axis and the weight of the second, for bilinear sampling with the border repeated."""
    v = ((c + 1) * n - 1) * 0.5
    v = tl.where(v > 0, tl.minimum(v, n - 1.0), 0.0)  # NaN maps to a pixel as well
    i = v.to(tl.int32)
    return i, tl.minimum(i + 1, n - 1), v - i


@triton.jit
def modulate(a, modulation, layer, D: tl.constexpr, L: tl.constexpr):
    """Compute relu(a * (1 + scale) + shift) for a (rows, D); modulation points to the numbers of each row."""
    at = modulation[:, None] + (layer * D + tl.arange(0, D))[None, :]
    return tl.maximum(a * (1 + tl.load(at)) + tl.load(at + L * D), 0.0)


@triton.jit
def kernel(
    modulation,
    code,
    extra,
    y,
    x,
    image,
    rgb,
    first,
    hidden,
    out,
    bias,
    out_bias,
    queries,
    columns,
    h,
    w,
    above,
    below,
    y_step,
    y_start,
    left,
    right,
    x_step,
    x_start,
    batch_stride,
    stride,
    code_batch_stride,
    code_stride,
    image_rows,
    image_cols,
    D: tl.constexpr,
    L: tl.constexpr,
    M: tl.constexpr,
    GRID: tl.constexpr,
    SKIP: tl.constexpr,
    PIXELS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Render `PIXELS` queries of one image."""
    b = tl.program_id(1).to(tl.int64)
    row = tl.arange(0, 4 * PIXELS)
    q = tl.minimum(tl.program_id(0) * PIXELS + row // 4, queries - 1)
    if GRID:
        cy = tl.load(y + q // columns)
        cx = tl.load(x + q % columns)
    else:
        cy = tl.load(y + (b * queries + q) * 2)
        cx = tl.load(y + (b * queries + q) * 2 + 1)

    # The neighbour of each row and its weight in the ensemble, the area towards the opposite neighbour.
    up, ry_up = locate(cy, above, y_step, y_start, h)
    down, ry_down = locate(cy, below, y_step, y_start, h)
    west, rx_west = locate(cx, left, x_step, x_start, w)
    east, rx_east = locate(cx, right, x_step, x_start, w)
    lower = row % 4 >= 2
    eastern = row % 2 == 1
    ry = tl.where(lower, ry_down, ry_up)
    rx = tl.where(eastern, rx_east, rx_west)
    at = (tl.where(lower, down, up) * w + tl.where(eastern, east, west)).to(tl.int64)
    opposite = tl.abs(tl.where(lower, ry_up, ry_down) * tl.where(eastern, rx_west, rx_east)) + 1e-9
    total = (tl.abs(ry_up * rx_west) + 1e-9) + (tl.abs(ry_up * rx_east) + 1e-9)
    total = total + (tl.abs(ry_down * rx_west) + 1e-9) + (tl.abs(ry_down * rx_east) + 1e-9)
    weight = opposite / total

    d = tl.arange(0, D)
    own_modulation = modulation + b * batch_stride + at * stride
    own_code = code + b * code_batch_stride + at * code_stride
    a = tl.zeros((4 * PIXELS, D), tl.float32) + tl.load(bias + d)[None, :]
    if M == 0:
        a += tl.load(own_code[:, None] + d[None, :])
        a += ry[:, None] * tl.load(first + d)[None, :] + rx[:, None] * tl.load(first + D + d)[None, :]
    else:
        for start in range(0, M, 16):
            k = start + tl.arange(0, 16)
            wave = own_code[:, None] + (M + k % (M // 2))[None, :]
            f = tl.load(wave) * ry[:, None] + tl.load(wave + M // 2) * rx[:, None]
            f += tl.load(extra + b * (M // 2) + k % (M // 2))[None, :]
            angle = (f - 2 * ((f * 0.5 + 12582912.0) - 12582912.0)) * 3.141592653589793
            z = tl.load(own_code[:, None] + k[None, :]) * tl.where(k[None, :] < M // 2, tl.cos(angle), tl.sin(angle))
            a = tl.dot(z, tl.load(first + k[:, None] * D + d[None, :]), a, input_precision=PRECISION)
    a = modulate(a, own_modulation, 0, D, L)
    for layer in tl.static_range(1, L):
        matrix = tl.load(hidden + (layer - 1) * D * D + d[:, None] * D + d[None, :])
        a = tl.dot(a, matrix, input_precision=PRECISION) + tl.load(bias + layer * D + d)[None, :]
        a = modulate(a, own_modulation, layer, D, L)
    blend = tl.sum(tl.reshape(a * weight[:, None], (PIXELS, 4, D)), axis=1)

    q = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    inside = q < queries
    if SKIP:
        upper, under, fy = sample(tl.load(y + tl.minimum(q, queries - 1) // columns), image_rows)
        before, after, fx = sample(tl.load(x + q % columns), image_cols)
    for c in tl.static_range(3):
        colour = tl.sum(blend * tl.load(out + c * D + d)[None, :], axis=1) + tl.load(out_bias + c)
        if SKIP:
            plane = image + (b * 3 + c) * image_rows * image_cols
            top = tl.load(plane + upper * image_cols + before)
            top += fx * (tl.load(plane + upper * image_cols + after) - top)
            bottom = tl.load(plane + under * image_cols + before)
            bottom += fx * (tl.load(plane + under * image_cols + after) - bottom)
            colour += top + fy * (bottom - top)
        if GRID:
            tl.store(rgb + (b * 3 + c) * queries + q, colour, mask=inside)
        else:
            tl.store(rgb + (b * queries + q) * 3 + c, colour, mask=inside)
