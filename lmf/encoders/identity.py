"""An encoder without a network, for decoders that need no features, such as bicubic."""

from __future__ import annotations

from torch import Tensor

from lmf.encoders.base import Encoder


class Identity(Encoder):
    """Encoder whose features are the image itself.

    Args:
        out_channels: number of image channels.
    """

    receptive_field = 0

    def __init__(self, out_channels: int = 3) -> None:
        super().__init__(out_channels)

    def forward(self, image: Tensor) -> Tensor:
        return image
