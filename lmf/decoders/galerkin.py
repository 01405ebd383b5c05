"""Galerkin-type attention, shared by SRNO and LM-SRNO."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmf.decoders.base import Linear, linear
from lmf.errors import UserError

QUERIES = 1 << 14  # computed at once, to bound the temporaries; the result does not depend on it
Affine = tuple[Tensor, Tensor]  # weight (out, in) and bias (out,)


class HeadNorm(nn.Module):
    """Layer norm inside each head: ``(x - mean) / (std + 1e-5) * weight + bias`` with the unbiased deviation.

    Args:
        heads: number n of heads; each has its own weights.
        channels: channels d of a head.
    """

    def __init__(self, heads: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads, channels))
        self.bias = nn.Parameter(torch.zeros(heads, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (..., n, d)."""
        x = x - x.mean(dim=-1, keepdim=True)
        variance = x.square().sum(dim=-1, keepdim=True) / (x.shape[-1] - 1)  # torch.std is five times slower on CPUs
        std = variance.clamp_min(1e-30).sqrt()  # the root of 0 has no gradient
        return x / (std + 1e-5) * self.weight + self.bias


class GalerkinAttention(nn.Module):
    """Linear attention over all queries of a call (Wei & Zhang, CVPR 2023), then two layers with a GELU.

    Queries meet only in the mean over all of them of the products ``k v^T``, a d x d matrix M for each head:
    ``x + out2(gelu(out1(q M + x)))``.

    Args:
        width: channels D.
        heads: number n of heads, each with d = D / n channels.

    Raises:
        UserError: if ``width`` is not a multiple of ``heads`` or leaves fewer than 2 channels to a head.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads or width < 2 * heads:
            raise UserError(f"width must be a multiple of heads and at least twice as large, got {width} and {heads}")
        self.width, self.heads = width, heads
        self.qkv = Linear(width, 3 * width)  # for each head d channels of q, then of k, then of v
        self.key_norm = HeadNorm(heads, width // heads)
        self.value_norm = HeadNorm(heads, width // heads)
        self.out1 = Linear(width, width)
        self.out2 = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend to all queries of ``x`` (B, Q, D), `QUERIES` at a time."""
        parts = [x] if torch.compiler.is_exporting() else x.split(QUERIES, dim=1)
        keys_values, query = self.keys_values(), self.queries()
        total = torch.stack([self.products_of(linear(part, *keys_values)) for part in parts]).sum(dim=0)
        mean = total / x.shape[1]  # (B, n, d, d)
        out = []
        for part in parts:
            q = linear(part, *query).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, n, Q, d)
            attended = (q @ mean).transpose(1, 2).flatten(2)  # (B, Q, D)
            out.append(self.finish(self.out1(attended + part), part))
        return torch.cat(out, dim=1)

    def finish(self, hidden: Tensor, x: Tensor) -> Tensor:
        """Compute the result from the output ``hidden`` of the first layer and the input ``x``."""
        out: Tensor = self.out2(F.gelu(hidden)) + x
        return out

    def queries(self) -> Affine:
        """Return the map from x to q (D)."""
        return self.projection(0, 1)

    def keys_values(self) -> Affine:
        """Return the map from x to keys and values (2 D), which `products_of` reads."""
        return self.projection(1, 3)

    def projection(self, start: int, stop: int) -> Affine:
        """Return the map from x to parts ``start .. stop - 1`` of q, k and v of each head."""
        weight, bias = (
            t.unflatten(0, (self.heads, 3, -1))[:, start:stop].flatten(0, 2) for t in (self.qkv.weight, self.qkv.bias)
        )
        return weight, bias

    def products_of(self, keys_values: Tensor) -> Tensor:
        """Return the sum (B, n, d, d) over all queries of ``k v^T``.

        Args:
            keys_values: (B, Q, 2 D) before the layer norms, see `keys_values`.
        """
        k, v = keys_values.unflatten(-1, (self.heads, 2, -1)).unbind(-2)
        return products(self.key_norm(k), self.value_norm(v))

    def hidden(self, mean: Tensor) -> Affine:
        """Return the map from x to the output of the first layer for the known ``mean`` (n, d, d) of one image.

        ``out1(q M + x)`` is affine in x, so that one product replaces three.
        """
        weight, bias = (t.double().unflatten(0, (self.heads, -1)) for t in self.queries())  # (n, d, D), (n, d)
        turned = mean.double().mT  # (n, d, d)
        attended = (turned @ weight).flatten(0, 1) + torch.eye(self.width, dtype=torch.float64, device=weight.device)
        return compose((self.out1.weight, self.out1.bias), (attended, (turned @ bias[..., None]).flatten()))


def products(k: Tensor, v: Tensor) -> Tensor:
    """Return the sum over Q of the products ``k v^T`` of ``k`` and ``v`` (B, Q, n, d): (B, n, d, d)."""
    return k.permute(0, 2, 3, 1) @ v.transpose(1, 2)


def compose(outer: Affine, inner: Affine) -> Affine:
    """Return the affine map ``outer(inner(x))``, computed in float64, in the type of ``outer``."""
    weight, bias = (t.double() for t in outer)
    dtype = outer[0].dtype
    return (weight @ inner[0].double()).to(dtype), (weight @ inner[1].double() + bias).to(dtype)
