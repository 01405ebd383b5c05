"""The weights that the kernels take, and the memory layout that the compiled ones need."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

InputEncoding = Literal["linear", "fourier"]


class Weights(NamedTuple):
    """Weights of a modulated MLP with ``in`` inputs and L hidden layers of width D."""

    first: Tensor  # (D, in)
    hidden: Tensor  # (L - 1, D, D)
    out: Tensor  # (3, D)
    bias: Tensor  # (L, D)
    out_bias: Tensor  # (3,)


def fold(code: Tensor, extra: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Split a linear first layer into a part per latent and the weights of the relative coordinate.

    Args:
        code: (B, h, w, K).
        extra: (B, E).
        first: (D, K + 2 + E).

    Returns:
        The part per latent (B, h, w, D) and columns (D, 2); a query adds ``rel @ columns.T``.
    """
    k = code.shape[-1]
    same = F.linear(extra, first[:, k + 2 :])[:, None]  # (B, 1, D)
    folded = torch.baddbmm(same, code.flatten(1, 2), first[:, :k].T.expand(len(code), -1, -1))
    return folded.unflatten(1, code.shape[1:3]), first[:, k : k + 2]


def strided(t: Tensor) -> Tensor:
    """Return ``t`` (B, h, w, C) with contiguous latents at even distances, copied if necessary."""
    return t if t.stride(3) == 1 and t.stride(1) == t.shape[2] * t.stride(2) else t.contiguous()
