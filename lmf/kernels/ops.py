"""Registers rendering as PyTorch operators with shapes, gradients, autocast and FLOP formulas.

``lmf::render`` renders scattered coordinates, ``lmf::render_backward`` computes its gradients and ``lmf::render_grid``
renders pixel grids. Each chooses its implementation when it runs: that of `backend` if set, else by device and
availability. All raise ValueError if the shape, dtype or device of a tensor does not fit the others.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from lmf.kernels.checks import check_grid, check_latent, check_points
from lmf.kernels.layout import Weights

BACKENDS = ("reference", "cpu", "triton")


def checked(name: str) -> str:
    """Return ``name`` if it is one of `BACKENDS`.

    Raises:
        ValueError: if not.
    """
    if name not in BACKENDS:
        raise ValueError(f"the rendering backend must be one of {BACKENDS}, got {name!r}")
    return name


forced: str | None = checked(os.environ["LMF_KERNEL"]) if os.environ.get("LMF_KERNEL") else None


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Use one implementation for all rendering within the block.

    The choice holds for the whole process. Do not enter such blocks in several threads at once.

    Args:
        name: ``"reference"``, ``"cpu"`` or ``"triton"``. The environment variable ``LMF_KERNEL`` sets it for a whole
            run.

    Raises:
        ValueError: if the name is unknown. Rendering raises it if the implementation does not support the tensors.
    """
    global forced
    before, forced = forced, checked(name)
    try:
        yield
    finally:
        forced = before


def implementation(modulation: Tensor, weights: Weights, encoding: str) -> Any:
    """Return the module of this package whose ``render``, ``backward`` and ``render_grid`` support these tensors.

    Its ``LAYERS`` says whether it also has ``render_layers``.

    Raises:
        ValueError: if the implementation chosen by `backend` does not support them.
    """
    name = forced or {"cpu": "cpu", "cuda": "triton"}.get(modulation.device.type, "reference")
    if name == "triton" and importlib.util.find_spec("triton") is None:
        serves = False
    else:
        module = importlib.import_module("lmf.kernels." + {"triton": "triton_kernel"}.get(name, name))
        serves = module.serves(modulation, weights, encoding)
    if serves:
        return module
    if forced:
        raise ValueError(
            f"the rendering backend {forced!r} cannot serve width {len(weights.first)}, {encoding} encoding of "
            f"{weights.first.shape[1]} numbers, {modulation.dtype} on {modulation.device.type} here"
        )
    return importlib.import_module("lmf.kernels.reference")


def checked_mlp(modulation: Tensor, code: Tensor, extra: Tensor, mlp: tuple[Any, ...]) -> tuple[Weights, str]:
    """Split ``mlp``, the last arguments of every operator, into weights and encoding, and check all arguments."""
    weights, encoding = Weights(*mlp[:-1]), mlp[-1]
    check_latent(modulation, code, extra, weights, encoding)
    return weights, encoding


_LATENT = "Tensor modulation, Tensor code, Tensor extra"
_WEIGHTS = "Tensor first, Tensor hidden, Tensor out, Tensor bias, Tensor out_bias, str encoding"


