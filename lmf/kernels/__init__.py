"""Fused operations: rendering of a modulated MLP, and 3x3 convolutions with few multiplications.

`render` takes scattered coordinates and `render_grid` pixel grids, and neither gathers modulations for every query.
There are three implementations: `reference` (plain PyTorch, the definition), `cpu` (C++, compiled for this processor on
first use or by ``python -m lmf.kernels``) and `triton` (CUDA). They are chosen by device and availability; `backend`
overrides the choice.

`conv3x3` computes convolutions of encoders on the CPU by Winograd's algorithm (C++), `residual_blocks` and
`dense_block` sequences of them. `encoder` chooses PyTorch's convolutions instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmf.grid import Grid
from lmf.kernels import ops, reference
from lmf.kernels.checks import check_grid, check_latent, check_layers, check_points
from lmf.kernels.choice import ENCODERS, encoder, reduced
from lmf.kernels.convolution import conv3x3, dense_block, residual_blocks, serves
from lmf.kernels.layout import InputEncoding, Weights
from lmf.kernels.ops import BACKENDS, backend
from lmf.kernels.reference import blend
from lmf.kernels.region import Layer

__all__ = [
    "BACKENDS",
    "ENCODERS",
    "InputEncoding",
    "Weights",
    "backend",
    "blend",
    "conv3x3",
    "dense_block",
    "encoder",
    "layered",
    "reduced",
    "render",
    "render_grid",
    "render_layers",
    "residual_blocks",
    "serves",
]


def render(
    modulation: Tensor, code: Tensor, extra: Tensor, coord: Tensor, weights: Weights, encoding: InputEncoding
) -> Tensor:
    """Render colours at scattered coordinates, blended over the local ensemble (`lmf.grid.ensemble`).

    A coordinate outside [-1, 1] uses the latents at the border; its distance to them is not clamped. A coordinate that
    is NaN or infinite gives NaN in all three channels.

    Args:
        modulation: (B, h, w, 2 L D), all scales (L x D), then all shifts (L x D).
        code: (B, h, w, K), input of the MLP per latent.
        extra: (B, E), input of the MLP per image.
        coord: (B, Q, 2) as (y, x) in [-1, 1]. If it requires a gradient, `reference` is used.
        weights: weights of the MLP.
        encoding: how the input of the MLP is formed. ``"linear"`` gives ``[code, rel, extra]``, where rel is the
            coordinate relative to the latent; a latent cell spans 2 units. With ``"fourier"``, code holds M amplitudes,
            M / 2 frequencies along y and M / 2 along x, and the input is ``amplitude * [cos(pi f), sin(pi f)]`` with
            ``f = fy * rel_y + fx * rel_x + extra``.

    Returns:
        (B, Q, 3), float64 if modulation is float64, else float32. It is differentiable once, with respect to all
        arguments; with respect to coord only by `reference`.

    Raises:
        ValueError: if the shape or device of a tensor does not fit the others.
    """
    modulation, code, extra, coord, *mlp = same_type(modulation, code, extra, coord, *weights)
    if ops.forced == "reference" or (coord.requires_grad and torch.is_grad_enabled()):
        check_latent(modulation, code, extra, Weights(*mlp), encoding)
        check_points(modulation, coord)
        return reference.render(modulation, code, extra, coord, Weights(*mlp), encoding)
    rgb: Tensor = ops.render(modulation, code, extra, coord, *mlp, encoding)
    return rgb


def render_grid(
    modulation: Tensor,
    code: Tensor,
    extra: Tensor,
    target: Grid,
    image: Tensor | None,
    weights: Weights,
    encoding: InputEncoding,
) -> Tensor:
    """Render the pixels of a grid.

    Args:
        modulation: see `render`.
        code: see `render`.
        extra: see `render`.
        target: the pixels.
        image: (B, 3, h', w') to add to the result, sampled bilinearly at every pixel with the border repeated; or None.
        weights: see `render`.
        encoding: see `render`.

    Returns:
        (B, 3, rows, cols).

    Raises:
        ValueError: if the shape or device of a tensor does not fit the others.
    """
    modulation, code, extra, y, x, *mlp = same_type(modulation, code, extra, *target.axes(modulation.device), *weights)
    if image is not None:
        image = image.to(modulation.dtype)
    inputs = [t for t in (modulation, code, extra, image, *mlp) if t is not None]
    if ops.forced == "reference" or (torch.is_grad_enabled() and any(t.requires_grad for t in inputs)):
        check_latent(modulation, code, extra, Weights(*mlp), encoding)
        check_grid(modulation, y, x, image)
        return reference.render_grid(modulation, code, extra, y, x, image, Weights(*mlp), encoding)
    rgb: Tensor = ops.render_grid(modulation, code, extra, y, x, image, *mlp, encoding)
    return rgb


def layered(out: Tensor, modulation: Tensor, weights: Weights, encoding: InputEncoding) -> bool:
    """Return whether `render_layers` supports these tensors; `render_grid` always does."""
    same = out.dtype == modulation.dtype and out.device == modulation.device
    native = ops.implementation(modulation, weights, encoding).LAYERS
    return same and native and out.is_contiguous() and not torch.is_grad_enabled()


def render_layers(
    out: Tensor,
    target: Grid,
    layers: Sequence[Layer],
    modulation: Tensor,
    code: Tensor,
    extra: Tensor,
    image: Tensor | None,
    weights: Weights,
    encoding: InputEncoding,
) -> None:
    """Render one image in layers, each as in `render_grid`, without gradients.

    Call it only if `layered` returns True.

    Args:
        out: (3, rows, cols) to render into, contiguous, of the dtype of the modulations. Pixels of no layer do not
            change.
        target: the pixels of ``out``.
        layers: one or more layers.
        modulation: see `render`, with B = 1.
        code: see `render`, with B = 1.
        extra: (layers, E), one row per layer.
        image: see `render_grid`, with B = 1.
        weights: see `render`.
        encoding: see `render`.

    Raises:
        ValueError: if the shape, dtype or device of a tensor does not fit the others, or a layer does not lie in its
            grid or in ``target``.
    """
    modulation, code, extra, *mlp = same_type(modulation, code, extra, *weights)
    image = image if image is None else image.to(modulation.dtype)
    check_latent(modulation, code, extra, Weights(*mlp), encoding, len(layers))
    check_layers(out, target, layers, modulation, image)
    if not out.numel():
        return
    module = ops.implementation(modulation, Weights(*mlp), encoding)
    if not module.LAYERS:
        raise ValueError("these cannot be rendered in levels, see layered")
    module.render_layers(out, target, layers, modulation, code, extra, image, Weights(*mlp), encoding)


def same_type(*tensors: Tensor) -> list[Tensor]:
    """Convert ``tensors`` to float64 if the first is float64, else to float32."""
    dtype = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    return [t.to(dtype) for t in tensors]
