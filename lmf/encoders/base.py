"""The base class of encoders, which map an image to features at the same resolution."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lmf.encoders.stages import Stage
from lmf.errors import UserError


class Encoder(nn.Module):
    """Base class of encoders, which map an image (B, 3, h, w) in [-1, 1] to features (B, ``out_channels``, h, w).

    Args:
        out_channels: width C of the features.

    Attributes:
        multiple: h and w must be multiples of it. `lmf.SRModel` pads by reflection at the bottom and right and adapts
            the coordinates, so only direct callers of an encoder have to pad.
        receptive_field: largest distance in pixels, along either axis, from which a pixel influences a feature, if
            pictures are cut at multiples of ``multiple``. None if no bound is known; pictures are then encoded whole.

    Raises:
        UserError: if ``out_channels`` is smaller than 1.
    """

    multiple: int = 1
    receptive_field: int | None = None

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        if out_channels < 1:
            raise UserError(f"out_channels must be at least 1, got {out_channels}")
        self.out_channels = out_channels

    def forward(self, image: Tensor) -> Tensor:
        """Return the features (B, C, h, w) of ``image`` (B, 3, h, w) in [-1, 1]."""
        raise TypeError(f"{type(self).__name__} does not define forward(image)")

    def stages(self) -> Sequence[Stage]:
        """Return the steps that `forward` consists of, the last of which returns the features.

        With them a picture is encoded strip by strip without an overlap of the whole receptive field
        (`lmf.inference.lines`). They are empty if the encoder has none; pictures are then encoded in tiles.
        """
        return ()

    def grow_from(self, smaller: Encoder) -> bool:
        """Take the weights of an encoder with fewer layers, so that both compute the same features.

        Returns:
            Whether that is possible. If not, the weights do not change.
        """
        return False
