"""Rendering by the compiled CPU kernel (tile.h, render.cpp)."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lmf import region
from lmf.grid import Grid
from lmf.kernels.build import library
from lmf.kernels.enlarge import along
from lmf.kernels.layout import fold, strided
from lmf.kernels.reference import Weights


class Problem(ctypes.Structure):
    """Mirrors ``struct Problem`` of tile.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "height", "width", "row", "rows", "depth", "features")),
        *((name, ctypes.c_int64) for name in ("stride", "batch_stride", "code_stride", "code_batch_stride", "threads")),
        *((name, ctypes.c_void_p) for name in ("modulation", "code", "phase", "first", "hidden", "out")),
        *((name, ctypes.c_void_p) for name in ("bias", "out_bias", "first_back", "hidden_back", "out_back")),
        *((name, ctypes.c_void_p) for name in ("grad_modulation", "grad_code", "grads")),
    ]


class Region(ctypes.Structure):
    """Mirrors ``struct Region`` of enlarge.h."""

    _fields_ = [*((name, ctypes.c_void_p) for name in ("rows", "first", "runs")), ("blocks", ctypes.c_int64)]

    @classmethod
    def of(cls, call: Call, own: region.Region) -> Region:
        return cls(*(call.address(t.contiguous()) for t in (own.rows, own.first, own.runs)), len(own.rows) - 1)


class Taps(ctypes.Structure):
    """Mirrors ``struct Taps`` of enlarge.h."""

    _fields_ = [*((name, ctypes.c_void_p) for name in ("first", "second", "weight")), ("count", ctypes.c_int64)]

    @classmethod
    def of(cls, call: Call, taps: tuple[Tensor, Tensor, Tensor]) -> Taps:
        return cls(*map(call.address, taps), len(taps[0]))


class Layer(ctypes.Structure):
    """Mirrors ``struct Layer`` of layers.h."""

    _fields_ = [
        ("problem", Problem),
        *((name, ctypes.c_void_p) for name in ("y", "x")),
        *((name, ctypes.c_int64) for name in ("height", "width")),
        *((name, Region) for name in ("part", "shown")),
        *((name, Taps) for name in ("rows", "columns")),
    ]


