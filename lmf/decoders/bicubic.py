"""Continuous bicubic interpolation (Keys, a = -0.5) as a baseline without a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmf import grid
from lmf.decoders.base import Decoder, Latent

_A = -0.5


@dataclass(frozen=True)
class ImageLatent(Latent):
    """The image as latents.

    Attributes:
        pixels: (B, h, w, 3).
    """

    pixels: Tensor


class Bicubic(Decoder):
    """Samples the image itself; use it with the `Identity` encoder.

    Above x1 it equals the bicubic interpolation of PIL and MATLAB, with the border repeated. Below x1 it does not
    low-pass filter, because it samples points.

    Args:
        in_channels: number of image channels.
    """

    receptive_field = 2

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__(in_channels)

    def latent(self, feat: Tensor, image: Tensor, cell: Tensor) -> ImageLatent:
        h, w = image.shape[-2:]
        return ImageLatent((h, w), None, image.permute(0, 2, 3, 1))

    def decode(self, latent: ImageLatent, coord: Tensor, cell: Tensor) -> Tensor:
        h, w = latent.size
        position = ((coord + 1) * coord.new_tensor(latent.size) - 1) / 2  # pixel units, centre of pixel i at i
        base = position.floor()
        weight_y, weight_x = cubic_weights(position - base).unbind(-2)  # each (B, Q, 4)
        base = base.long()
        rgb: Tensor | float = 0.0
        for i in range(4):
            y = (base[..., 0] + i - 1).clamp(0, h - 1)
            for j in range(4):
                x = (base[..., 1] + j - 1).clamp(0, w - 1)
                weight = (weight_y[..., i] * weight_x[..., j])[..., None]
                rgb = rgb + weight * grid.take(latent.pixels, y * w + x)
        return torch.as_tensor(rgb)

    def render(self, latent: Any, target: grid.Grid, cell: Tensor) -> Tensor:
        """Sample rows, then columns, which takes a fraction of the work of `query`."""
        out: Tensor = latent.pixels.permute(0, 3, 1, 2)  # (B, 3, h, w)
        for dim, centres in zip((2, 3), target.axes(cell.device, cell.dtype), strict=True):
            n = out.shape[dim]
            position = ((centres + 1) * n - 1) / 2
            base = position.floor()
            taps = (base.long() + torch.arange(-1, 3, device=base.device)[:, None]).clamp(0, n - 1)  # (4, pixels)
            weights = cubic_weights(position - base).T.reshape(4, *((-1, 1) if dim == 2 else (-1,)))
            rgb: Tensor | float = 0.0
            for tap, weight in zip(taps, weights, strict=True):
                rgb = rgb + out.index_select(dim, tap) * weight
            out = torch.as_tensor(rgb)
        return out.to(cell.dtype)


def cubic_weights(fraction: Tensor) -> Tensor:
    """Return Keys' weights (..., 4) of the taps -1, 0, 1, 2 for a point ``fraction`` (...) in [0, 1] past tap 0."""
    d = (fraction[..., None] - torch.arange(-1, 3, device=fraction.device)).abs()
    near = ((_A + 2) * d - (_A + 3)) * d * d + 1
    far = _A * (((d - 5) * d + 8) * d - 4)
    return torch.where(d <= 1, near, far)
