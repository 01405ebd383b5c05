"""What the kernels take, and how the compiled ones want it laid out."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

InputEncoding = Literal["linear", "fourier"]


class Weights(NamedTuple):
    """A modulated MLP of L hidden layers of width D that reads ``in`` numbers."""

    first: Tensor  # (D, in)
    hidden: Tensor  # (L - 1, D, D)
    out: Tensor  # (3, D)
    bias: Tensor  # (L, D)
    out_bias: Tensor  # (3,)


def fold(code: Tensor, extra: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Splits a linear first layer into what a latent determines and what the coordinate adds.

    Args:
        code: (B, h, w, K).
        extra: (B, E).
        first: (D, K + 2 + E).

    Returns:
        (B, h, w, D), to which a query adds ``rel @ columns.T``, and columns (D, 2).
    """
    k = code.shape[-1]
    same = F.linear(extra, first[:, k + 2 :])[:, None]  # (B, 1, D)
    folded = torch.baddbmm(same, code.flatten(1, 2), first[:, :k].T.expand(len(code), -1, -1))
    return folded.unflatten(1, code.shape[1:3]), first[:, k : k + 2]


def strided(t: Tensor) -> Tensor:
    """``t`` (B, h, w, C), copied if need be so that its latents lie evenly spaced, each of them contiguous."""
    return t if t.stride(3) == 1 and t.stride(1) == t.shape[2] * t.stride(2) else t.contiguous()
