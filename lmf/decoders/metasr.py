"""Meta-SR: A Magnification-Arbitrary Network for Super-Resolution (Hu et al., CVPR 2019), in LIIF's form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmf import grid
from lmf.decoders.base import MLP, Decoder, Skip
from lmf.decoders.liif import UnfoldedLatent


class MetaSR(Decoder):
    """An MLP predicts, from where in its latent cell a pixel lies, the filter that makes its colour.

    Args:
        in_channels: width C of the features; they are unfolded to 9 C.
        hidden: widths of the MLP that predicts the 9 C x 3 filter.
        skip, clip_scale: see `Decoder`. The published model has neither.
    """

    receptive_field = 2  # the 3 x 3 features of where a pixel begins

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
        corner = coord - cell[:, None] / 2  # top left of the pixel; the latent cell that holds it counts
        index = grid.nearest(grid.shifted(corner, 0, 0), latent.size)
        offset = ((corner - grid.latent_centre(index, latent.size)) * size + 1) / 2  # in [0, 1] of that cell
        rows = grid.relative_cell(cell, latent.size)[:, None, :1] / 2  # 1 / scale
        x = torch.cat([offset, rows.expand(*offset.shape[:2], 1)], dim=-1)
        filters = self.imnet(x).unflatten(-1, (-1, 3))  # (B, Q, 9C, 3)
        return (grid.take(latent.feat, index)[..., None, :] @ filters).squeeze(-2)