def serves(modulation: Tensor, weights: Weights, encoding: str) -> bool:
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
    rgb = coord.new_empty(*coord.shape[:2], 3)
    rows = rows_around(coord[..., 0], modulation.shape[1])
    call = Call(modulation, code, extra, weights, encoding, rgb.numel() // 3, rows)
    call("points", coord.contiguous(), coord.shape[1], rgb)
    return rgb


def backward(
    grad: Tensor, modulation: Tensor, code: Tensor, extra: Tensor, coord: Tensor, weights: Weights, encoding: str
) -> tuple[Tensor, ...]:
    call = Call(modulation, code, extra, weights, encoding, grad.numel() // 3)
    (b, h, w, _), (depth, width), (_, in_dim) = modulation.shape, weights.bias.shape, weights.first.shape
    rows, phases = (2, 0) if encoding == "linear" else (in_dim, in_dim // 2)
    sizes = [rows * width, weights.hidden.numel(), depth * width, 3 * width, 3, b * phases]
    to_modulation = modulation.new_zeros(modulation.shape)
    to_code = code.new_zeros(b, h, w, width if encoding == "linear" else code.shape[-1])
    partial = code.new_zeros(call.problem.threads, sum(sizes))
    call.point(grad_modulation=to_modulation, grad_code=to_code, grads=partial)
    call("points_backward", coord.contiguous(), coord.shape[1], grad.contiguous())
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
    height, width = len(y), len(x)
    rgb = y.new_empty(len(modulation), 3, height, width)
    rows = rows_around(y, modulation.shape[1])
    call = Call(modulation, code, extra, weights, encoding, rgb.numel() // 3, rows)
    size = (ctypes.c_int64 * 2)(*(image.shape[-2:] if image is not None else ()))
    call(
        "grid", y.contiguous(), height, x.contiguous(), width, image if image is None else image.contiguous(), size, rgb
    )
    return rgb


def render_layers(
    out: Tensor,
    target: Grid,
    layers: Sequence[region.Layer],
    modulation: Tensor,
    code: Tensor,
    extra: Tensor,
    image: Tensor | None,
    weights: Weights,
    encoding: str,
) -> None:
    """See `lmf.kernels.render_layers`."""
    axes = [[t.to(modulation.dtype) for t in layer.grid.axes(modulation.device)] for layer in layers]
    rows = rows_around(torch.cat([y for y, _ in axes]), modulation.shape[1])
    # What is one per image comes with the bias of the first layer, so that all levels share the folded latents.
    nothing = torch.zeros_like(extra[:1])
    call = Call(
        modulation, code, nothing if encoding == "linear" else extra, weights, encoding, math.prod(target.size), rows
    )
    native = (Layer * len(layers))()
    for own, layer, (y, x), more in zip(native, layers, axes, extra, strict=True):
        own.problem = call.problem
        if encoding == "linear":
            bias = weights.bias.clone()
            bias[0] += weights.first[:, code.shape[-1] + 2 :] @ more
            own.problem.bias = call.address(bias)
        else:
            own.problem.phase = call.address(more.contiguous())
        own.y, own.x, own.height, own.width = call.address(y), call.address(x), len(y), len(x)
        own.part = Region.of(call, layer.part)
        if layer.shown is not None:
            own.shown = Region.of(call, layer.shown)
            own.rows, own.columns = (Taps.of(call, along(layer.grid, target, axis, y)) for axis in (0, 1))
    size = (ctypes.c_int64 * 2)(*(image.shape[-2:] if image is not None else ()))
    image = image if image is None else image.contiguous()
    band = max(1, round(target.cells[0] / modulation.shape[1]))
    call("layers", native, len(layers), image, size, out, *target.size, band)


def rows_around(y: Tensor, cells: int) -> tuple[int, int]:
    """The half-open range of latent rows that ``y`` may touch, on the generous side."""
    if not y.numel():
        return 0, 0
    first, last = ((float(v) + 1) * cells / 2 for v in torch.aminmax(y))
    if not math.isfinite(first + last):
        return 0, cells
    return max(0, min(math.floor(first) - 2, cells)), min(cells, max(0, math.ceil(last) + 2))


class Call:
    """One call of the library: its `Problem`, and the tensors that this points into."""

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
        (b, h, w, _), (depth, width) = modulation.shape, weights.bias.shape
        start, stop = rows or (0, h)
        modulation, code, features = modulation[:, start:stop], code[:, start:stop], 0
        first, phase = weights.first, None
        if encoding == "linear":
            code, first = fold(code, extra, first)
        else:
            features, phase = first.shape[1], extra
        self.tensors: list[Tensor] = []
        self.suffix = f"{'double' if modulation.dtype == torch.float64 else 'float'}_{width}"
        self.problem = Problem(
            batch=b,
            height=h,
            width=w,
            row=start,
            rows=stop - start,
            depth=depth,
            features=features,
            threads=max(1, min(torch.get_num_threads(), queries // 512)),
        )
        modulation, code = strided(modulation), strided(code)
        self.problem.batch_stride, _, self.problem.stride, _ = modulation.stride()
        self.problem.code_batch_stride, _, self.problem.code_stride, _ = code.stride()
        self.point(modulation=modulation, code=code, phase=phase if phase is None else phase.contiguous())
        self.point(first=first.T.contiguous(), hidden=weights.hidden.transpose(1, 2).contiguous())
        self.point(
            out=F.pad(weights.out.T, (0, 1)), out_bias=F.pad(weights.out_bias, (0, 1)), bias=weights.bias.contiguous()
        )
        self.point(first_back=first.contiguous(), hidden_back=weights.hidden.contiguous())
        self.point(out_back=weights.out.contiguous())

    def point(self, **tensors: Tensor | None) -> None:
        for name, tensor in tensors.items():
            setattr(self.problem, name, self.address(tensor))

    def address(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        self.tensors.append(tensor)
        return tensor.data_ptr()

    def __call__(self, function: str, *args: Any) -> None:
        native = [ctypes.c_int64(a) if isinstance(a, int) else a for a in args]
        native = [ctypes.c_void_p(self.address(a)) if a is None or isinstance(a, Tensor) else a for a in native]
        getattr(library(), f"{function}_{self.suffix}")(ctypes.byref(self.problem), *native)
