"""3x3 convolutions on the CPU by Winograd's minimal filtering F(4x4, 3x3), with a quarter of the multiplications.

`conv3x3` computes one convolution, `residual_blocks` and `dense_block` compute sequences of them in one call. All work
on float32 maps with padding 1. A result differs from the exact one by at most 5e-6 of the largest. Rounding depends on
where a pixel lies in its tile of 4 x 4 pixels. A picture and a part of it therefore agree bit by bit only if the part
starts at a multiple of 4 pixels, apart from the tiles at its borders. NaN and infinities spread over the tiles that
read them.

Results do not depend on the number of threads. Weights are transformed in every call, which takes about 5 % of
it for a 160x90 picture and less for larger ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmf.kernels import choice, convolution_ops, ops
from lmf.kernels.build import library

NARROWEST = 8  # channels; PyTorch is faster below


def serves(x: Tensor, *channels: int) -> bool:
    """Return whether these kernels compute convolutions of ``x`` (B, C, h, w) between maps of ``channels``.

    They do so in float32 on the CPU, outside of autocast, unless other implementations were chosen by
    `lmf.kernels.encoder` or `lmf.kernels.backend`. Graphs that are exported contain plain convolutions.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and min(channels) >= NARROWEST
        and ops.forced != "reference"
        and choice.current() == "winograd"
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_exporting()
        and (torch.compiler.is_compiling() or (library() is not None and not torch._C._is_tracing()))
    )


def conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    relu: bool = False,
    skip: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """Compute ``scale * conv(x) + skip`` or ``relu(conv(x))``, with a 3x3 convolution of padding 1.

    Args:
        x: (B, C, h, w) in any memory format; channels-last needs no copy.
        weight: (C', C, 3, 3).
        bias: (C',) or None.
        relu: apply a ReLU; not together with ``skip`` and ``scale``.
        skip: (B, C', h, w) to add, or None.
        scale: factor of the convolution and its bias.

    Returns:
        (B, C', h, w), channels-last where `serves` is true. It is differentiable any number of times.

    Raises:
        ValueError: if a shape, dtype or device does not fit the others.
    """
    if serves(x, *weight.shape[:2]):
        y: Tensor = convolution_ops.conv3x3(x, weight, bias, relu, skip, scale)
        return y
    return convolution_ops.plain(x, weight, bias, relu, skip, scale)


def residual_blocks(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], scale: float = 1.0) -> Tensor:
    """Compute the body of EDSR: residual blocks, a convolution and a skip connection around all of them.

    Without gradients this is one call, and the maps need twice the memory of ``x``, however many blocks there are.

    Args:
        x: (B, C, h, w).
        weights: (C, C, 3, 3) each, two for every block and one for the last convolution.
        biases: (C,) each.
        scale: factor of every block's branch.

    Returns:
        (B, C, h, w), channels-last.

    Raises:
        ValueError: as `conv3x3`.
    """
    if not differentiable(x, *weights, *biases):
        y: Tensor = convolution_ops.residual_blocks(x, weights, biases, scale)
        return y
    y = x
    for i in range(0, len(weights) - 1, 2):
        inner = conv3x3(y, weights[i], biases[i], relu=True)
        y = conv3x3(inner, weights[i + 1], biases[i + 1], skip=y, scale=scale)
    return conv3x3(y, weights[-1], biases[-1], skip=x)


def dense_block(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Compute densely connected convolutions with ReLU, each of which reads ``x`` and all results before its own.

    Without gradients this is one call, which concatenates nothing.

    Args:
        x: (B, C, h, w).
        weights: (G, C + i G, 3, 3) for convolution i.
        biases: (G,) each.

    Returns:
        (B, C + n G, h, w): ``x`` and the n results.

    Raises:
        ValueError: as `conv3x3`.
    """
    if not differentiable(x, *weights, *biases):
        dense: Tensor = convolution_ops.dense_block(x, weights, biases)
        return dense
    for weight, bias in zip(weights, biases, strict=True):
        x = torch.cat([x, conv3x3(x, weight, bias, relu=True)], dim=1)
    return x


def differentiable(*tensors: Tensor) -> bool:
    """Return whether results of ``tensors`` have gradients."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
