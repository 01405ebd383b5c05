"""LTE and LTE+: Local Texture Estimator for Implicit Representation Function (Lee & Jin, CVPR 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmf import grid
from lmf.decoders.base import MLP, Decoder, Latent, Skip
from lmf.errors import UserError


@dataclass(frozen=True)
class FourierLatent(Latent):
    """Estimated amplitudes and frequencies.

    Attributes:
        waves: (B, h, w, 2 N): N amplitudes, N / 2 frequencies along y, then N / 2 frequencies along x.
    """

    waves: Tensor


class LTE(Decoder):
    """LTE decoder, an MLP on Fourier features.

    Amplitudes and frequencies are estimated from the encoder's features, phases from the cell.

    Args:
        in_channels: width C of the encoder's features.
        hidden_dim: number N of amplitudes, even; there are half as many frequencies.
        hidden: hidden widths of the MLP.
        skip, clip_scale: see `Decoder`.

    Raises:
        UserError: if ``hidden_dim`` is odd or smaller than 2.
    """

    receptive_field = 2  # a neighbour and its 3 x 3 convolutions

    def __init__(
        self,
        in_channels: int = 64,
        hidden_dim: int = 256,
        hidden: Sequence[int] = (256, 256, 256),
        skip: Skip = "bilinear",
        clip_scale: float | None = 4.0,
    ) -> None:
        super().__init__(in_channels, skip, clip_scale)
        if hidden_dim < 2 or hidden_dim % 2:
            raise UserError(f"hidden_dim must be even and at least 2, got {hidden_dim}")
        self.coef = nn.Conv2d(in_channels, hidden_dim, 3, padding=1)
        self.freq = nn.Conv2d(in_channels, hidden_dim, 3, padding=1)
        self.phase = nn.Linear(2, hidden_dim // 2, bias=False)
        self.imnet = MLP(hidden_dim, hidden, 3)

    def latent(self, feat: Tensor, image: Tensor, cell: Tensor) -> FourierLatent:
        h, w = feat.shape[-2:]
        return FourierLatent((h, w), image, self.waves(feat))

    def waves(self, feat: Tensor) -> Tensor:
        """Estimate amplitudes and frequencies from ``feat`` (B, C, h, w), as in `FourierLatent`."""
        return estimate(feat, self.coef, self.freq)

    def decode(self, latent: FourierLatent, coord: Tensor, cell: Tensor) -> Tensor:
        phase = self.phase(grid.relative_cell(cell, latent.size))[:, None]  # (B, 1, N / 2)
        rgb: Tensor | float = 0.0
        for index, rel, weight in zip(*grid.ensemble(coord, latent.size), strict=True):
            x = fourier(grid.take(latent.waves, index), rel, phase)  # (B, Q, N)
            rgb = rgb + weight[..., None] * self.imnet(x)
        return torch.as_tensor(rgb)


class LTEPlus(LTE):
    """LTE+ decoder (``lte-fast``): LTE whose convolution outputs all y frequencies before all x frequencies.

    The released code writes the MLP as 1 x 1 convolutions over a full grid. This one accepts any coordinates.
    """

    def waves(self, feat: Tensor) -> Tensor:
        return estimate(feat, self.coef, self.freq, pairs=False)


def estimate(feat: Tensor, coef: nn.Conv2d, freq: nn.Conv2d, pairs: bool = True) -> Tensor:
    """Estimate amplitudes and frequencies, ordered as in `FourierLatent`.

    Both convolutions run as a single one. Their weights are reordered instead of the result.

    Args:
        feat: (B, C, h, w) encoder features.
        coef: 3 x 3 convolution for the amplitudes.
        freq: 3 x 3 convolution for the frequencies.
        pairs: whether ``freq`` outputs (y, x) pairs; otherwise all y frequencies come before all x frequencies.

    Returns:
        (B, h, w, 2 N), contiguous.
    """

    def ordered(t: Tensor) -> Tensor:
        return t.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1) if pairs else t

    assert coef.bias is not None
    assert freq.bias is not None
    weight, bias = (torch.cat([a, ordered(b)]) for a, b in ((coef.weight, freq.weight), (coef.bias, freq.bias)))
    return F.conv2d(feat, weight, bias, padding=1).permute(0, 2, 3, 1).contiguous()


def fourier(waves: Tensor, rel: Tensor, phase: Tensor) -> Tensor:
    """Compute the Fourier features of LTE (eq. 4).

    ``coef * [cos(pi f), sin(pi f)]`` with ``f = freq_y rel_y + freq_x rel_x + phase``.

    Args:
        waves: (..., 2 N), see `FourierLatent`.
        rel: (..., 2) coordinate relative to the latent; one latent cell spans 2 units.
        phase: broadcastable to (..., N / 2).

    Returns:
        (..., N).
    """
    n = waves.shape[-1] // 2
    parts: tuple[Tensor, Tensor, Tensor] = waves.split((n, n // 2, n // 2), dim=-1)
    coef, freq_y, freq_x = parts
    f = math.pi * (freq_y * rel[..., :1] + freq_x * rel[..., 1:] + phase)
    return coef * torch.cat([f.cos(), f.sin()], dim=-1)
