"""SRNO: Super-Resolution Neural Operator (Wei & Zhang, CVPR 2023)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmf import grid
from lmf.decoders import galerkin
from lmf.decoders.base import Decoder, Latent, Linear, Skip, linear
from lmf.decoders.galerkin import Affine, GalerkinAttention, compose


@dataclass(frozen=True)
class OperatorLatent(Latent):
    """The features, and what the pixels of a picture have in common.

    Attributes:
        feat: (B, h, w, C).
        means: (B, layers, n, d, d), mean over all pixels of the products ``k v^T`` of each attention layer; None
            until `SRNO.summarise`.
    """

    feat: Tensor
    means: Tensor | None = None


class SRNO(Decoder):
    """SRNO decoder, which applies Galerkin attention to all queries of a call.

    A colour depends on all other queries, by the mean of products in each attention layer. A picture is therefore
    defined by one call for all of its pixels. `summarise` computes the means in bounded memory: one pass over the
    picture for each attention layer. A last pass renders the pixels, in any parts.

    Args:
        in_channels: width C of the encoder's features.
        width: channels D of the attention layers.
        heads: number of attention heads; ``blocks`` in the published code.
        skip, clip_scale: see `Decoder`.

    Raises:
        UserError: if ``width`` and ``heads`` do not fit, see `GalerkinAttention`.
    """

    pointwise = False
    graph_obstacle = "each of its colours depends on all pixels of the picture"

    def __init__(
        self,
        in_channels: int = 64,
        width: int = 256,
        heads: int = 16,
        skip: Skip = "bilinear",
        clip_scale: float | None = 4.0,
    ) -> None:
        super().__init__(in_channels, skip, clip_scale)
        self.lift = Linear(4 * in_channels + 10, width)
        self.attention = nn.ModuleList(GalerkinAttention(width, heads) for _ in range(2))
        self.fc1 = Linear(width, 256)
        self.fc2 = Linear(256, 3)

    @property
    def layers(self) -> list[GalerkinAttention]:
        """The attention layers, in order."""
        return cast(list[GalerkinAttention], [*self.attention])

    def latent(self, feat: Tensor, image: Tensor, cell: Tensor) -> OperatorLatent:
        h, w = feat.shape[-2:]
        return OperatorLatent((h, w), image, feat.permute(0, 2, 3, 1).contiguous())

    def decode(self, latent: OperatorLatent, coord: Tensor, cell: Tensor) -> Tensor:
        if latent.means is None:
            x = self.lift(neighbourhoods(latent, coord, cell))  # (B, Q, D)
            for layer in self.layers:
                x = layer(x)
            rgb: Tensor = self.fc2(F.gelu(self.fc1(x)))
            return rgb
        return torch.cat([self.known(latent.single(i), coord[i : i + 1], cell[i : i + 1]) for i in range(len(cell))])

    def known(self, latent: OperatorLatent, coord: Tensor, cell: Tensor) -> Tensor:
        """Predict colours (1, Q, 3) of one image whose means are known."""
        assert latent.means is not None
        chain = self.chain([*latent.means[0]], (self.fc1.weight, self.fc1.bias))
        parts = coord.split(galerkin.QUERIES, dim=1)
        return torch.cat([self.fc2(F.gelu(self.run(chain, latent, part, cell))) for part in parts], dim=1)

    def summarise(self, latent: OperatorLatent, target: grid.Grid, cell: Tensor) -> OperatorLatent:
        if latent.means is not None:
            return latent
        images = [self.means(latent.single(i), target, cell[i : i + 1]) for i in range(len(cell))]
        return replace(latent, means=torch.stack(images))

    def means(self, latent: OperatorLatent, target: grid.Grid, cell: Tensor) -> Tensor:
        """Compute the means (layers, n, d, d) of one image, summed in float64."""
        means: list[Tensor] = []
        count = target.size[0] * target.size[1]
        for layer in self.layers:
            chain = self.chain(means, layer.keys_values())
            total = latent.feat.new_zeros((), dtype=torch.float64)
            for part in pixels(target, cell):
                total = total + layer.products_of(self.run(chain, latent, part, cell))[0]
            means.append((total / count).to(latent.feat.dtype))  # (n, d, d)
        return torch.stack(means)

    def chain(self, means: list[Tensor], last: Affine) -> list[Affine]:
        """Return the affine maps that `run` applies: those of the layers with known ``means``, then ``last``.

        The first ones follow the lifting directly. They are composed with it, and so applied to LR pixels instead of
        queries.
        """
        lift = self.lift.weight, self.lift.bias
        maps = [layer.hidden(mean) for layer, mean in zip(self.layers, means, strict=False)]
        first, *rest = [*maps, last]
        composed = compose(first, lift)
        if means:  # the layer also needs its input
            composed = torch.cat([lift[0], composed[0]]), torch.cat([lift[1], composed[1]])
        return [composed, *rest]

    def run(self, chain: list[Affine], latent: OperatorLatent, coord: Tensor, cell: Tensor) -> Tensor:
        """Apply a `chain` at ``coord`` (1, Q, 2): the result (1, Q, n) of its last map."""
        first, *rest = chain
        out = lifted(latent, coord, cell, first)
        if not rest:
            return out
        x, hidden = out.chunk(2, dim=-1)
        for layer, following in zip(self.layers, rest, strict=False):
            x = layer.finish(hidden, x)
            hidden = linear(x, *following)
        return hidden


def pixels(target: grid.Grid, cell: Tensor) -> Iterator[Tensor]:
    """Yield the coordinates (1, Q, 2) of all pixels of ``target`` in row-major order, `galerkin.QUERIES` at a time."""
    rows, cols = target.size
    step = max(1, galerkin.QUERIES // cols)
    for start in range(0, rows, step):
        coord = target.band(start, min(start + step, rows)).coord(cell.device, cell.dtype)
        yield from coord[None].split(galerkin.QUERIES, dim=1)


def ensemble(coord: Tensor, size: grid.Size) -> tuple[Tensor, Tensor, Tensor]:
    """Return `grid.ensemble` computed in float32, in the type of ``coord``.

    One query on the other side of a tie would move every pixel of the picture.
    """
    index, rel, weight = grid.ensemble(coord.float(), size)
    return index, rel.to(coord.dtype), weight.to(coord.dtype)


def neighbourhoods(latent: OperatorLatent, coord: Tensor, cell: Tensor) -> Tensor:
    """Return the input of the lifting (B, Q, 4 C + 10).

    It holds the relative coordinates of the four latents, the latents, each multiplied by its weight, and the relative
    cell.
    """
    index, rel, weight = ensemble(coord, latent.size)
    feats = [grid.take(latent.feat, i) * w[..., None] for i, w in zip(index, weight, strict=True)]
    rel_cell = grid.relative_cell(cell, latent.size)[:, None].expand_as(coord)
    return torch.cat([*rel, *feats, rel_cell], dim=-1)


def lifted(latent: OperatorLatent, coord: Tensor, cell: Tensor, affine: Affine) -> Tensor:
    """Apply an affine map of the `neighbourhoods` of one image: (1, Q, n).

    The map is linear in the latents, so that it is applied to them, once for each of the four places, and the results
    are summed with the weights of the ensemble.
    """
    weight, bias = affine
    index, rel, share = ensemble(coord, latent.size)
    width, count = latent.size[1], coord.shape[1]
    first, last = int(index.min()) // width, int(index.max()) // width + 1
    rows = latent.feat[0, first:last].flatten(0, 1)  # (N, C), the LR pixels that the queries read
    if len(rows) > count:
        return linear(neighbourhoods(latent, coord, cell), weight, bias)
    c = rows.shape[1]
    places, feats, cells = weight.split((8, 4 * c, 2), dim=1)
    feats = feats.unflatten(1, (4, c)).transpose(0, 1).flatten(0, 1)  # (4 n, C)
    constant = bias + F.linear(grid.relative_cell(cell, latent.size)[0], cells)  # (n,)
    table = linear(rows, feats).view(-1, len(weight))  # (4 N, n)
    entry = (index[:, 0].T - first * width) * 4 + torch.arange(4, device=index.device)  # (Q, 4)
    share, table = share[:, 0].T.contiguous(), table.to(share.dtype)
    out = F.embedding_bag(entry, table, mode="sum", per_sample_weights=share)
    rel = F.pad(rel[:, 0].transpose(0, 1).flatten(1), (0, 1), value=1)  # (Q, 9), the last for the constant
    return torch.addmm(out, rel, torch.cat([places, constant[:, None]], dim=1).T)[None]