def operator(schema: str, name: str | None = None) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a function to become the operator ``lmf::NAME`` with this ``schema``, for all devices.

    The function's own name is the default.

    Unlike ``torch.library.custom_op`` this does not import ``torch._dynamo`` at the first call, which takes seconds.
    """

    def register(function: Callable[..., Any]) -> Any:
        short = name or function.__name__
        torch.library.define(f"lmf::{short}", schema, tags=torch.Tag.pt2_compliant_tag)
        torch.library.impl(f"lmf::{short}", "default", function)
        return getattr(torch.ops.lmf, short).default

    return register


@operator(f"({_LATENT}, Tensor coord, {_WEIGHTS}) -> Tensor")
def render(modulation: Tensor, code: Tensor, extra: Tensor, coord: Tensor, *mlp: Any) -> Tensor:
    """Render scattered coordinates; see `lmf.kernels.render`."""
    weights, encoding = checked_mlp(modulation, code, extra, mlp)
    check_points(modulation, coord)
    module = implementation(modulation, weights, encoding)
    rgb: Tensor = module.render(modulation, code, extra, coord, weights, encoding)
    return rgb


@operator(f"(Tensor grad, {_LATENT}, Tensor coord, {_WEIGHTS}) -> ({', '.join(['Tensor'] * 8)})")
def render_backward(
    grad: Tensor, modulation: Tensor, code: Tensor, extra: Tensor, coord: Tensor, *mlp: Any
) -> tuple[Tensor, ...]:
    """Compute the gradients of `render`; see `lmf.kernels.reference.backward`."""
    weights, encoding = checked_mlp(modulation, code, extra, mlp)
    check_points(modulation, coord, grad)
    module = implementation(modulation, weights, encoding)
    grads: tuple[Tensor, ...] = module.backward(grad, modulation, code, extra, coord, weights, encoding)
    return grads


@operator(f"({_LATENT}, Tensor y, Tensor x, Tensor? image, {_WEIGHTS}) -> Tensor")
def render_grid(
    modulation: Tensor, code: Tensor, extra: Tensor, y: Tensor, x: Tensor, image: Tensor | None, *mlp: Any
) -> Tensor:
    """Render a pixel grid; see `lmf.kernels.render_grid`."""
    weights, encoding = checked_mlp(modulation, code, extra, mlp)
    check_grid(modulation, y, x, image)
    module = implementation(modulation, weights, encoding)
    rgb: Tensor = module.render_grid(modulation, code, extra, y, x, image, weights, encoding)
    return rgb


def _render_shape(modulation: Tensor, code: Tensor, extra: Tensor, coord: Tensor, *mlp: Any) -> Tensor:
    checked_mlp(modulation, code, extra, mlp)
    check_points(modulation, coord)
    return modulation.new_empty(*coord.shape[:2], 3)


def _render_backward_shape(
    grad: Tensor, modulation: Tensor, code: Tensor, extra: Tensor, coord: Tensor, *mlp: Any
) -> tuple[Tensor, ...]:
    checked_mlp(modulation, code, extra, mlp)
    check_points(modulation, coord, grad)
    return tuple(t.new_empty(t.shape) for t in (modulation, code, extra, *mlp[:-1]))


def _render_grid_shape(
    modulation: Tensor, code: Tensor, extra: Tensor, y: Tensor, x: Tensor, image: Tensor | None, *mlp: Any
) -> Tensor:
    checked_mlp(modulation, code, extra, mlp)
    check_grid(modulation, y, x, image)
    return modulation.new_empty(len(modulation), 3, len(y), len(x))


for _op, _shape in (
    (render, _render_shape),
    (render_backward, _render_backward_shape),
    (render_grid, _render_grid_shape),
):
    torch.library.register_fake(_op, _shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.encoding = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    modulation, code, extra, *weights = render_backward(grad, *ctx.saved_tensors, ctx.encoding)
    return modulation, code, extra, None, *weights, None


torch.library.register_autograd(render, _backward, setup_context=_keep)

for _op in (render, render_backward, render_grid):
    for _device in ("cpu", "cuda"):
        torch.library.register_autocast(_op, _device, torch.float32)


def _flops(queries: int, mlp: tuple[Any, ...]) -> int:
    """Return the FLOPs of the definition, with four latents per query and 2 FLOPs per multiply-add."""
    (width, in_dim), depth = mlp[0], mlp[3][0]
    macs: int = 4 * queries * (in_dim * width + (depth - 1) * width * width + 3 * width)
    return 2 * macs


@register_flop_formula(torch.ops.lmf.render)
def _(modulation: Any, code: Any, extra: Any, coord: Any, *mlp: Any, **_: Any) -> int:
    return _flops(coord[0] * coord[1], mlp)


@register_flop_formula(torch.ops.lmf.render_backward)
def _(grad: Any, modulation: Any, code: Any, extra: Any, coord: Any, *mlp: Any, **_: Any) -> int:
    return 2 * _flops(coord[0] * coord[1], mlp)  # with respect to inputs and to weights


@register_flop_formula(torch.ops.lmf.render_grid)
def _(modulation: Any, code: Any, extra: Any, y: Any, x: Any, image: Any, *mlp: Any, **_: Any) -> int:
    return _flops(modulation[0] * y[0] * x[0], mlp)
