"""Cross-scale non-local features of CiaoSR (Cao et al., CVPR 2023, section 3.3).

They attend between the feature map and its half-size copy, after Mei et al., CVPR 2020.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SCALE = 2  # of the map relative to its reduced copy
_SHARPNESS = 10.0  # factor of the softmax's input
_OVERLAP = 6.0  # divisor of the sum of overlapping patches
_EPS = 1e-4
_TILE = 48
_MARGIN = 1


class CrossScaleAttention(nn.Module):
    """Blends full-size patches of a feature map, weighted by how well their half-size copies match each position.

    Maps with more than 48 x 48 positions are cut into tiles of at least 48 x 48 with a margin of 1. Memory and work
    then grow linearly with the number of tiles. An axis shorter than 48 is a single tile.

    Args:
        channels: width C of the feature map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_match_1 = nn.Sequential(nn.Conv2d(channels, channels // 2, 1), nn.PReLU())
        self.conv_match_2 = nn.Sequential(nn.Conv2d(channels, channels // 2, 1), nn.PReLU())
        self.conv_assembly = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.PReLU())
        self.down = nn.Conv2d(channels, channels, 3, stride=_SCALE, padding=1)

    def forward(self, feat: Tensor) -> Tensor:
        """Return the non-local features (B, C, h, w) of ``feat`` (B, C, h, w)."""
        h, w = feat.shape[-2:]
        if h * w <= _TILE * _TILE:
            return self.attend(feat)
        rows = []
        for top, bottom in _tiles(h):
            row = []
            for left, right in _tiles(w):
                y, x = max(top - _MARGIN, 0), max(left - _MARGIN, 0)
                tile = self.attend(feat[:, :, y : bottom + _MARGIN, x : right + _MARGIN])
                row.append(tile[:, :, top - y : bottom - y, left - x : right - x])
            rows.append(torch.cat(row, dim=3))
        return torch.cat(rows, dim=2)

    def attend(self, feat: Tensor) -> Tensor:
        """Return the non-local features (B, C, h, w) of a single tile ``feat`` (B, C, h, w)."""
        h, w = feat.shape[-2:]
        # A single row or column cannot be reflected.
        feat = F.pad(feat, (0, w % _SCALE, 0, h % _SCALE), mode="reflect" if min(h, w) > 1 else "replicate")
        padded = feat.shape[-2:]
        query = F.unfold(self.conv_match_1(feat), 3, padding=1)  # (B, 9 C / 2, h w)
        key = F.unfold(self.conv_match_2(F.avg_pool2d(feat, _SCALE)), 3, padding=1)  # (B, 9 C / 2, N), N = h w / 4
        key = key * (_SHARPNESS / key.norm(dim=1, keepdim=True).clamp_min(_EPS))
        patch = {"kernel_size": 3 * _SCALE, "stride": _SCALE, "padding": _SCALE}
        value = F.unfold(self.conv_assembly(feat), **patch)  # (B, 36 C, N)
        blend = (query.transpose(1, 2) @ key).softmax(dim=-1)  # (B, h w, N)
        large = F.fold(
            value @ blend.transpose(1, 2), (padded[0] * _SCALE, padded[1] * _SCALE), **patch
        )  # (B, C, 2 h, 2 w)
        out: Tensor = self.down(large) / _OVERLAP
        return out[:, :, :h, :w]


def _tiles(n: int) -> list[tuple[int, int]]:
    """Cut ``n`` positions into ranges of 48; the last range extends to the border."""
    starts = [_TILE * i for i in range(max(1, n // _TILE))]
    return list(zip(starts, [*starts[1:], n], strict=True))
