"""RDN: Residual Dense Network for Image Super-Resolution (Zhang et al., CVPR 2018), without its upsampler."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lmf import kernels
from lmf.encoders.base import Encoder, convolve, fusible, weights
from lmf.encoders.stages import IMAGE, Stage


class RDN(Encoder):
    """RDN encoder; config B by default.

    Config A has 20 blocks of 6 layers with growth 32.

    Args:
        out_channels: width G0 of the block outputs and the features.
        blocks: number D of residual dense blocks.
        layers: number C of convolutions per block.
        growth: number G of channels that each convolution adds.
    """

    def __init__(self, out_channels: int = 64, blocks: int = 16, layers: int = 8, growth: int = 64) -> None:
        super().__init__(out_channels)
        c = out_channels
        self.shallow1 = nn.Conv2d(3, c, 3, padding=1)
        self.shallow2 = nn.Conv2d(c, c, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualDenseBlock(c, layers, growth) for _ in range(blocks))
        self.fusion = nn.Sequential(nn.Conv2d(blocks * c, c, 1), nn.Conv2d(c, c, 3, padding=1))
        self.layers, self.dense = layers, c + layers * growth
        self.receptive_field = blocks * layers + 3

    def forward(self, image: Tensor) -> Tensor:
        shallow: Tensor = self.shallow1(image)  # (B, C, h, w)
        x = convolve(self.shallow2, shallow)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return self.fused(shallow, *outputs)

    def stages(self) -> list[Stage]:
        """See `Encoder.stages`."""
        c, count = self.out_channels, len(self.blocks)
        return [
            Stage(self.shallow1, 1, (IMAGE,), c, c),
            Stage(self.shallow2, 1, (0,), c, c),
            *(Stage(block, self.layers, (i + 1,), c, 4 * self.dense) for i, block in enumerate(self.blocks)),
            Stage(self.fused, 1, (0, *range(2, 2 + count)), c, (count + 2) * c),
        ]

    def fused(self, shallow: Tensor, *outputs: Tensor) -> Tensor:
        """Combine the outputs of all blocks with the first map."""
        out: Tensor = self.fusion(torch.cat(outputs, dim=1))
        return out + shallow


class ResidualDenseBlock(nn.Module):
    """Densely connected 3 x 3 convolutions, fused by a 1 x 1 convolution, with a skip connection."""

    def __init__(self, width: int, layers: int, growth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(width + i * growth, growth, 3, padding=1) for i in range(layers))
        self.fusion = nn.Conv2d(width + layers * growth, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        fused: Tensor = self.fusion(self.dense(x))
        return fused + x

    def dense(self, x: Tensor) -> Tensor:
        """Return ``x`` and the results of all convolutions, (B, width + layers growth, h, w)."""
        convs = [conv for conv in self.convs if type(conv) is nn.Conv2d]  # others were put in their place
        if len(convs) == len(self.convs) and fusible(x, convs):
            return kernels.dense_block(x, *weights(convs))
        for conv in self.convs:
            x = torch.cat([x, convolve(conv, x, relu=True)], dim=1)  # (B, width + i growth, h, w)
        return x
