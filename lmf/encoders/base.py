"""What every encoder is: an image in network units to features at the same resolution."""

from __future__ import annotations

from torch import Tensor, nn

from lmf.errors import UserError


class Encoder(nn.Module):
    """Maps an image (B, 3, h, w) in [-1, 1] to features (B, ``out_channels``, h, w).

    ``multiple``: h and w must be multiples of it. `lmf.SRModel` pads (reflecting, bottom and right) and keeps
    coordinates right, so that only those who call an encoder themselves need to care.

    ``receptive_field``: the features of a pixel depend on no pixel that is farther away along either axis, as long as
    pictures are cut at multiples of ``multiple``. None: no bound is known, and no picture is cut.
    """

    multiple: int = 1
    receptive_field: int | None = None

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        if out_channels < 1:
            raise UserError(f"out_channels must be at least 1, got {out_channels}")
        self.out_channels = out_channels

    def forward(self, image: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not define forward(image)")
