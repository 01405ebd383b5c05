"""Defines rendering in plain PyTorch: readable, differentiable, and the reference for the tests of all kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from lmf import grid
from lmf.kernels.checks import check_blend
from lmf.kernels.layout import Weights

LAYERS = False  # whether `render_layers` exists
QUERIES = 65536  # number of queries to gather at a time


def render(modulation: Tensor, code: Tensor, extra: Tensor, coord: Tensor, weights: Weights, encoding: str) -> Tensor:
    """Render scattered coordinates; see `lmf.kernels.render`."""

    def predict(modulation: Tensor, code: Tensor, rel: Tensor) -> Tensor:
        return mlp(render_input(code, rel, extra[:, None], encoding), modulation, weights)

    return blend(modulation, code, coord, predict)


def serves(modulation: Tensor, weights: Weights, encoding: str) -> bool:
    """Return True: this implementation supports all tensors."""
    return True


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
    """Render a pixel grid in bands of rows, to bound the gathered tensors; see `lmf.kernels.render_grid`."""
    b, rows = len(modulation), max(1, QUERIES // max(1, len(modulation) * len(x)))
    bands = []
    for band in y.split(rows):
        coord = torch.stack(torch.meshgrid(band, x, indexing="ij"), dim=-1).flatten(0, 1).expand(b, -1, 2)
        rgb = render(modulation, code, extra, coord, weights, encoding)
        if image is not None:
            rgb = rgb + grid.bilinear(image, coord)
        bands.append(rgb.transpose(1, 2).unflatten(2, (len(band), len(x))))  # (B, 3, rows, W)
    return torch.cat(bands, dim=2)


def blend(
    modulation: Tensor, code: Tensor, coord: Tensor, predict: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """Blend the predictions of the four latents around each coordinate (the local ensemble).

    Args:
        modulation: (B, h, w, C).
        code: (B, h, w, K).
        coord: (B, Q, 2) as (y, x) in [-1, 1].
        predict: maps modulation (B, Q, C), code (B, Q, K) and relative coordinate (B, Q, 2) of one latent per query to
            colours (B, Q, 3).

    Returns:
        (B, Q, 3).

    Raises:
        ValueError: if a shape does not match.
    """
    check_blend(modulation, code, coord)
    h, w = modulation.shape[1:3]
    rgb: Tensor | float = 0.0
    for index, rel, weight in zip(*grid.ensemble(coord, (h, w)), strict=True):
        rgb = rgb + weight[..., None] * predict(grid.take(modulation, index), grid.take(code, index), rel)
    return torch.as_tensor(rgb)


def render_input(code: Tensor, rel: Tensor, extra: Tensor, encoding: str) -> Tensor:
    """Encode ``code`` (B, Q, K), ``rel`` (B, Q, 2) and ``extra`` (B, 1 or Q, E) as the input (B, Q, in) of the MLP."""
    if encoding == "linear":
        return torch.cat([code, rel, extra.expand(*rel.shape[:2], -1)], dim=-1)
    amplitude, fy, fx = code.split([code.shape[-1] // 2, code.shape[-1] // 4, code.shape[-1] // 4], dim=-1)
    angle = torch.pi * (fy * rel[..., :1] + fx * rel[..., 1:] + extra)  # (B, Q, M / 2)
    z: Tensor = amplitude * torch.cat([angle.cos(), angle.sin()], dim=-1)
    return z


def mlp(x: Tensor, modulation: Tensor, weights: Weights) -> Tensor:
    """Map ``x`` (..., in) to (..., 3) by L layers ``relu((W x + b) * (1 + scale_l) + shift_l)`` and a linear one."""
    depth, width = weights.bias.shape
    scales, shifts = modulation.unflatten(-1, (2, depth, width)).unbind(-3)  # (..., L, D) each
    for level, weight in enumerate([weights.first, *weights.hidden]):
        x = F.linear(x, weight, weights.bias[level])
        x = (x * (1 + scales[..., level, :]) + shifts[..., level, :]).relu()
    return F.linear(x, weights.out, weights.out_bias)


def backward(
    grad: Tensor, modulation: Tensor, code: Tensor, extra: Tensor, coord: Tensor, weights: Weights, encoding: str
) -> tuple[Tensor, ...]:
    """Compute the gradients of ``(grad * render(...)).sum()`` for modulation, code, extra and the five weights.

    The chain rule is written out because operators run below autograd. The forward pass is repeated in chunks, so that
    no gathered modulation tensor is kept.
    """
    b, h, w, _ = modulation.shape
    depth, width = weights.bias.shape
    layers = [weights.first, *weights.hidden]
    grads = [torch.zeros_like(t, memory_format=torch.contiguous_format) for t in (modulation, code, extra, *weights)]
    to_modulation, to_code, to_extra = (g.flatten(0, -2) for g in grads[:3])
    to_layers = [grads[3], *grads[4]]
    to_out, to_bias, to_out_bias = grads[5:]
    to_out_bias += grad.sum((0, 1))
    for chunk in chunks(coord):
        image = torch.arange(b, device=coord.device)[:, None].expand(b, coord[:, chunk].shape[1]).flatten()
        for index, rel, weight in zip(*grid.ensemble(coord[:, chunk], (h, w)), strict=True):
            at = index.flatten() + image * (h * w)  # (n,)
            rel = rel.flatten(0, 1)
            scales, shifts = grid.take(modulation, index).view(-1, 2, depth, width).unbind(1)  # (n, L, D) each
            codes = grid.take(code, index).flatten(0, 1)
            x = [render_input(codes[None], rel[None], extra[image][None], encoding)[0]]
            y = []
            for level, layer in enumerate(layers):
                y.append(F.linear(x[-1], layer, weights.bias[level]))  # (n, D)
                x.append((y[-1] * (1 + scales[:, level]) + shifts[:, level]).relu())
            g = (weight[..., None] * grad[:, chunk]).flatten(0, 1)  # (n, 3)
            to_out += g.T @ x[-1]
            g = g @ weights.out  # (n, D)
            to_scales, to_shifts = torch.empty_like(scales), torch.empty_like(shifts)
            for level in reversed(range(depth)):
                to_shifts[:, level] = g = g * (x[level + 1] > 0)
                to_scales[:, level] = g * y[level]
                g = g * (1 + scales[:, level])
                to_bias[level] += g.sum(0)
                to_layers[level] += g.T @ x[level]
                g = g @ layers[level]  # (n, D); (n, in) after the last step
            to_modulation.index_add_(0, at, torch.cat([to_scales, to_shifts], dim=1).flatten(1))
            to_codes, to_extras = input_backward(g, codes, rel, extra[image], encoding)
            to_code.index_add_(0, at, to_codes)
            to_extra.index_add_(0, image, to_extras)
    return tuple(grads)


def input_backward(g: Tensor, code: Tensor, rel: Tensor, extra: Tensor, encoding: str) -> tuple[Tensor, Tensor]:
    """Compute the gradients of `render_input` for ``code`` (n, K) and ``extra`` (n, E) from ``g`` (n, in)."""
    if encoding == "linear":
        return g[:, : code.shape[1]], g[:, code.shape[1] + 2 :]
    amplitude, fy, fx = code.split([code.shape[1] // 2, code.shape[1] // 4, code.shape[1] // 4], dim=1)
    angle = torch.pi * (fy * rel[:, :1] + fx * rel[:, 1:] + extra)
    c, s = angle.cos(), angle.sin()
    to_cos, to_sin = (g * amplitude).chunk(2, dim=1)
    to_f = torch.pi * (to_sin * c - to_cos * s)
    return torch.cat([g * torch.cat([c, s], dim=1), to_f * rel[:, :1], to_f * rel[:, 1:]], dim=1), to_f


def chunks(coord: Tensor) -> Iterator[slice]:
    """Yield slices of the queries of ``coord`` (B, Q, 2), with about `QUERIES` queries of the whole batch each."""
    step = max(1, QUERIES // max(1, len(coord)))
    for start in range(0, coord.shape[1], step):
        yield slice(start, start + step)
