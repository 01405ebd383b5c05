"""No network at all: the features are the image. For decoders that need none, such as bicubic."""

from __future__ import annotations

from torch import Tensor

from lmf.encoders.base import Encoder


class Identity(Encoder):
    receptive_field = 0

    def __init__(self, out_channels: int = 3) -> None:
        super().__init__(out_channels)

    def forward(self, image: Tensor) -> Tensor:
        return image
