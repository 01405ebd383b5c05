"""Crops of pictures that show how models differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lmf.errors import UserError
from lmf.grid import Size
from lmf.io.colour import to_uint8

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Shot:
    """A picture with a crop of every model's output, for a figure.

    Attributes:
        set, scale, picture: where the picture comes from.
        hr: uint8 (H, W, 3), the whole reference.
        box: (top, left, bottom, right) of the crop in HR pixels, half-open.
        crops: uint8 (h, w, 3) for each model.
        errors: float32 (h, w) for each model, mean absolute difference over the channels, 1 = full range.
        values: metrics of the whole picture for each model.
        spread: how much the models differ in the crop, see `choose`.
    """

    set: str
    scale: float
    picture: str
    hr: np.ndarray
    box: Box
    crops: Mapping[str, np.ndarray]
    errors: Mapping[str, np.ndarray]
    values: Mapping[str, Mapping[str, float]]
    spread: float

    @property
    def name(self) -> str:
        """Set, scale and picture, such as ``set5_x4_baby``."""
        return f"{self.set}_x{self.scale:g}_{self.picture}"

    @property
    def truth(self) -> np.ndarray:
        """The crop of the reference, uint8 (h, w, 3)."""
        top, left, bottom, right = self.box
        return self.hr[top:bottom, left:right]


def shoot(
    place: tuple[str, float, str],
    hr: Tensor,
    outputs: Mapping[str, Tensor],
    values: Mapping[str, Mapping[str, float]],
    side: int,
    corner: Size | None = None,
) -> Shot:
    """Crop a picture and its enlargements.

    Args:
        place: set, scale and name of the picture.
        hr: (1, 3, H, W) in [0, 1].
        outputs: (1, 3, H, W) in [0, 1] of each model.
        values: metrics of each model.
        side: side of the crop in HR pixels; smaller pictures are shown whole.
        corner: (top, left) of the crop; None chooses the crop in which the models differ most.
    """
    found, spread = choose(list(outputs.values()), hr, side)
    top, left = found if corner is None else corner
    h, w = (min(side, n) for n in hr.shape[-2:])
    box = (top, left, top + h, left + w)
    rows, cols = slice(top, top + h), slice(left, left + w)
    return Shot(
        *place,
        hr=to_uint8(hr[0]),
        box=box,
        crops={name: to_uint8(sr[0, :, rows, cols]) for name, sr in outputs.items()},
        errors={
            name: (sr.clamp(0, 1) - hr)[0, :, rows, cols].abs().mean(dim=0).float().cpu().numpy()
            for name, sr in outputs.items()
        },
        values=values,
        spread=spread,
    )


def choose(outputs: Sequence[Tensor], hr: Tensor, side: int) -> tuple[Size, float]:
    """Find the crop in which models differ most.

    The measure is the mean squared error in the crop, of the worst model minus that of the best one. For a single model
    it is its mean squared error.

    Args:
        outputs: (1, 3, H, W) in [0, 1] of each model.
        hr: (1, 3, H, W) in [0, 1].
        side: side of the crop in pixels.

    Returns:
        (top, left) of the crop and the measure.
    """
    h, w = (min(side, n) for n in hr.shape[-2:])
    step = max(1, side // 8)
    errors = torch.cat(
        [F.avg_pool2d((sr.clamp(0, 1) - hr).square().mean(dim=1, keepdim=True), (h, w), stride=step) for sr in outputs]
    )  # (models, 1, rows, cols)
    spread = errors.amax(dim=0)[0] - (errors.amin(dim=0)[0] if len(outputs) > 1 else 0)
    index = int(spread.argmax())
    row, col = divmod(index, spread.shape[1])
    return (row * step, col * step), spread.flatten()[index].item()


def check_corner(corner: Sequence[int], side: int, size: Size, name: str) -> Size:
    """Return ``corner`` as (top, left) of a crop that lies inside a picture of ``size`` (H, W).

    Raises:
        UserError: if it does not.
    """
    if len(corner) != 2 or any(type(n) is not int or n < 0 for n in corner):
        raise UserError(f"the crop must be [top,left] in HR pixels, got {list(corner)}")
    ends = [n + min(side, limit) for n, limit in zip(corner, size, strict=True)]
    if any(end > limit for end, limit in zip(ends, size, strict=True)):
        raise UserError(
            f"a crop of {side} pixels at {list(corner)} does not lie in {name}, which has {size[1]} x {size[0]} pixels"
        )
    return corner[0], corner[1]
