"""Registers 3x3 convolutions as PyTorch operators with shapes, gradients, autocast and FLOP formulas.

``lmf::conv3x3`` is one convolution and ``lmf::conv3x3_weight`` the gradient of its weight. ``lmf::residual_blocks``
and ``lmf::dense_block`` are sequences of convolutions, without gradients. Without the compiled library they compute the
same with PyTorch. The FLOP formulas count the multiply-adds of the direct convolution, as papers do; the kernels do a
quarter of these multiplications.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from lmf.kernels.build import library
from lmf.kernels.ops import operator
from lmf.kernels.winograd import Steps, channels_last, evenly, maps, native, threads


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, skip: Tensor | None, scale: float) -> Tensor:
    """Compute `conv3x3` with PyTorch."""
    y = F.conv2d(x, weight, bias, padding=1)
    if relu:
        return y.relu_()  # in place: allocating large maps costs more than the operation
    if scale != 1:
        y = y * scale
    return y if skip is None else y.add_(skip)


def check(x: Tensor, weight: Tensor, bias: Tensor | None, skip: Tensor | None = None) -> None:
    """Check the arguments of a convolution.

    Raises:
        ValueError: if they do not fit each other.
    """
    if x.ndim != 4 or weight.shape != (weight.shape[0], x.shape[1], 3, 3):
        raise ValueError(
            f"x must be (B, C, h, w) and weight (C', C, 3, 3), got {tuple(x.shape)}, {tuple(weight.shape)}"
        )
    others = {"weight": weight, "bias": bias, "skip": skip}
    wanted = {"bias": weight.shape[:1], "skip": (x.shape[0], weight.shape[0], *x.shape[2:])}
    for name, t in others.items():
        if t is None:
            continue
        if name in wanted and t.shape != wanted[name]:
            raise ValueError(f"{name} must be {tuple(wanted[name])}, got {tuple(t.shape)}")
        if t.dtype != x.dtype or t.device != x.device:
            raise ValueError(f"{name} must be {x.dtype} on {x.device} like x, got {t.dtype} on {t.device}")


@operator("(Tensor x, Tensor weight, Tensor? bias, bool relu, Tensor? skip, float scale) -> Tensor")
def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, skip: Tensor | None, scale: float) -> Tensor:
    """Compute one convolution; see `lmf.kernels.conv3x3`."""
    check_conv3x3(x, weight, bias, relu, skip, scale)
    if not native(x):
        return plain(x, weight, bias, relu, skip, scale).contiguous(memory_format=torch.channels_last)
    y = maps(x, len(weight))
    if y.numel():
        steps = Steps()
        steps.add(evenly(x), weight, bias, y, relu, None if skip is None else evenly(skip), scale)
        steps.run()
    return y.permute(0, 3, 1, 2)


def check_conv3x3(
    x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, skip: Tensor | None, scale: float
) -> None:
    """Check the arguments of `conv3x3`.

    Raises:
        ValueError: if they do not fit each other.
    """
    check(x, weight, bias, skip)
    if relu and (skip is not None or scale != 1):
        raise ValueError("a convolution has either a ReLU, or a scale and a skip connection")


@operator("(Tensor x, Tensor grad) -> Tensor")
def conv3x3_weight(x: Tensor, grad: Tensor) -> Tensor:
    """Compute the gradient (C', C, 3, 3) of a convolution's weight from ``x`` and the gradient of the result."""
    check_conv3x3_weight(x, grad)
    weight = x.new_empty(grad.shape[1], x.shape[1], 3, 3)
    if not native(x):
        options = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1, [False, True, False])
        gradient: Tensor = torch.ops.aten.convolution_backward(grad, x, weight, None, *options)[1]
        return gradient
    if not grad.numel() or not x.numel():
        return weight.zero_()
    kept = Steps()
    step, own = kept.shaped(evenly(x), evenly(grad)), library()
    assert own is not None
    own.weight_gradient(ctypes.byref(step), step.y, weight.data_ptr(), threads(step))
    return weight


def check_conv3x3_weight(x: Tensor, grad: Tensor) -> None:
    """Check the arguments of `conv3x3_weight`.

    Raises:
        ValueError: if they do not fit each other.
    """
    if x.ndim != 4 or grad.shape != (x.shape[0], *grad.shape[1:2], *x.shape[2:]):
        raise ValueError(f"x must be (B, C, h, w), grad (B, C', h, w), got {tuple(x.shape)}, {tuple(grad.shape)}")
    if grad.dtype != x.dtype or grad.device != x.device:
        raise ValueError(f"grad must be {x.dtype} on {x.device} like x, got {grad.dtype} on {grad.device}")


@operator("(Tensor x, Tensor[] weights, Tensor[] biases, float scale) -> Tensor")
def residual_blocks(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], scale: float) -> Tensor:
    """Compute residual blocks; see `lmf.kernels.residual_blocks`."""
    check_residual_blocks(x, weights, biases)
    if not native(x):
        y = x
        for i in range(0, len(weights) - 1, 2):
            inner = plain(y, weights[i], biases[i], True, None, 1.0)
            y = plain(inner, weights[i + 1], biases[i + 1], False, y, scale)
        return plain(y, weights[-1], biases[-1], False, x, 1.0).contiguous(memory_format=torch.channels_last)
    first, inner, outer = evenly(x), maps(x, x.shape[1]), maps(x, x.shape[1])
    if first.numel():
        steps, last = Steps(), first
        for i in range(0, len(weights) - 1, 2):
            steps.add(last, weights[i], biases[i], inner, relu=True)
            steps.add(
                inner, weights[i + 1], biases[i + 1], outer, skip=last, scale=scale
            )  # onto itself from the second
            last = outer
        steps.add(last, weights[-1], biases[-1], inner, skip=first)
        steps.run()
    return inner.permute(0, 3, 1, 2)


def check_residual_blocks(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
    """Check the arguments of `residual_blocks`.

    Raises:
        ValueError: if they do not fit each other.
    """
    if len(weights) % 2 == 0 or len(weights) != len(biases):
        raise ValueError(
            f"there must be an odd number of weights and as many biases, got {len(weights)}, {len(biases)}"
        )
    for weight, bias in zip(weights, biases, strict=True):
        check(x, weight, bias, x)


@operator("(Tensor x, Tensor[] weights, Tensor[] biases) -> Tensor")
def dense_block(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Compute densely connected convolutions; see `lmf.kernels.dense_block`."""
    channels = check_dense_block(x, weights, biases)
    if not native(x):
        for weight, bias in zip(weights, biases, strict=True):
            x = torch.cat([x, plain(x, weight, bias, True, None, 1.0)], dim=1)
        return x.contiguous(memory_format=torch.channels_last)
    dense = maps(x, channels[-1])
    dense[..., : channels[0]] = x.permute(0, 2, 3, 1)
    if dense.numel():
        steps = Steps()
        for weight, bias, start, stop in zip(weights, biases, channels, channels[1:], strict=False):
            steps.add(dense[..., :start], weight, bias, dense[..., start:stop], relu=True)
        if steps.steps:
            steps.run()
    return dense.permute(0, 3, 1, 2)


def check_dense_block(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> list[int]:
    """Check the arguments of `dense_block`, and return the number of channels before and after each convolution.

    Raises:
        ValueError: if they do not fit each other.
    """
    if len(weights) != len(biases):
        raise ValueError(f"there must be as many weights as biases, got {len(weights)}, {len(biases)}")
    channels = [x.shape[1]]
    for weight, bias in zip(weights, biases, strict=True):
        check(x[:, :1].expand(-1, channels[-1], -1, -1), weight, bias)
        channels.append(channels[-1] + len(weight))
    return channels


def _conv3x3_shape(
    x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, skip: Tensor | None, scale: float
) -> Tensor:
    check_conv3x3(x, weight, bias, relu, skip, scale)
    return channels_last(x, weight.shape[0])


def _conv3x3_weight_shape(x: Tensor, grad: Tensor) -> Tensor:
    check_conv3x3_weight(x, grad)
    return x.new_empty(grad.shape[1], x.shape[1], 3, 3)


def _residual_blocks_shape(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], scale: float) -> Tensor:
    check_residual_blocks(x, weights, biases)
    return channels_last(x, x.shape[1])


def _dense_block_shape(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    return channels_last(x, check_dense_block(x, weights, biases)[-1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, ctx.relu, skip, ctx.scale = inputs
    ctx.skipped = skip is not None
    ctx.save_for_backward(x, weight, output if ctx.relu else None)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Compute the gradients by differentiable operators, so that they have gradients themselves."""
    x, weight, output = ctx.saved_tensors
    to_skip = grad if ctx.skipped else None
    if ctx.relu:
        grad = torch.ops.aten.threshold_backward(grad, output, 0)
    elif ctx.scale != 1:
        grad = grad * ctx.scale
    to_x, to_weight, to_bias, *_ = ctx.needs_input_grad
    return (
        conv3x3(grad, turned(weight), None, False, None, 1.0) if to_x else None,
        conv3x3_weight(x, grad) if to_weight else None,
        grad.sum((0, 2, 3)) if to_bias else None,
        None,
        to_skip,
        None,
    )


def turned(weight: Tensor) -> Tensor:
    """Return the weight of the convolution that computes the gradient of ``x``."""
    return weight.transpose(0, 1).flip(2, 3)


def _keep_weight(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward_weight(ctx: Any, change: Tensor) -> tuple[Tensor | None, ...]:
    x, grad = ctx.saved_tensors
    to_x, to_grad = ctx.needs_input_grad
    return (
        conv3x3(grad, turned(change), None, False, None, 1.0) if to_x else None,
        conv3x3(x, change, None, False, None, 1.0) if to_grad else None,
    )


torch.library.register_autograd(conv3x3, _backward, setup_context=_keep)
torch.library.register_autograd(conv3x3_weight, _backward_weight, setup_context=_keep_weight)

for _op, _shape in (
    (conv3x3, _conv3x3_shape),
    (conv3x3_weight, _conv3x3_weight_shape),
    (residual_blocks, _residual_blocks_shape),
    (dense_block, _dense_block_shape),
):
    torch.library.register_fake(_op, _shape)
    torch.library.register_autocast(_op, "cpu", torch.float32)


def _flops(x: Any, *weights: Any) -> int:
    """Return the FLOPs of direct convolutions of maps as large as ``x``, with 2 FLOPs per multiply-add."""
    batch, _, height, width = x
    return sum(2 * batch * height * width * 9 * weight[0] * weight[1] for weight in weights)


@register_flop_formula(torch.ops.lmf.conv3x3)
def _(x: Any, weight: Any, *_: Any, **__: Any) -> int:
    return _flops(x, weight)


@register_flop_formula(torch.ops.lmf.conv3x3_weight)
def _(x: Any, grad: Any, *_: Any, **__: Any) -> int:
    return _flops(x, (grad[1], x[1]))


@register_flop_formula(torch.ops.lmf.residual_blocks)
def _(x: Any, weights: Any, *_: Any, **__: Any) -> int:
    return _flops(x, *weights)


@register_flop_formula(torch.ops.lmf.dense_block)
def _(x: Any, weights: Any, *_: Any, **__: Any) -> int:
    return _flops(x, *weights)
