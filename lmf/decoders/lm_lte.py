"""LM-LTE: LTE as a latent modulated function (He & Jin, CVPR 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from lmf import grid
from lmf.decoders.base import MLP, Skip
from lmf.decoders.lte import estimate, fourier
from lmf.decoders.modulation import LMFDecoder, ModulatedLatent, ModulatedMLP
from lmf.errors import UserError

# Initial diffusivity of Thera, in units in which a latent cell spans 2 instead of 1.
DIFFUSIVITY = 4 * math.sqrt(math.log(4)) / (2 * math.pi**2)


class LMLTE(LMFDecoder):
    """LM-LTE decoder, whose hypernetwork reads Fourier features of the latent.

    The renderer reads Fourier features of the coordinate.

    Args:
        in_channels: width C of the encoder's features.
        hidden_dim: number N of amplitudes estimated from the features, even.
        width, depth: hidden width D and number L of hidden layers of the renderer.
        hyper: hidden widths of the hypernetwork.
        code_channels: channels of the compressed latent that the hypernetwork outputs besides the modulations, a
            multiple of 4. Half of them are amplitudes, half frequencies. With 0 there are none, and the renderer reads
            the estimated amplitudes and frequencies instead.
        skip, clip_scale: see `Decoder`.
        bounded: see `LMFDecoder`.

    Raises:
        UserError: if ``hidden_dim`` or ``code_channels`` is not as required.
    """

    input_encoding = "fourier"
    receptive_field = 2  # a neighbour and its 3 x 3 convolution

    def __init__(
        self,
        in_channels: int = 64,
        hidden_dim: int = 128,
        width: int = 16,
        depth: int = 8,
        hyper: Sequence[int] = (288,),
        code_channels: int = 32,
        skip: Skip = "bilinear",
        clip_scale: float | None = 4.0,
        bounded: bool = False,
    ) -> None:
        super().__init__(in_channels, skip, clip_scale, bounded)
        if hidden_dim < 2 or hidden_dim % 2:
            raise UserError(f"hidden_dim must be even and at least 2, got {hidden_dim}")
        if code_channels < 0 or code_channels % 4:
            raise UserError(f"code_channels must be a multiple of 4, got {code_channels}")
        self.code_channels = code_channels
        self.coef = nn.Conv2d(in_channels, hidden_dim, 3, padding=1)
        self.freq = nn.Conv2d(in_channels, hidden_dim, 3, padding=1)
        self.phase = nn.Linear(2, hidden_dim // 2, bias=False)
        if code_channels:
            self.imphase = nn.Linear(2, code_channels // 4, bias=False)
        self.imnet = ModulatedMLP(code_channels // 2 or hidden_dim, width, depth)
        self.hypernet = MLP(hidden_dim, hyper, self.imnet.modulations + code_channels)

    def latent(self, feat: Tensor, image: Tensor, cell: Tensor) -> ModulatedLatent:
        feat = self.bound(feat)
        h, w = feat.shape[-2:]
        waves = estimate(feat, self.coef, self.freq)  # (B, h, w, 2 N)
        phase = self.phase(grid.relative_cell(cell, (h, w)))[:, None, None]  # (B, 1, 1, N / 2)
        # The hypernetwork reads the latent as a whole: a relative coordinate of (1, 1) adds up y and x frequencies.
        x = self.hypernet(fourier(waves, waves.new_ones(2), phase))
        modulation, code = x.split((self.imnet.modulations, self.code_channels), dim=-1)
        if self.code_channels:
            coef, freq = code.chunk(2, dim=-1)
            waves = torch.cat([coef, freq[..., ::2], freq[..., 1::2]], dim=-1)
        return ModulatedLatent((h, w), image, modulation, waves)

    def extra(self, rel_cell: Tensor) -> Tensor:
        phase: Tensor = (self.imphase if self.code_channels else self.phase)(rel_cell)
        return phase


class LMLTEHeat(LMLTE):
    """LM-LTE whose waves decay with the area of an output pixel, as heat spreads; a variant of this package.

    The amplitude of a wave of frequency f is multiplied by ``exp(-pi^2 k |f r / 2|^2)``, where r is the size of an
    output pixel and one latent cell spans 2 units along both axes (Thera, Becker et al., 2024). Waves that are too fine
    for the pixels of a small enlargement therefore vanish from the input of the renderer at every scale, also at those
    that were not seen in training. The diffusivity k is learnt. Only the cell that phases are computed from is clipped,
    so that latents differ between all scales.

    Args:
        in_channels, hidden_dim, width, depth, hyper, code_channels, skip, bounded: see `LMLTE`.
        phase_scale: largest scale seen in training. Above it phases are those of this scale; None disables this.
    """

    def __init__(
        self,
        in_channels: int = 64,
        hidden_dim: int = 128,
        width: int = 16,
        depth: int = 8,
        hyper: Sequence[int] = (288,),
        code_channels: int = 32,
        skip: Skip = "bilinear",
        phase_scale: float | None = 4.0,
        bounded: bool = False,
    ) -> None:
        super().__init__(in_channels, hidden_dim, width, depth, hyper, code_channels, skip, None, bounded)
        self.phase_scale = phase_scale
        self.log_diffusivity = nn.Parameter(torch.tensor(DIFFUSIVITY).log())

    def latent(self, feat: Tensor, image: Tensor, cell: Tensor) -> ModulatedLatent:
        size = (feat.shape[-2], feat.shape[-1])
        clipped = cell if self.phase_scale is None else grid.clip_cell(cell, size, self.phase_scale)
        latent = super().latent(feat, image, clipped)
        return replace(latent, code=self.decayed(latent.code, grid.relative_cell(cell, size)))

    def decayed(self, waves: Tensor, rel_cell: Tensor) -> Tensor:
        """Damp the amplitudes of ``waves`` (B, h, w, 2 N), see `FourierLatent`, for ``rel_cell`` (B, 2)."""
        n = waves.shape[-1] // 2
        coef, freq_y, freq_x = waves.split((n, n // 2, n // 2), dim=-1)
        y, x = (rel_cell / 2)[:, None, None, :, None].unbind(3)  # (B, 1, 1, 1)
        spread = (freq_y * y).square() + (freq_x * x).square()  # (B, h, w, N / 2)
        decay = torch.exp(-(math.pi**2) * self.log_diffusivity.exp() * spread)
        return torch.cat([coef * torch.cat([decay, decay], dim=-1), freq_y, freq_x], dim=-1)

    def extra(self, rel_cell: Tensor) -> Tensor:
        return super().extra(rel_cell if self.phase_scale is None else rel_cell.clamp_min(2 / self.phase_scale))
