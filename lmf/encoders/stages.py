"""Encoders as sequences of steps, so that a picture can be encoded strip by strip without computing a pixel twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

IMAGE = -1


@dataclass(frozen=True)
class Stage:
    """A step of an encoder.

    Attributes:
        run: computes a map (B, C', h, w) from the maps (B, C, h, w) of ``inputs``.
        reach: largest distance in pixels from which a pixel of the inputs influences the result.
        inputs: positions of the stages whose results it takes; `IMAGE` is the image.
        width: channels of its result.
        temporaries: largest number of channels that ``run`` holds besides its inputs, with its result.
    """

    run: Callable[..., Tensor]
    reach: int
    inputs: tuple[int, ...]
    width: int
    temporaries: int
