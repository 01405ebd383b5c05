"""SwinIR: Image Restoration Using Swin Transformer (Liang et al., ICCVW 2021), without its upsampler."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from lmf.encoders.base import Encoder, convolve
from lmf.errors import UserError
from lmf.grid import Size


class SwinIR(Encoder):
    """SwinIR encoder, with self-attention in shifted windows.

    The sides of its images must be multiples of ``window``.

    Args:
        out_channels: width C of the features.
        window: side of an attention window in pixels, even.
        embed: width E of the tokens, a multiple of every entry of ``heads``.
        depths: number of attention blocks in each residual group (RSTB).
        heads: number of attention heads in each group; as long as ``depths``.
        mlp_ratio: hidden width of a block's MLP divided by ``embed``.
        drop_path: rate of stochastic depth of the last block during training. The rate rises linearly from 0.
        checkpoint: during training, recompute blocks in the backward pass instead of storing their activations.

    Raises:
        UserError: if ``window``, ``depths``, ``heads`` and ``embed`` do not fit these rules.
    """

    def __init__(
        self,
        out_channels: int = 64,
        window: int = 8,
        embed: int = 180,
        depths: Sequence[int] = (6, 6, 6, 6, 6, 6),
        heads: Sequence[int] = (6, 6, 6, 6, 6, 6),
        mlp_ratio: float = 2.0,
        drop_path: float = 0.1,
        checkpoint: bool = False,
    ) -> None:
        super().__init__(out_channels)
        if window < 2 or window % 2:
            raise UserError(f"window must be even and at least 2, got {window}")
        if not depths or len(depths) != len(heads):
            raise UserError(f"depths and heads must be equally long and not empty, got {[*depths]} and {[*heads]}")
        if any(embed % n for n in heads):
            raise UserError(f"embed must be a multiple of every number of heads, got {embed} and {[*heads]}")
        self.multiple = self.window = window
        # The first block of a group reaches across its window. Each further block adds the half window of the shift.
        self.receptive_field = 3 + sum(window - 1 + (depth - 1) * (window // 2) + 1 for depth in depths)
        rates = (drop_path * i / max(1, sum(depths) - 1) for i in range(sum(depths)))
        self.conv_first = nn.Conv2d(3, embed, 3, padding=1)
        self.patch_norm = nn.LayerNorm(embed)
        self.groups = nn.ModuleList(
            Group(
                [
                    Block(embed, n, window, round(embed * mlp_ratio), shifted=i % 2 == 1, drop_path=next(rates))
                    for i in range(depth)
                ],
                embed,
                checkpoint,
            )
            for depth, n in zip(depths, heads, strict=True)
        )
        self.norm = nn.LayerNorm(embed)
        self.conv_after_body = nn.Conv2d(embed, embed, 3, padding=1)
        self.conv_last = nn.Conv2d(embed, out_channels, 3, padding=1)
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        h, w = image.shape[-2:]
        if h % self.window or w % self.window:
            raise ValueError(f"the sides of SwinIR's input must be multiples of {self.window}, got {h} x {w}")
        index = relative_index(self.window, image.device)
        mask = shift_mask((h, w), self.window, image.device)
        first = self.conv_first(image)  # (B, E, h, w)
        x = self.patch_norm(first.permute(0, 2, 3, 1))  # (B, h, w, E)
        for group in self.groups:
            x = group(x, index, mask)
        x = self.norm(x).permute(0, 3, 1, 2)
        x = convolve(self.conv_after_body, x, skip=first)
        return F.leaky_relu(convolve(self.conv_last, x), 0.01)  # (B, C, h, w)


class Group(nn.Module):
    """Residual Swin transformer block (RSTB) on (B, h, w, E): blocks, a convolution and a skip connection."""

    def __init__(self, blocks: Sequence[Block], embed: int, checkpoint: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.conv = nn.Conv2d(embed, embed, 3, padding=1)
        self.checkpoint = checkpoint

    def forward(self, x: Tensor, index: Tensor, mask: Tensor) -> Tensor:
        skip = x
        for block in self.blocks:
            if self.checkpoint and self.training:
                x = recompute(block, x, index, mask, use_reentrant=False)
            else:
                x = block(x, index, mask)
        return convolve(self.conv, x.permute(0, 3, 1, 2), skip=skip.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Block(nn.Module):
    """Window attention and an MLP on (B, h, w, E), each after a layer norm and with a skip connection.

    Every second block of a group shifts the windows by half their side.
    """

    def __init__(self, embed: int, heads: int, window: int, hidden: int, shifted: bool, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed)
        self.attn = WindowAttention(embed, heads, window)
        self.norm2 = nn.LayerNorm(embed)
        self.mlp = nn.Sequential(nn.Linear(embed, hidden), nn.GELU(), nn.Linear(hidden, embed))
        self.shift = window // 2 if shifted else 0
        self.drop_path = drop_path

    def forward(self, x: Tensor, index: Tensor, mask: Tensor) -> Tensor:
        y = self.norm1(x)
        if self.shift:
            y = y.roll((-self.shift, -self.shift), (1, 2))
            y = self.attn(y, index, mask).roll((self.shift, self.shift), (1, 2))
        else:
            y = self.attn(y, index, None)
        x = x + self.dropped(y)
        return x + self.dropped(self.mlp(self.norm2(x)))

    def dropped(self, branch: Tensor) -> Tensor:
        """Apply stochastic depth: during training, drop the branch for random images of the batch."""
        if not self.training or self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        return branch * branch.new_empty(len(branch), 1, 1, 1).bernoulli_(keep).div_(keep)


class WindowAttention(nn.Module):
    """Multi-head attention inside the windows of (B, h, w, E), with a bias per head and relative position."""

    def __init__(self, embed: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(embed, 3 * embed)
        self.proj = nn.Linear(embed, embed)
        nn.init.trunc_normal_(self.bias_table, std=0.02)

    def forward(self, x: Tensor, index: Tensor, mask: Tensor | None) -> Tensor:
        b, h, w, e = x.shape
        n = self.window
        x = x.view(b, h // n, n, w // n, n, e).transpose(2, 3).reshape(b, -1, n * n, e)  # (B, windows, n², E)
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, e // self.heads))
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)  # each (B, windows, heads, n², E / heads)
        bias = self.bias_table[index].permute(2, 0, 1)  # (heads, n², n²)
        if mask is not None:
            bias = bias + mask[:, None]  # (windows, heads, n², n²)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        x = self.proj(x.transpose(2, 3).flatten(3))
        return x.view(b, h // n, w // n, n, n, e).transpose(2, 3).reshape(b, h, w, e)


def relative_index(window: int, device: torch.device) -> Tensor:
    """Return the row of the bias table for each (query, key) of a window of side n: int64 (n², n²).

    The row of offset (dy, dx) is ``(dy + n - 1) (2n - 1) + dx + n - 1``.
    """
    y = torch.arange(window, device=device)
    token = torch.cartesian_prod(y, y)  # (n², 2)
    offset = token[:, None] - token[None] + window - 1
    return offset[..., 0] * (2 * window - 1) + offset[..., 1]


def shift_mask(size: Size, window: int, device: torch.device) -> Tensor:
    """Return the attention mask of shifted windows of side n: (windows, n², n²).

    It is -100 between tokens that only the cyclic shift brought into the same window, and 0 elsewhere.
    """
    y, x = (_regions(n, window, device) for n in size)
    region = 3 * y[:, None, :, None] + x[None, :, None, :]  # (h / n, w / n, n, n)
    region = region.reshape(-1, window * window)
    return (region[:, :, None] != region[:, None]) * -100.0


def _regions(n: int, window: int, device: torch.device) -> Tensor:
    """Label the regions of a shifted axis of ``n`` tokens, by window: int64 (n / window, window).

    The label is 0 before n - window, 1 before n - window / 2 and 2 after that.
    """
    position = torch.arange(n, device=device)
    return ((position >= n - window).long() + (position >= n - window // 2)).view(-1, window)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
