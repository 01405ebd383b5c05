"""Splits pictures with transparency into colours and alpha, which are enlarged separately.

Before that, colours of nearly transparent pixels are replaced by an average of their neighbours weighted with alpha.
Colours under zero alpha therefore have no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in PIL's convert("L")
_SEEN = 1 / 4  # colours with at least this alpha stay unchanged
_LEAST = 1e-6


@dataclass(frozen=True)
class Window:
    """A rectangle of an enlarged picture.

    Attributes:
        top, left: its first row and column.
        size: (H, W) of the whole picture.
    """

    top: int
    left: int
    size: tuple[int, int]


def split(planes: Tensor) -> tuple[list[Tensor], Callable[[Sequence[Tensor], Window | None], Tensor]]:
    """Split a picture into RGB pictures to enlarge.

    Args:
        planes: (B, C, h, w) in [0, 1]; C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGB + alpha.

    Returns:
        pictures: (B, 3, h, w) each. The first holds the colours. The second holds alpha as a grey picture; it is left
            out if alpha is constant.
        merge: combines the enlarged ``pictures`` to (B, C, H, W) in [0, 1]; or the same `Window` of each.
    """
    channels, device = planes.shape[1], planes.device
    alpha = planes[:, -1:] if channels in (2, 4) else None
    colour = planes[:, :3] if channels > 2 else planes[:, :1]
    flat = alpha is None or bool((alpha == alpha[:1, :, :1, :1]).all())
    pictures = [colour] if alpha is None or flat else [filled(colour, alpha), alpha]

    def merge(enlarged: Sequence[Tensor], window: Window | None) -> Tensor:
        out, *rest = (picture.detach().to(device, torch.float32).clamp(0, 1) for picture in enlarged)
        if channels < 3:
            out = grey(out)
        if alpha is None:
            return out
        if flat:
            seen = alpha[:1, :, :1, :1].expand(len(out), 1, *out.shape[-2:])
        else:
            shown = (out.shape[-2], out.shape[-1])
            low, high = limits(alpha, window or Window(0, 0, shown), shown)
            seen = torch.where(low == high, low, grey(rest[0]))  # masks stay flat beyond their edges
        return torch.cat([out, seen], dim=1)

    return [picture.expand(-1, 3, -1, -1) for picture in pictures], merge


def limits(alpha: Tensor, window: Window, shown: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest alpha around each output pixel.

    Args:
        alpha: (B, 1, h, w).
        window: position of the output pixels.
        shown: their (rows, columns).

    Returns:
        low, high: (B, 1, rows, columns), over the 3 x 3 input pixels around the one that holds the output pixel. If the
            output is smaller than the input on a side, 0 and 1.
    """
    (h, w), (height, width) = alpha.shape[-2:], window.size
    if height < h or width < w:
        shape = (len(alpha), 1, *shown)
        return alpha.new_zeros(shape), alpha.new_ones(shape)
    y = (2 * torch.arange(window.top, window.top + shown[0], device=alpha.device) + 1) * h // (2 * height)
    x = (2 * torch.arange(window.left, window.left + shown[1], device=alpha.device) + 1) * w // (2 * width)
    index = (..., y[:, None], x)
    return -F.max_pool2d(-alpha, 3, 1, 1)[index], F.max_pool2d(alpha, 3, 1, 1)[index]


def filled(colour: Tensor, alpha: Tensor) -> Tensor:
    """Replace the colours of nearly transparent pixels by those of their neighbourhood.

    Colours multiplied with alpha are averaged over squares of increasing size. From the largest size down, a square is
    blended with the next larger one where its alpha is low.

    Args:
        colour: (B, C, h, w).
        alpha: (B, 1, h, w).

    Returns:
        (B, C, h, w).
    """
    squares = [(colour * alpha, alpha)]
    while max(squares[-1][0].shape[-2:]) > 1:
        squares.append(tuple(F.avg_pool2d(part, 2, ceil_mode=True) for part in squares[-1]))  # type: ignore[arg-type]
    total, weight = squares.pop()
    out = total / weight.clamp_min(_LEAST)
    for total, weight in reversed(squares):
        around = F.interpolate(out, total.shape[-2:], mode="bilinear")
        out = torch.lerp(around, total / weight.clamp_min(_LEAST), (weight / _SEEN).clamp_max(1))
    return torch.where(alpha < _SEEN, out, colour)


def grey(colours: Tensor) -> Tensor:
    """Return the luma (B, 1, H, W) of ``colours`` (B, 3, H, W)."""
    return (colours * colours.new_tensor(_LUMA)[:, None, None]).sum(dim=1, keepdim=True)
