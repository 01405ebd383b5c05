"""EDSR (Lim et al., CVPRW 2017) without its upsampler."""

from __future__ import annotations

from torch import Tensor, nn

from lmf import kernels
from lmf.encoders.base import Encoder, convolve, fusible, weights
from lmf.encoders.stages import IMAGE, Stage


class EDSR(Encoder):
    """EDSR encoder without normalisation and mean shift; EDSR-baseline by default.

    Args:
        out_channels: width C of the network and its features.
        blocks: number of residual blocks.
        res_scale: factor of every residual branch. EDSR-large uses 0.1 with 32 blocks of width 256.
    """

    def __init__(self, out_channels: int = 64, blocks: int = 16, res_scale: float = 1.0) -> None:
        super().__init__(out_channels)
        c = out_channels
        self.res_scale = res_scale
        self.head = nn.Conv2d(3, c, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(c, res_scale) for _ in range(blocks))
        self.tail = nn.Conv2d(c, c, 3, padding=1)
        self.receptive_field = 2 * blocks + 2

    def forward(self, image: Tensor) -> Tensor:
        head: Tensor = self.head(image)  # (B, C, h, w)
        own = [block for block in self.blocks if type(block) is ResidualBlock]  # others were put in their place
        convs = [conv for block in own for conv in (block.conv1, block.conv2)] + [self.tail]
        if len(own) == len(self.blocks) and fusible(head, convs, own):
            return kernels.residual_blocks(head, *weights(convs), self.res_scale)
        x = head
        for block in self.blocks:
            x = block(x)
        return convolve(self.tail, x, skip=head)

    def stages(self) -> list[Stage]:
        """See `Encoder.stages`."""
        c, last = self.out_channels, len(self.blocks)
        blocks = [Stage(block, 2, (i,), c, 3 * c) for i, block in enumerate(self.blocks)]
        tail = Stage(lambda x, head: convolve(self.tail, x, skip=head), 1, (last, 0), c, c)
        return [Stage(self.head, 1, (IMAGE,), c, c), *blocks, tail]

    def grow_from(self, smaller: Encoder) -> bool:
        """See `Encoder.grow_from`. The additional blocks come last and start as identities."""
        if not isinstance(smaller, EDSR) or len(smaller.blocks) > len(self.blocks):
            return False
        if (smaller.out_channels, smaller.res_scale) != (self.out_channels, self.res_scale):
            return False
        self.load_state_dict(smaller.state_dict(), strict=False)
        for block in self.blocks[len(smaller.blocks) :]:
            assert isinstance(block, ResidualBlock)
            for parameter in block.conv2.parameters():
                nn.init.zeros_(parameter)
        return True


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with a ReLU between them and a skip connection."""

    def __init__(self, width: int, res_scale: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.res_scale = res_scale

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self.conv2, convolve(self.conv1, x, relu=True), skip=x, scale=self.res_scale)
