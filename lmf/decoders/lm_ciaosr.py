"""LM-CiaoSR: CiaoSR as a latent modulated function (He & Jin, CVPR 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lmf import grid
from lmf.decoders.base import MLP, Skip
from lmf.decoders.ciaosr import attended
from lmf.decoders.cross_scale import CrossScaleAttention
from lmf.decoders.modulation import LMFDecoder, ModulatedLatent, ModulatedMLP


class LMCiaoSR(LMFDecoder):
    """LM-CiaoSR decoder, whose hypernetwork reads the result of attention inside each 3 x 3 neighbourhood.

    The renderer reads the compressed latent and the coordinate.

    Args:
        in_channels: width C of the encoder's features. Keys have 4 C channels, values 5 C.
        width, depth: hidden width D and number L of hidden layers of the renderer.
        hyper: hidden widths of the hypernetwork.
        prenet: hidden widths of the MLP that computes the queries.
        hidden_k, hidden_v: hidden widths of the MLPs on keys and on values.
        code_channels: channels of the compressed latent that the hypernetwork outputs besides the modulations. With 0
            there is none, and the renderer reads the 5 C channels of the attention instead.
        skip: see `Decoder`; ``"bilinear"`` in training and evaluation.
        clip_scale: see `Decoder`.
        bounded: see `LMFDecoder`.
    """

    input_encoding = "linear"  # [code, relative coordinate]
    graph_obstacle = "its non-local attention cuts pictures into tiles, whose number depends on the size"

    def __init__(
        self,
        in_channels: int = 64,
        width: int = 16,
        depth: int = 8,
        hyper: Sequence[int] = (288,),
        prenet: Sequence[int] = (256,),
        hidden_k: Sequence[int] = (256,),
        hidden_v: Sequence[int] = (256,),
        code_channels: int = 32,
        skip: Skip = "bilinear",
        clip_scale: float | None = 4.0,
        bounded: bool = False,
    ) -> None:
        super().__init__(in_channels, skip, clip_scale, bounded)
        key, value = 4 * in_channels, 5 * in_channels
        self.code_channels = code_channels
        self.cs_attn = CrossScaleAttention(in_channels)
        self.imnet_k = MLP(key + 4, hidden_k, key)
        self.imnet_v = MLP(value + 4, hidden_v, value)
        self.prenet_q = MLP(9 * in_channels, prenet, key)
        self.imnet = ModulatedMLP((code_channels or value) + 2, width, depth)
        self.hypernet = MLP(value, hyper, self.imnet.modulations + code_channels)

    def latent(self, feat: Tensor, image: Tensor, cell: Tensor) -> ModulatedLatent:
        feat = self.bound(feat)
        x = self.attend(feat, cell)
        h, w = feat.shape[-2:]
        modulation, code = self.hypernet(x).split((self.imnet.modulations, self.code_channels), dim=-1)
        return ModulatedLatent((h, w), image, modulation, code if self.code_channels else x)

    def attend(self, feat: Tensor, cell: Tensor) -> Tensor:
        """Apply CiaoSR's attention at the centre of each latent: (B, h, w, 5 C).

        The released code reads the unfolded features, whose layout is (C, 3, 3), as (3, 3, C) and takes its four
        "2 x 2 neighbourhoods" from that. The published weights depend on it, so it is reproduced here.
        """
        b, c, h, w = feat.shape
        unfolded = grid.unfold(feat)  # (B, h, w, 9C)
        query = self.prenet_q(unfolded)  # (B, h, w, 4C)
        nonlocal_ = self.cs_attn(feat).permute(0, 2, 3, 1)
        scrambled = unfolded.view(b, h, w, 3, 3, c)
        rel_cell = grid.relative_cell(cell, (h, w))
        keys, places, scores = [], [], []
        for dy, dx in grid.NEIGHBOURS:
            top, left = int(dx > 0), int(dy > 0)
            key = scrambled[..., top : top + 2, left : left + 2, :].flatten(3)  # (B, h, w, 4C)
            rel = cell.new_tensor([-dy / h, -dx / w]).expand(b, 2)
            place = torch.cat([rel, rel_cell], dim=-1)[:, None, None].expand(b, h, w, 4)
            keys.append(key)
            places.append(place)
            key = key * self.imnet_k(torch.cat([key, place], dim=-1))
            scores.append(torch.einsum("bhwc,bhwc->bhw", query, key))

        def values() -> Iterator[Tensor]:
            for key, place in zip(keys, places, strict=True):
                value = torch.cat([key, nonlocal_], dim=-1)
                yield value * self.imnet_v(torch.cat([value, place], dim=-1))  # (B, h, w, 5C)

        return attended(scores, values())

    def extra(self, rel_cell: Tensor) -> Tensor:
        return rel_cell[:, :0]  # the renderer does not read the cell
