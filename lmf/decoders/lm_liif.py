"""LM-LIIF: LIIF as a latent modulated function (He & Jin, CVPR 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lmf import grid
from lmf.decoders.base import MLP, Skip
from lmf.decoders.modulation import LMFDecoder, ModulatedLatent, ModulatedMLP
from lmf.errors import UserError


class LMLIIF(LMFDecoder):
    """LM-LIIF decoder, whose hypernetwork reads the unfolded features and the cell.

    The renderer reads the compressed latent, the coordinate and the cell.

    Args:
        in_channels: width C of the encoder's features.
        width, depth: hidden width D and number L of hidden layers of the renderer.
        hyper: hidden widths of the hypernetwork.
        code_channels: channels of the compressed latent that the hypernetwork outputs besides the modulations. With 0
            there is none, and the renderer reads the encoder's features instead.
        skip: see `Decoder`; ``"none"`` as published. ``"bilinear"`` learns much faster.
        clip_scale: see `Decoder`.
        bounded: see `LMFDecoder`.

    Raises:
        UserError: if ``hyper`` is empty.
    """

    input_encoding = "linear"  # [code, relative coordinate, relative cell]
    receptive_field = 2  # a neighbour and its 3 x 3 convolution

    def __init__(
        self,
        in_channels: int = 64,
        width: int = 16,
        depth: int = 6,
        hyper: Sequence[int] = (208,),
        code_channels: int = 16,
        skip: Skip = "none",
        clip_scale: float | None = 4.0,
        bounded: bool = False,
    ) -> None:
        super().__init__(in_channels, skip, clip_scale, bounded)
        if not hyper:
            raise UserError(f"hyper must have at least one hidden width, got {[*hyper]}")
        self.code_channels = code_channels
        self.imnet = ModulatedMLP((code_channels or in_channels) + 4, width, depth)
        self.hypernet = MLP(9 * in_channels + 2, hyper, self.imnet.modulations + code_channels)

    def latent(self, feat: Tensor, image: Tensor, cell: Tensor) -> ModulatedLatent:
        feat = self.bound(feat)
        h, w = feat.shape[-2:]
        first, *rest = self.hypernet.layers
        assert isinstance(first, nn.Linear)
        # A linear layer over 3 x 3 neighbourhoods is a convolution; the cell is one vector per image.
        c = 9 * self.in_channels
        x = F.conv2d(feat, first.weight[:, :c].unflatten(1, (-1, 3, 3)), padding=1)  # (B, n, h, w)
        x = x.permute(0, 2, 3, 1).add_(
            F.linear(grid.relative_cell(cell, (h, w)), first.weight[:, c:], first.bias)[:, None, None]
        )
        for layer in rest:
            x = layer(x)  # (B, h, w, n)
        code = x[..., self.imnet.modulations :] if self.code_channels else feat.permute(0, 2, 3, 1)
        return ModulatedLatent((h, w), image, x[..., : self.imnet.modulations], code)

    def extra(self, rel_cell: Tensor) -> Tensor:
        return rel_cell
