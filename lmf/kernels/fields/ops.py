"""Registers heat fields as PyTorch operators with shapes, autocast and FLOP formulas.

``lmf::field`` renders scattered places and ``lmf::field_grid`` renders pixel grids, both without gradients.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from lmf.kernels import ops
from lmf.kernels.fields.checks import check_grid, check_latents, check_places


def forced() -> str | None:
    """Return the implementation that `lmf.kernels.backend` has set; None if it has not."""
    return ops.forced


def implementation(latents: Tensor) -> Any:
    """Return the module of this package whose ``render`` and ``render_grid`` support these tensors.

    Raises:
        ValueError: if the implementation chosen by `lmf.kernels.backend` does not support them.
    """
    name = forced() or {"cpu": "cpu", "cuda": "triton"}.get(latents.device.type, "reference")
    if name != "triton" or importlib.util.find_spec("triton") is not None:
        module = importlib.import_module("lmf.kernels.fields." + {"triton": "triton_kernel"}.get(name, name))
        if module.serves(latents):
            return module
    if forced():
        raise ValueError(
            f"the rendering backend {name!r} cannot serve {latents.shape[-1] // 4} waves, {latents.dtype} on "
            f"{latents.device.type} here"
        )
    return importlib.import_module("lmf.kernels.fields.reference")


_LATENTS = "Tensor latents, Tensor frequencies, Tensor decay, Tensor base"
_AXES = "Tensor row, Tensor row_offset, Tensor column, Tensor column_offset"


@ops.operator(f"({_LATENTS}, Tensor index, Tensor offset) -> Tensor", "field")
def render(latents: Tensor, frequencies: Tensor, decay: Tensor, base: Tensor, index: Tensor, offset: Tensor) -> Tensor:
    """Render scattered places; see `lmf.kernels.fields.render`."""
    check_latents(latents, frequencies, decay, base)
    check_places(latents, index, offset)
    rgb: Tensor = implementation(latents).render(latents, frequencies, decay, base, index, offset)
    return rgb


@ops.operator(f"({_LATENTS}, {_AXES}) -> Tensor", "field_grid")
def render_grid(latents: Tensor, frequencies: Tensor, decay: Tensor, base: Tensor, *axes: Tensor) -> Tensor:
    """Render a pixel grid; see `lmf.kernels.fields.render_grid`."""
    check_latents(latents, frequencies, decay, base)
    check_grid(latents, *axes)
    rgb: Tensor = implementation(latents).render_grid(latents, frequencies, decay, base, *axes)
    return rgb


def _render_shape(
    latents: Tensor, frequencies: Tensor, decay: Tensor, base: Tensor, index: Tensor, offset: Tensor
) -> Tensor:
    check_latents(latents, frequencies, decay, base)
    check_places(latents, index, offset)
    return latents.new_empty(*index.shape, 3)


def _render_grid_shape(latents: Tensor, frequencies: Tensor, decay: Tensor, base: Tensor, *axes: Tensor) -> Tensor:
    check_latents(latents, frequencies, decay, base)
    check_grid(latents, *axes)
    return latents.new_empty(len(latents), 3, len(axes[0]), len(axes[2]))


for _op, _shape in ((render, _render_shape), (render_grid, _render_grid_shape)):
    torch.library.register_fake(_op, _shape)
    for _device in ("cpu", "cuda"):
        torch.library.register_autocast(_op, _device, torch.float32)


def _flops(places: int, frequencies: Any) -> int:
    """Return the FLOPs of the definition, 5 N multiply-adds and 2 FLOPs per multiply-add; sines do not count."""
    flops: int = 2 * 5 * places * frequencies[1]
    return flops


@register_flop_formula(torch.ops.lmf.field)
def _(latents: Any, frequencies: Any, decay: Any, base: Any, index: Any, offset: Any, **_: Any) -> int:
    return _flops(index[0] * index[1], frequencies)


@register_flop_formula(torch.ops.lmf.field_grid)
def _(
    latents: Any, frequencies: Any, decay: Any, base: Any, row: Any, _: Any, column: Any, *__: Any, **___: Any
) -> int:
    return _flops(latents[0] * row[0] * column[0], frequencies)
