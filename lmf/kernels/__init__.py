"""Rendering a modulated MLP at coordinates, fused: without gathering modulations for every query.

One operation in two shapes, `render` for scattered coordinates and `render_grid` for pixel grids, with three
implementations: `reference` (plain torch, the definition), `cpu` (C++, compiled for the processor at hand on first use
or by ``python -m lmf.kernels``) and `triton` (CUDA). The device and what is installed choose; `backend` overrides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmf.grid import Grid
from lmf.kernels import ops, reference
from lmf.kernels.checks import check_grid, check_latent, check_layers, check_points
from lmf.kernels.layout import InputEncoding, Weights
from lmf.kernels.ops import BACKENDS, backend
from lmf.kernels.reference import blend
from lmf.kernels.region import Layer

__all__ = [
    "BACKENDS",
    "InputEncoding",
    "Weights",
    "backend",
    "blend",
    "layered",
    "render",
    "render_grid",
    "render_layers",
]


def render(
    modulation: Tensor, code: Tensor, extra: Tensor, coord: Tensor, weights: Weights, encoding: InputEncoding
) -> Tensor:
    """Renders colours at scattered coordinates, blended over the local ensemble (`lmf.grid.ensemble`).

    A coordinate beyond [-1, 1] reads the latents at the border; its distance to them is not clamped. One that is NaN or
    infinite gives NaN in all three colours.

    Args:
        modulation: (B, h, w, 2 L D), all scales (L x D) then all shifts (L x D).
        code: (B, h, w, K), what the MLP reads of a latent besides its modulations.
        extra: (B, E), what it reads that is one per image.
        coord: (B, Q, 2) as (y, x) in [-1, 1]. If it wants a gradient, `reference` serves.
        weights: of the MLP.
        encoding: what enters the MLP. ``"linear"``: ``[code, rel, extra]``, rel the coordinate relative to the latent,
            one latent cell spanning 2 units. ``"fourier"``: code is M amplitudes, M / 2 frequencies along y and M / 2
            along x; ``amplitude * [cos(pi f), sin(pi f)]`` with ``f = fy * rel_y + fx * rel_x + extra``.

    Returns:
        (B, Q, 3), float64 if modulation is, else float32. Differentiable with respect to all but coord (once).

    Raises:
        ValueError: a tensor whose shape or device does not fit the others.
    """
    modulation, code, extra, coord, *mlp = same_type(modulation, code, extra, coord, *weights)
    if ops.forced == "reference" or (coord.requires_grad and torch.is_grad_enabled()):
        check_latent(modulation, code, extra, Weights(*mlp), encoding)
        check_points(modulation, coord)
        return reference.render(modulation, code, extra, coord, Weights(*mlp), encoding)
    return ops.render(modulation, code, extra, coord, *mlp, encoding)


def render_grid(
    modulation: Tensor,
    code: Tensor,
    extra: Tensor,
    target: Grid,
    image: Tensor | None,
    weights: Weights,
    encoding: InputEncoding,
) -> Tensor:
    """Renders the pixels of ``target``; see `render`.

    Args:
        image: (B, 3, h', w') sampled bilinearly at every pixel, border repeated, and added; or None.

    Returns:
        (B, 3, rows, cols).

    Raises:
        ValueError: a tensor whose shape or device does not fit the others.
    """
    modulation, code, extra, y, x, *mlp = same_type(modulation, code, extra, *target.axes(modulation.device), *weights)
    if image is not None:
        image = image.to(modulation.dtype)
    inputs = [t for t in (modulation, code, extra, image, *mlp) if t is not None]
    if ops.forced == "reference" or (torch.is_grad_enabled() and any(t.requires_grad for t in inputs)):
        check_latent(modulation, code, extra, Weights(*mlp), encoding)
        check_grid(modulation, y, x, image)
        return reference.render_grid(modulation, code, extra, y, x, image, Weights(*mlp), encoding)
    return ops.render_grid(modulation, code, extra, y, x, image, *mlp, encoding)


def layered(out: Tensor, modulation: Tensor, weights: Weights, encoding: InputEncoding) -> bool:
    """Whether `render_layers` can render these; `render` always can."""
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
    """Renders a picture of one image in levels, each as `render_grid` does it. There are no gradients.

    Ask `layered` first whether it can.

    Args:
        out: (3, rows, cols) of ``target``, contiguous, of the type of the modulations; pixels of no layer stay.
        layers: at least one.
        extra: (layers, E), of each.

    Raises:
        ValueError: a tensor whose shape, type or device does not fit the others, or a layer that does not lie in its
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
    dtype = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    return [t.to(dtype) for t in tensors]
