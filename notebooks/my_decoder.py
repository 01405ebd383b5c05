"""A decoder from outside the package, and the same decoder as a latent modulated function.

The method: how far a point is from each of a few places spread over its latent cell, as Gaussian bumps, and the
features of that cell, go through an MLP. Nobody published it; put yours in its place.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lmf import grid
from lmf.decoders import MLP, Decoder, LMFDecoder, ModulatedLatent, ModulatedMLP
from lmf.decoders.liif import UnfoldedLatent


class Bumps(nn.Module):
    """Relative coordinates (..., 2), one latent cell spanning [-1, 1], to ``side**2`` Gaussians of learnt width."""

    def __init__(self, side: int) -> None:
        super().__init__()
        places = torch.linspace(-1.5, 1.5, side)
        self.register_buffer("centre", torch.cartesian_prod(places, places), persistent=False)
        self.sharpness = nn.Parameter(torch.tensor(1.0))
        self.features = side**2

    def forward(self, rel: Tensor) -> Tensor:
        distance = (rel[..., None, :] - self.centre).square().sum(dim=-1)
        return torch.exp(-self.sharpness * distance)


class BumpDecoder(Decoder):
    """The method as one would first write it: the whole MLP for every query and each of its four latents."""

    def __init__(
        self,
        in_channels: int,
        hidden: Sequence[int] = (256, 256, 256),
        side: int = 4,
        skip: str = "bilinear",
        clip_scale: float | None = None,
    ) -> None:
        super().__init__(in_channels, skip, clip_scale)
        self.bumps = Bumps(side)
        self.mlp = MLP(9 * in_channels + self.bumps.features, hidden, 3)

    def latent(self, feat: Tensor, image: Tensor, cell: Tensor) -> UnfoldedLatent:
        return UnfoldedLatent(feat.shape[-2:], image, grid.unfold(feat))

    def decode(self, latent: UnfoldedLatent, coord: Tensor, cell: Tensor) -> Tensor:
        rgb = coord.new_zeros(*coord.shape[:2], 3)
        for index, rel, weight in zip(*grid.ensemble(coord, latent.size), strict=True):
            x = torch.cat([grid.take(latent.feat, index), self.bumps(rel)], dim=-1)  # (B, Q, 9C + side²)
            rgb = rgb + weight[..., None] * self.mlp(x)
        return rgb


class LMBumpDecoder(LMFDecoder):
    """Converted: what depended on the latent alone feeds a hypernetwork, once per LR pixel; what depended on the
    query feeds a tiny MLP that the hypernetwork modulates. Nothing else needs saying."""

    def __init__(
        self,
        in_channels: int,
        width: int = 16,
        depth: int = 6,
        hyper: Sequence[int] = (208,),
        code_channels: int = 16,
        side: int = 4,
        skip: str = "bilinear",
        clip_scale: float | None = 4.0,
        bounded: bool = False,
    ) -> None:
        super().__init__(in_channels, skip, clip_scale, bounded)
        self.bumps = Bumps(side)
        self.imnet = ModulatedMLP(code_channels + self.bumps.features, width, depth)
        self.hypernet = MLP(9 * in_channels, hyper, self.imnet.modulations + code_channels)

    def latent(self, feat: Tensor, image: Tensor, cell: Tensor) -> ModulatedLatent:
        x = self.hypernet(grid.unfold(self.bound(feat)))  # (B, h, w, modulations + code)
        n = self.imnet.modulations
        return ModulatedLatent(feat.shape[-2:], image, x[..., :n], x[..., n:])

    def render_input(self, code: Tensor, rel: Tensor, rel_cell: Tensor) -> Tensor:
        return torch.cat([code, self.bumps(rel)], dim=-1)
