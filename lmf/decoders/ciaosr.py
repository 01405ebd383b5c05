"""CiaoSR: Continuous Implicit Attention-in-Attention Network (Cao et al., CVPR 2023)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmf import grid
from lmf.decoders.base import MLP, Decoder, Latent, Skip
from lmf.decoders.cross_scale import CrossScaleAttention


@dataclass(frozen=True)
class AttentionLatent(Latent):
    """The features that CiaoSR attends to.

    Attributes:
        key: (B, h, w, 9 C) unfolded features.
        nonlocal_: (B, h, w, C) cross-scale features.
    """

    key: Tensor
    nonlocal_: Tensor


class CiaoSR(Decoder):
    """CiaoSR decoder, which weights the four nearest latents by attention instead of by area.

    Args:
        in_channels: width C of the encoder's features. Keys have 9 C channels, values 10 C.
        hidden_q, hidden_k, hidden_v: hidden widths of the MLPs on the blended value, on keys and on values.
        skip, clip_scale: see `Decoder`.
    """

    graph_obstacle = "its non-local attention cuts pictures into tiles, whose number depends on the size"

    def __init__(
        self,
        in_channels: int = 64,
        hidden_q: Sequence[int] = (256, 256, 256, 256),
        hidden_k: Sequence[int] = (256, 256, 256, 256),
        hidden_v: Sequence[int] = (256, 256, 256, 256),
        skip: Skip = "bilinear",
        clip_scale: float | None = None,
    ) -> None:
        super().__init__(in_channels, skip, clip_scale)
        key, value = 9 * in_channels, 10 * in_channels
        self.imnet_q = MLP(value, hidden_q, 3)
        self.imnet_k = MLP(key + 4, hidden_k, key)
        self.imnet_v = MLP(value + 4, hidden_v, value)
        self.cs_attn = CrossScaleAttention(in_channels)

    def latent(self, feat: Tensor, image: Tensor, cell: Tensor) -> AttentionLatent:
        h, w = feat.shape[-2:]
        nonlocal_ = self.cs_attn(feat).permute(0, 2, 3, 1).contiguous()
        return AttentionLatent((h, w), image, grid.unfold(feat), nonlocal_)

    def decode(self, latent: AttentionLatent, coord: Tensor, cell: Tensor) -> Tensor:
        size = coord.new_tensor(latent.size)
        step = (1 - cell) / (size - 1).clamp_min(1)  # (B, 2), about half a latent cell
        rel_cell = grid.relative_cell(cell, latent.size)[:, None].expand_as(coord)
        query = grid.take(latent.key, grid.nearest(coord, latent.size))  # (B, Q, 9C)
        indices, places, scores = [], [], []
        for neighbour in grid.NEIGHBOURS:
            shifted = grid.shifted(coord + (step * step.new_tensor(neighbour))[:, None], 0, 0)
            index = grid.nearest(shifted, latent.size)
            rel = (coord - grid.latent_centre(index, latent.size)) * size
            place = torch.cat([rel, rel_cell], dim=-1)
            key = grid.take(latent.key, index)
            key = key * self.imnet_k(torch.cat([key, place], dim=-1))
            indices.append(index)
            places.append(place)
            scores.append(torch.einsum("bqc,bqc->bq", query, key))

        def values() -> Iterator[Tensor]:
            for index, place in zip(indices, places, strict=True):
                value = torch.cat([grid.take(latent.key, index), grid.take(latent.nonlocal_, index)], dim=-1)
                yield value * self.imnet_v(torch.cat([value, place], dim=-1))  # (B, Q, 10C)

        rgb: Tensor = self.imnet_q(attended(scores, values()))
        return rgb


def attended(scores: list[Tensor], values: Iterable[Tensor]) -> Tensor:
    """Sum ``values``, each weighted by the softmax over its ``scores``.

    Args:
        scores: one tensor (...) per value.
        values: tensors (..., C), consumed one at a time to save memory.

    Returns:
        (..., C).
    """
    weights = torch.stack(scores).softmax(dim=0)
    blend = weights.new_zeros(1, 1, 1)
    for weight, value in zip(weights, values, strict=True):
        blend = torch.baddbmm(blend, weight.reshape(-1, 1, 1), value.flatten(0, -2)[:, None])
    return blend.view(*weights.shape[1:], blend.shape[-1])
