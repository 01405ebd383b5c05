"""LM-SRNO: SRNO as a latent modulated function, a method of this package."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lmf import grid
from lmf.decoders.base import MLP, Linear, Skip
from lmf.decoders.galerkin import GalerkinAttention
from lmf.decoders.modulation import LMFDecoder, ModulatedLatent, ModulatedMLP


class LMSRNO(LMFDecoder):
    """LM-SRNO decoder, whose hypernetwork is SRNO's attention over the LR pixels instead of the output pixels.

    Latents depend on the whole LR picture. Rendering is local, so that pictures can be rendered in parts, which SRNO's
    cannot. The renderer reads the compressed latent, the coordinate and the cell, as in `LMLIIF`.

    Args:
        in_channels: width C of the encoder's features.
        width, depth: hidden width D and number L of hidden layers of the renderer.
        channels: channels of the attention layers; ``width`` in `SRNO`.
        heads: number of attention heads.
        hyper: hidden widths of the MLP from the attention to modulations.
        code_channels: channels of the compressed latent, at least 1.
        skip, clip_scale: see `Decoder`.
        bounded: see `LMFDecoder`.

    Raises:
        UserError: if ``channels`` and ``heads`` do not fit, see `GalerkinAttention`.
    """

    input_encoding = "linear"  # [code, relative coordinate, relative cell]

    def __init__(
        self,
        in_channels: int = 64,
        width: int = 16,
        depth: int = 6,
        channels: int = 256,
        heads: int = 16,
        hyper: Sequence[int] = (),
        code_channels: int = 16,
        skip: Skip = "bilinear",
        clip_scale: float | None = 4.0,
        bounded: bool = False,
    ) -> None:
        super().__init__(in_channels, skip, clip_scale, bounded)
        self.imnet = ModulatedMLP(code_channels + 4, width, depth)
        self.lift = Linear(9 * in_channels + 2, channels)
        self.attention = nn.ModuleList(GalerkinAttention(channels, heads) for _ in range(2))
        self.hypernet = MLP(channels, hyper, self.imnet.modulations + code_channels)

    def latent(self, feat: Tensor, image: Tensor, cell: Tensor) -> ModulatedLatent:
        feat = self.bound(feat)
        h, w = feat.shape[-2:]
        c = 9 * self.in_channels
        # A linear layer over 3 x 3 neighbourhoods is a convolution; the cell is one vector per image.
        x = F.conv2d(feat, self.lift.weight[:, :c].unflatten(1, (-1, 3, 3)), padding=1)  # (B, n, h, w)
        constant = F.linear(grid.relative_cell(cell, (h, w)), self.lift.weight[:, c:], self.lift.bias)
        x = x.flatten(2).mT + constant[:, None]  # (B, h w, n)
        for layer in self.attention:
            x = layer(x)
        x = self.hypernet(x).unflatten(1, (h, w))
        n = self.imnet.modulations
        return ModulatedLatent((h, w), image, x[..., :n], x[..., n:])

    def extra(self, rel_cell: Tensor) -> Tensor:
        return rel_cell
