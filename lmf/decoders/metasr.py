"""Meta-SR: A Magnification-Arbitrary Network for Super-Resolution (Hu et al., CVPR 2019), as adapted by LIIF."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmf import grid
from lmf.decoders.base import MLP, Decoder, Skip
from lmf.decoders.liif import UnfoldedLatent


class MetaSR(Decoder):
    """Meta-SR decoder, whose MLP predicts a filter from the position of a pixel in its latent cell.

    Args:
        in_channels: width C of the features, which are unfolded to 9 C.
        hidden: hidden widths of the MLP that predicts the 9 C x 3 filter.
        skip, clip_scale: see `Decoder`. The published model uses neither.
    """

    receptive_field = 2  # the latent of a pixel's top left corner and its 3 x 3 features

    def __init__(
        self,
        in_channels: int = 64,
        hidden: Sequence[int] = (256,),
        skip: Skip = "none",
        clip_scale: float | None = None,
    ) -> None:
        super().__init__(in_channels, skip, clip_scale)
        self.imnet = MLP(3, hidden, 27 * in_channels)

    def latent(self, feat: Tensor, image: Tensor, cell: Tensor) -> UnfoldedLatent:
        h, w = feat.shape[-2:]
        return UnfoldedLatent((h, w), image, grid.unfold(feat))

    def decode(self, latent: UnfoldedLatent, coord: Tensor, cell: Tensor) -> Tensor:
        size = coord.new_tensor(latent.size)
        corner = coord - cell[:, None] / 2  # top left corner of the pixel, which selects the latent
        index = grid.nearest(grid.shifted(corner, 0, 0), latent.size)
        offset = ((corner - grid.latent_centre(index, latent.size)) * size + 1) / 2  # in [0, 1] within the latent cell
        rows = grid.relative_cell(cell, latent.size)[:, None, :1] / 2  # 1 / scale
        x = torch.cat([offset, rows.expand(*offset.shape[:2], 1)], dim=-1)
        filters: Tensor = self.imnet(x).unflatten(-1, (-1, 3))  # (B, Q, 9C, 3)
        return (grid.take(latent.feat, index)[..., None, :] @ filters).squeeze(-2)
