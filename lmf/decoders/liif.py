"""LIIF: Learning Continuous Image Representation with Local Implicit Image Function (Chen et al., CVPR 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmf import grid
from lmf.decoders.base import MLP, Decoder, Latent, Skip


@dataclass(frozen=True)
class UnfoldedLatent(Latent):
    """Unfolded features.

    Attributes:
        feat: (B, h, w, 9 C).
    """

    feat: Tensor


class LIIF(Decoder):
    """LIIF decoder, which evaluates an MLP for every output pixel and each of its four nearest latents.

    Args:
        in_channels: width C of the features, which are unfolded to 9 C.
        hidden: hidden widths of the MLP.
        skip, clip_scale: see `Decoder`. The published LIIF uses neither.
    """

    receptive_field = 2  # a neighbour and its 3 x 3 features

    def __init__(
        self,
        in_channels: int = 64,
        hidden: Sequence[int] = (256, 256, 256, 256),
        skip: Skip = "none",
        clip_scale: float | None = None,
    ) -> None:
        super().__init__(in_channels, skip, clip_scale)
        self.imnet = MLP(9 * in_channels + 4, hidden, 3)

    def latent(self, feat: Tensor, image: Tensor, cell: Tensor) -> UnfoldedLatent:
        h, w = feat.shape[-2:]
        return UnfoldedLatent((h, w), image, grid.unfold(feat))

    def decode(self, latent: UnfoldedLatent, coord: Tensor, cell: Tensor) -> Tensor:
        b, q = coord.shape[:2]
        rel_cell = grid.relative_cell(cell, latent.size)[:, None].expand(b, q, 2)
        rgb: Tensor | float = 0.0
        for index, rel, weight in zip(*grid.ensemble(coord, latent.size), strict=True):
            x = torch.cat([grid.take(latent.feat, index), rel, rel_cell], dim=-1)  # (B, Q, 9C + 4)
            rgb = rgb + weight[..., None] * self.imnet(x)
        return torch.as_tensor(rgb)
