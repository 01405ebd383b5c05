"""DIIF: Dynamic Implicit Image Function for Efficient Arbitrary-Scale Image Representation.

He & Jin, arXiv 2306.12321; implemented from the description in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmf import grid
from lmf.decoders.base import MLP, Decoder, Latent, Skip
from lmf.errors import UserError

Slicing = Literal["linear", "constant"]

_ROWS = 1 << 24  # more rows than float32 coordinates can distinguish
_EDGE = 1e-3  # tolerance in output pixels


@dataclass(frozen=True)
class SliceLatent(Latent):
    """The shared part of the MLP, computed once per latent.

    Attributes:
        hidden: (B, h, w, N). In constant order, the result of `DIIF.slice_vector` for the single slice of each latent.
            In linear order, the contribution of the features to the first coarse layer.
    """

    hidden: Tensor


class DIIF(Decoder):
    """DIIF decoder, which runs the coarse layers of an MLP once per slice and the fine layers once per pixel.

    The output pixels whose centres lie in one latent cell form a group. In linear order each row of a group is a slice,
    so there are s slices at scale s. In constant order the whole group is one slice. The coarse layers read the latent
    and the first and last pixel centre of the slice. The fine layers read their result and the coordinate.

    The pixels follow from ``cell`` alone: the output grid starts at (-1, -1), and its pixels have this size. A
    coordinate between pixel centres belongs to the pixel that contains it. Queries are therefore independent of each
    other, whether a picture is rendered whole, in bands or at scattered coordinates. The cell must never be clipped.

    Args:
        in_channels: width C of the features, which are unfolded to 9 C.
        coarse: widths of the coarse layers.
        fine: hidden widths of the fine layers.
        slicing: ``"linear"`` or ``"constant"`` order.
        skip: see `Decoder`.

    Raises:
        UserError: if ``slicing`` is unknown or a list of widths is empty.
    """

    graph_obstacle = "it computes each distinct slice once, and how many there are depends on the coordinates"

    def __init__(
        self,
        in_channels: int = 64,
        coarse: Sequence[int] = (256, 256, 256),
        fine: Sequence[int] = (256,),
        slicing: Slicing = "linear",
        skip: Skip = "none",
    ) -> None:
        super().__init__(in_channels, skip, None)
        if slicing not in get_args(Slicing):
            raise UserError(f"slicing must be one of {get_args(Slicing)}, got {slicing!r}")
        if not coarse or not fine:
            raise UserError(f"coarse and fine must each have at least one width, got {[*coarse]} and {[*fine]}")
        self.slicing = slicing
        self.coarse = MLP(9 * in_channels + 4, coarse[:-1], coarse[-1])
        self.fine = MLP(coarse[-1] + 2, fine, 3)

    def latent(self, feat: Tensor, image: Tensor, cell: Tensor) -> SliceLatent:
        h, w = feat.shape[-2:]
        first, _ = split(self.coarse)
        c = 9 * self.in_channels
        # A linear layer over 3 x 3 neighbourhoods is a convolution.
        x = F.conv2d(feat, first.weight[:, :c].unflatten(1, (-1, 3, 3)), first.bias, padding=1)
        x = x.permute(0, 2, 3, 1).contiguous()  # (B, h, w, N)
        if self.slicing == "constant":
            index = torch.arange(h * w, device=feat.device).expand(len(feat), -1)
            start, end = pixel_span(grid.latent_centre(index, (h, w)), cell[:, None], (h, w))  # (B, h w, 2)
            x = self.slice_vector(x.flatten(1, 2), torch.cat([start, end], dim=-1)).unflatten(1, (h, w))
        return SliceLatent((h, w), image, x)

    def slice_vector(self, x: Tensor, ends: Tensor) -> Tensor:
        """Compute the contribution of a slice to the first fine layer: (..., N).

        Args:
            x: (..., N) contribution of the features to the first coarse layer.
            ends: (..., 4) first and last pixel centre of the slice, relative to the latent.
        """
        first, rest = split(self.coarse)
        x = x + F.linear(ends, first.weight[:, 9 * self.in_channels :])
        x = rest(x).relu()
        first, _ = split(self.fine)
        return F.linear(x, first.weight[:, :-2], first.bias)

    def decode(self, latent: SliceLatent, coord: Tensor, cell: Tensor) -> Tensor:
        index = grid.nearest(coord, latent.size)  # (B, Q)
        centre = grid.latent_centre(index, latent.size)
        size = coord.new_tensor(latent.size)
        if self.slicing == "constant":
            x = grid.take(latent.hidden, index)
        else:
            x = self.row_vectors(latent, index, coord, cell)
        first, rest = split(self.fine)
        rgb: Tensor = rest(x + F.linear((coord - centre) * size, first.weight[:, -2:]))
        return rgb

    def row_vectors(self, latent: SliceLatent, index: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """Return the `slice_vector` (B, Q, N) of each query's slice, computing each distinct slice once."""
        b, h, w, _ = latent.hidden.shape
        row = ((coord[..., 0] + 1) / cell[:, :1]).floor().clamp(0, _ROWS - 1)  # (B, Q), row of the output grid
        image = torch.arange(b, device=index.device)[:, None]
        slices, inverse = ((image * (h * w) + index) * _ROWS + row.long()).unique(return_inverse=True)  # (S,), (B, Q)
        place, row = slices // _ROWS, slices % _ROWS
        image, centre = place // (h * w), grid.latent_centre(place % (h * w), (h, w))
        start, end = pixel_span(centre, cell[image], (h, w))  # (S, 2)
        y = ((row + 0.5) * cell[image, 0] - 1 - centre[:, 0]) * h
        ends = torch.stack([y, start[:, 1], y, end[:, 1]], dim=-1)
        vectors = self.slice_vector(latent.hidden.flatten(0, 2)[place], ends)  # (S, N)
        return vectors[inverse]


def split(mlp: MLP) -> tuple[nn.Linear, nn.Module]:
    """Split ``mlp`` into its first layer and the others, so that parts of its input can be applied separately."""
    first = mlp.layers[0]
    assert isinstance(first, nn.Linear)
    return first, mlp.layers[1:]


def pixel_span(centre: Tensor, cell: Tensor, size: grid.Size) -> tuple[Tensor, Tensor]:
    """Return the first and last output pixel centre inside each latent cell, relative to its centre.

    Args:
        centre: (..., 2) centres of the latents.
        cell: (..., 2) size of an output pixel.
        size: (h, w) of the latent grid.

    Returns:
        Two tensors (..., 2); a latent cell spans 2 units. They are equal along an axis with fewer than two pixels.
    """
    n = centre.new_tensor(size)
    # The index of the first pixel whose centre is not before an edge. A centre on the edge, up to rounding, belongs to
    # the cell after the edge.
    first = ((centre - 1 / n + 1) / cell - 0.5 - _EDGE).ceil()
    last = torch.maximum(((centre + 1 / n + 1) / cell - 0.5 - _EDGE).ceil() - 1, first)
    start, end = ((i + 0.5) * cell - 1 for i in (first, last))
    return (start - centre) * n, (end - centre) * n
