"""Renders with the compiled CPU kernel (tile.h, render.cpp)."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lmf.grid import Grid
from lmf.kernels.build import library
from lmf.kernels.enlarge import along
from lmf.kernels.layout import Weights, fold, strided
from lmf.kernels.native import Kept, Layer, Problem, Region, Taps
from lmf.kernels.region import Layer as PictureLayer

LAYERS = True  # whether `render_layers` exists


def serves(modulation: Tensor, weights: Weights, encoding: str) -> bool:
    """Return whether this implementation supports these tensors here."""
    width, in_dim = weights.first.shape
    return (
        width in (16, 32)
        and weights.out.shape[0] == 3
        and (encoding == "linear" or in_dim % max(width, 16) == 0)
        and modulation.dtype in (torch.float32, torch.float64)
        and modulation.device.type == "cpu"
        and library() is not None
    )


def render(modulation: Tensor, code: Tensor, extra: Tensor, coord: Tensor, weights: Weights, encoding: str) -> Tensor:
    """Render scattered coordinates; see `lmf.kernels.render`."""
    rgb = coord.new_empty(*coord.shape[:2], 3)
    if rgb.numel():
        rows = rows_around(coord[..., 0], modulation.shape[1])
        call = Call(modulation, code, extra, weights, encoding, rgb.numel() // 3, rows)
        call("points", call.address(coord), coord.shape[1], call.address(rgb))
    return rgb


def backward(
    grad: Tensor, modulation: Tensor, code: Tensor, extra: Tensor, coord: Tensor, weights: Weights, encoding: str
) -> tuple[Tensor, ...]:
    """Compute the gradients of `render`; see `lmf.kernels.reference.backward`."""
    call = Call(modulation, code, extra, weights, encoding, grad.numel() // 3)
    (b, h, w, _), (depth, width), (_, in_dim) = modulation.shape, weights.bias.shape, weights.first.shape
    rows, phases = (2, 0) if encoding == "linear" else (in_dim, in_dim // 2)
    sizes = [rows * width, weights.hidden.numel(), depth * width, 3 * width, 3, b * phases]
    to_modulation = modulation.new_zeros(modulation.shape)
    to_code = code.new_zeros(b, h, w, width if encoding == "linear" else code.shape[-1])
    partial = code.new_zeros(call.problem.threads, sum(sizes))
    call.problem.grad_modulation, call.problem.grad_code = call.address(to_modulation), call.address(to_code)
    call.problem.grads = call.address(partial)
    call("points_backward", call.address(coord), coord.shape[1], call.address(grad))
    first, hidden, bias, out, to_out_bias, phase = partial.sum(0).split(sizes)
    to_first, to_extra = first.view(rows, width).T, phase.view(b, phases)
    if encoding == "linear":
        k = code.shape[-1]
        to_image = to_code.sum((1, 2))  # (B, D)
        to_rest = [to_code.flatten(0, 2).T @ code.flatten(0, 2), to_first, to_image.T @ extra]
        to_first, to_extra = torch.cat(to_rest, dim=1), to_image @ weights.first[:, k + 2 :]
        to_code = to_code @ weights.first[:, :k]
    to_hidden = hidden.view(-1, width, width).transpose(1, 2)
    grads = (to_first, to_hidden, out.view(3, width), bias.view(depth, width), to_out_bias)
    return to_modulation, to_code, to_extra, *(g.clone(memory_format=torch.contiguous_format) for g in grads)


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
    if rgb.numel():
        rows = rows_around(y, modulation.shape[1])
        call = Call(modulation, code, extra, weights, encoding, rgb.numel() // 3, rows)
        axes = call.address(y), len(y), call.address(x), len(x)
        call("grid", *axes, *call.image(image), call.address(rgb))
    return rgb


def render_layers(
    out: Tensor,
    target: Grid,
    layers: Sequence[PictureLayer],
    modulation: Tensor,
    code: Tensor,
    extra: Tensor,
    image: Tensor | None,
    weights: Weights,
    encoding: str,
) -> None:
    """Render layers into a picture; see `lmf.kernels.render_layers`."""
    axes = [[t.to(modulation.dtype) for t in layer.grid.axes(modulation.device)] for layer in layers]
    rows = rows_around(torch.cat([y for y, _ in axes]), modulation.shape[1])
    # `extra` differs between layers. It goes into the bias of the first layer, so that all share the folded latents.
    nothing = torch.zeros_like(extra[:1])
    call = Call(
        modulation, code, nothing if encoding == "linear" else extra, weights, encoding, math.prod(target.size), rows
    )
    native = (Layer * len(layers))()
    biases = weights.bias.repeat(len(layers), 1, 1)
    if encoding == "linear":
        biases[:, 0] += extra @ weights.first[:, code.shape[-1] + 2 :].T
    for own, layer, (y, x), bias, more in zip(native, layers, axes, biases, extra, strict=True):
        own.problem = call.problem
        own.problem.bias = call.address(bias)
        if encoding != "linear":
            own.problem.phase = call.address(more)
        own.y, own.x, own.height, own.width = call.address(y), call.address(x), len(y), len(x)
        own.part = Region.of(call, layer.part)
        if layer.shown is not None:
            own.shown = Region.of(call, layer.shown)
            own.rows, own.columns = (Taps.of(call, along(layer.grid, target, axis, y)) for axis in (0, 1))
    band = min(max(1, round(target.cells[0] / modulation.shape[1])), target.size[0])
    wrong = call("layers", native, len(layers), *call.image(image), call.address(out), *target.size, band)
    if wrong:
        raise ValueError(f"a layer's {wrong.decode()} has rows or columns outside its grid, or out of order")


def rows_around(y: Tensor, cells: int) -> tuple[int, int]:
    """Return a half-open range of latent rows that covers those which ``y`` (not empty) reads."""
    first, last = ((float(v) + 1) * cells / 2 for v in torch.aminmax(y))
    if not math.isfinite(first + last):
        return 0, cells
    more = 2 + math.ceil(cells * 1e-6)  # for neighbours and rounding, and for the shift of 1e-6 towards them
    return max(0, min(math.floor(first) - more, cells - 1)), min(cells, max(1, math.ceil(last) + more))


class Call(Kept):
    """A call of the library: its `Problem` and the tensors that it points to."""

    def __init__(
        self,
        modulation: Tensor,
        code: Tensor,
        extra: Tensor,
        weights: Weights,
        encoding: str,
        queries: int,
        rows: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        (b, h, w, _), (depth, width) = modulation.shape, weights.bias.shape
        start, stop = rows or (0, h)
        modulation, code, features = modulation[:, start:stop], code[:, start:stop], 0
        first, phase = weights.first, None
        if encoding == "linear":
            code, first = fold(code, extra, first)
        else:
            features, phase = first.shape[1], extra
        self.suffix = f"{'double' if modulation.dtype == torch.float64 else 'float'}_{width}"
        modulation, code = strided(modulation), strided(code)
        self.problem = Problem(
            batch=b,
            height=h,
            width=w,
            row=start,
            rows=stop - start,
            depth=depth,
            features=features,
            threads=max(1, min(torch.get_num_threads(), queries // 512)),
            batch_stride=modulation.stride(0),
            stride=modulation.stride(2),
            code_batch_stride=code.stride(0),
            code_stride=code.stride(2),
            modulation=self.strided(modulation),
            code=self.strided(code),
            phase=self.address(phase),
            first=self.address(first.T),
            hidden=self.address(weights.hidden.transpose(1, 2)),
            out=self.address(F.pad(weights.out.T, (0, 1))),
            bias=self.address(weights.bias),
            out_bias=self.address(F.pad(weights.out_bias, (0, 1))),
            first_back=self.address(first),
            hidden_back=self.address(weights.hidden),
            out_back=self.address(weights.out),
        )

    def image(self, image: Tensor | None) -> tuple[int | None, int, int]:
        """Return the address, height and width of an image (B, 3, h, w); None and zeros for None."""
        return (None, 0, 0) if image is None else (self.address(image), image.shape[2], image.shape[3])

    def __call__(self, function: str, *args: Any) -> Any:
        return getattr(library(), f"{function}_{self.suffix}")(ctypes.byref(self.problem), *args)
