"""Checks of the tensors for rendering and enlarging, made before their addresses are taken.

The checks read shapes, dtypes and devices, never values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from lmf.grid import Grid
from lmf.kernels.layout import InputEncoding, Weights
from lmf.kernels.region import Layer, Region

ENCODINGS = get_args(InputEncoding)
LONGEST = 1 << 24  # limit on the cells of an axis; float32 cannot distinguish more


def check_latent(
    modulation: Tensor, code: Tensor, extra: Tensor, weights: Weights, encoding: str, layers: int | None = None
) -> None:
    """Check the arguments of `lmf.kernels.render` except ``coord``.

    Args:
        modulation: see `lmf.kernels.render`.
        code: see `lmf.kernels.render`.
        extra: see `lmf.kernels.render`.
        weights: see `lmf.kernels.render`.
        encoding: see `lmf.kernels.render`.
        layers: number of layers of a single image; ``extra`` then has one row per layer.

    Raises:
        ValueError: if they do not fit each other.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f"encoding must be one of {ENCODINGS}, got {encoding!r}")
    if not modulation.is_floating_point():
        raise ValueError(f"modulation must be floating point, got {modulation.dtype}")
    first, hidden, out, bias, out_bias = weights
    expect("first", first, modulation, "D", "in")
    expect("bias", bias, modulation, "L", "D")
    expect("modulation", modulation, modulation, "B" if layers is None else 1, "h", "w", "2 L D")
    expect("code", code, modulation, *modulation.shape[:3], "K")
    batch, height, width, _ = modulation.shape
    (neurons, in_dim), depth = first.shape, bias.shape[0]
    if not (depth and neurons):
        raise ValueError(f"bias must be (L, D), neither of them 0, got {shown(bias)}")
    expect("hidden", hidden, modulation, depth - 1, neurons, neurons)
    expect("out", out, modulation, 3, neurons)
    expect("bias", bias, modulation, depth, neurons)
    expect("out_bias", out_bias, modulation, 3)
    expect("extra", extra, modulation, batch if layers is None else layers, "E")
    check_size("modulation", height, width)
    if modulation.shape[3] != 2 * depth * neurons:
        raise ValueError(
            f"{depth} layers of width {neurons} need {2 * depth * neurons} modulations, got {modulation.shape[3]}: "
            f"modulation is {shown(modulation)}"
        )
    numbers, more = code.shape[3], extra.shape[1]
    wanted = (in_dim - 2 - more, more) if encoding == "linear" else (2 * in_dim, in_dim // 2)
    if (numbers, more) != wanted or (encoding == "fourier" and in_dim % 2):
        need = "code + 2 + extra" if encoding == "linear" else "code / 2 and 2 extra, an even number"
        raise ValueError(
            f"the first layer reads {in_dim} numbers, in {encoding} encoding {need}; "
            f"got code {shown(code)} and extra {shown(extra)}"
        )


def check_blend(modulation: Tensor, code: Tensor, coord: Tensor) -> None:
    """Check the arguments of `lmf.kernels.blend`, which may have different dtypes.

    Raises:
        ValueError: if their shapes do not fit each other.
    """
    if modulation.ndim != 4 or code.ndim != 4 or code.shape[:3] != modulation.shape[:3]:
        raise ValueError(
            f"modulation and code must be (B, h, w, C) and (B, h, w, K), got {shown(modulation)} and {shown(code)}"
        )
    if coord.ndim != 3 or (coord.shape[0], coord.shape[2]) != (modulation.shape[0], 2):
        raise ValueError(f"coord must be ({modulation.shape[0]}, Q, 2), got {shown(coord)}")
    check_size("modulation", modulation.shape[1], modulation.shape[2])


def check_points(modulation: Tensor, coord: Tensor, grad: Tensor | None = None) -> None:
    """Check that ``coord`` is (B, Q, 2) and ``grad`` (B, Q, 3), with the dtype and device of ``modulation``.

    Raises:
        ValueError: if not.
    """
    expect("coord", coord, modulation, modulation.shape[0], "Q", 2)
    if grad is not None:
        expect("grad", grad, modulation, *coord.shape[:2], 3)


def check_grid(modulation: Tensor, y: Tensor, x: Tensor, image: Tensor | None) -> None:
    """Check that ``y`` is (H,), ``x`` (W,) and ``image`` (B, 3, h', w'), with dtype and device of ``modulation``.

    Raises:
        ValueError: if not.
    """
    expect("y", y, modulation, "H")
    expect("x", x, modulation, "W")
    check_image(modulation, image)


def check_image(modulation: Tensor, image: Tensor | None) -> None:
    """Check that ``image``, if given, is (B, 3, h', w') with the dtype and device of ``modulation``.

    Raises:
        ValueError: if not.
    """
    if image is not None:
        expect("image", image, modulation, modulation.shape[0], 3, "h'", "w'")
        check_size("image", *image.shape[2:])


def check_layers(out: Tensor, target: Grid, layers: Sequence[Layer], modulation: Tensor, image: Tensor | None) -> None:
    """Check ``out``, ``layers`` and ``image`` of `lmf.kernels.render_layers`.

    The kernel itself checks that regions lie in their grids.

    Raises:
        ValueError: if they do not fit ``target`` or ``modulation``.
    """
    check_image(modulation, image)
    expect("out", out, modulation, 3, *target.size)
    if not out.is_contiguous():
        raise ValueError(f"out must be contiguous, got strides {out.stride()}")
    if not layers:
        raise ValueError("there must be at least one layer")
    for layer in layers:
        check_size("the grid of a layer", *layer.grid.size)
        check_region("part", layer.part, layer.grid)
        if layer.shown is not None:
            check_region("shown", layer.shown, target)
        elif layer.grid.size != target.size:
            raise ValueError(f"a layer that is not enlarged must have {target.size} pixels, got {layer.grid.size}")


def check_enlarge(image: Tensor, source: Grid, target: Grid, out: Tensor, part: Region | None) -> None:
    """Check the arguments of `lmf.kernels.enlarge.enlarge`.

    Raises:
        ValueError: if they do not fit each other.
    """
    expect("image", image, image, "C", *source.size)
    expect("out", out, image, image.shape[0], *target.size)
    check_size("image", *source.size)
    if part is not None:
        check_region("part", part, target)


def check_region(name: str, part: Region, at: Grid) -> None:
    """Check that ``part`` has the size of ``at`` and holds index tensors on the CPU.

    Raises:
        ValueError: if not. The message begins with ``name``.
    """
    if part.size != at.size:
        raise ValueError(f"{name} must have {at.size} pixels, got {part.size}")
    index = torch.empty(0, dtype=torch.int64)
    blocks = part.rows.shape[0] if part.rows.ndim else 0
    if not blocks:
        raise ValueError(f"the rows of {name} must be (n + 1,), got {shown(part.rows)}")
    expect(f"the rows of {name}", part.rows, index, blocks)
    expect(f"the first runs of {name}", part.first, index, blocks)
    expect(f"the runs of {name}", part.runs, index, "m", 2)


def check_size(name: str, height: int, width: int) -> None:
    """Check that both sides are at least 1 and at most `LONGEST`.

    Raises:
        ValueError: if not. The message begins with ``name``.
    """
    if not (0 < height <= LONGEST and 0 < width <= LONGEST):
        raise ValueError(f"{name} must have from 1 to {LONGEST} rows and columns, got {height} x {width}")


def expect(name: str, tensor: Tensor, like: Tensor, *sizes: int | str) -> None:
    """Check that ``tensor`` has the given ``sizes``, and the dtype and device of ``like``.

    Args:
        name: name of the tensor for the message.
        tensor: the tensor.
        like: tensor with the required dtype and device.
        sizes: size of each dimension; a string allows any size.

    Raises:
        ValueError: if not.
    """
    fits = len(tensor.shape) == len(sizes) and tensor.dtype == like.dtype and tensor.device == like.device
    if not fits or any(not isinstance(n, str) and n != own for n, own in zip(sizes, tensor.shape, strict=True)):
        wanted = ", ".join(str(size) for size in sizes) + ("," if len(sizes) == 1 else "")
        raise ValueError(f"{name} must be ({wanted}) {like.dtype} on {like.device}, got {shown(tensor)}")


def shown(tensor: Tensor) -> str:
    """Return the shape, dtype and device of ``tensor`` for a message."""
    return f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"
