"""Latent Modulated Functions (He & Jin, CVPR 2024): what all LMF decoders share.

A hypernetwork decodes each latent *once* into modulations of a tiny MLP (section 3.2); that MLP renders
every output pixel (section 3.3). A method says what goes into the hypernetwork (`latent`) and what the
renderer reads besides modulations (`render_input`); everything else is here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmf import grid
from lmf.decoders.base import Decoder, Latent, Skip


@dataclass(frozen=True)
class ModulatedLatent(Latent):
    """Attributes:
    modulation: (B, h, w, 2 L D), all scales (L x D) then all shifts (L x D).
    code: (B, h, w, K), what the renderer reads of a latent besides its modulations.
    """

    modulation: Tensor
    code: Tensor

    def intensity(self) -> Tensor:
        """Modulation intensity (B, h, w): mean absolute shift; how much detail a latent carries (section 3.4)."""
        return self.modulation[..., self.modulation.shape[-1] // 2 :].abs().mean(dim=-1)


class ModulatedMLP(nn.Module):
    """The renderer: ``depth`` hidden layers of ``width``, each modulated, then an unmodulated output layer.

    ``x = relu((W x + b) * (1 + scale_l) + shift_l)`` (eq. 6)
    """

    def __init__(self, in_dim: int, width: int, depth: int, out_dim: int = 3) -> None:
        super().__init__()
        self.width, self.depth = width, depth
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Linear(in_dim, width), nn.ReLU()]
            in_dim = width
        self.layers = nn.Sequential(*layers, nn.Linear(in_dim, out_dim))

    @property
    def modulations(self) -> int:
        """How many numbers modulate it: 2 L D."""
        return 2 * self.width * self.depth

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """``x`` (..., in_dim) and ``modulation`` (..., 2 L D) to (..., out_dim)."""
        scales, shifts = modulation.unflatten(-1, (2, self.depth, self.width)).unbind(-3)  # (..., L, D) each
        for level in range(self.depth):
            x = self.layers[2 * level](x)
            x = (x * (1 + scales[..., level, :]) + shifts[..., level, :]).relu()
        return self.layers[-1](x)


class LMFDecoder(Decoder):
    """Base of the LMF decoders. Subclasses set ``imnet: ModulatedMLP`` and define `latent`, `render_input`."""

    imnet: ModulatedMLP

    def __init__(self, in_channels: int, skip: Skip = "none", clip_scale: float | None = 4.0) -> None:
        super().__init__(in_channels, skip, clip_scale)

    def render_input(self, code: Tensor, rel: Tensor, rel_cell: Tensor) -> Tensor:
        """What the renderer reads.

        Args:
            code: (B, Q, K) of the latent at hand.
            rel: (B, Q, 2) coordinate relative to its centre, one latent cell spanning 2 units.
            rel_cell: (B, Q, 2) size of an output pixel in the same units.

        Returns:
            (B, Q, in_dim of ``imnet``).
        """
        raise TypeError(f"{type(self).__name__} does not define render_input(code, rel, rel_cell)")

    def decode(self, latent: ModulatedLatent, coord: Tensor, cell: Tensor) -> Tensor:
        b, q = coord.shape[:2]
        rel_cell = grid.relative_cell(cell, latent.size)[:, None].expand(b, q, 2)
        rgb: Tensor | float = 0.0
        for index, rel, weight in zip(*grid.ensemble(coord, latent.size), strict=True):
            x = self.render_input(grid.take(latent.code, index), rel, rel_cell)
            rgb = rgb + weight[..., None] * self.imnet(x, grid.take(latent.modulation, index))
        return torch.as_tensor(rgb)
