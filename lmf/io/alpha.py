"""Transparency: pictures that are enlarged together with their alpha channel.

Colours are multiplied with alpha before they are enlarged and divided by the enlarged alpha afterwards. So a colour
counts as far as it can be seen, and what lies under zero alpha counts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, what PIL's convert("L") uses
_LEAST = 1 / 65535  # alpha below which no format keeps a colour
_FAINT = 1 / 1024  # alpha too small to divide by


def split(planes: Tensor) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Tensor]]:
    """Splits a picture into RGB pictures to be enlarged.

    Args:
        planes: (B, C, h, w) in [0, 1]; C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGB + alpha.

    Returns:
        pictures: (B, 3, h, w) each. The colours; then alpha as a grey picture, unless it is the same everywhere.
        merge: takes the enlarged ``pictures``, or the same rows of each, and gives (B, C, H, W) in [0, 1].
    """
    channels, device = planes.shape[1], planes.device
    alpha = planes[:, -1:] if channels in (2, 4) else None
    colour = planes[:, :3] if channels > 2 else planes[:, :1].expand(-1, 3, -1, -1)
    flat = alpha is None or bool((alpha == alpha[:1, :, :1, :1]).all())
    pictures = [colour] if alpha is None or flat else [colour * alpha, alpha.expand(-1, 3, -1, -1)]

    def merge(enlarged: Sequence[Tensor]) -> Tensor:
        out, *rest = (picture.detach().to(device, torch.float32).clamp(0, 1) for picture in enlarged)
        if alpha is None:
            return grey(out) if channels < 3 else out
        if flat:
            seen = alpha[:1, :, :1, :1].expand(len(out), 1, *out.shape[-2:])
        else:
            seen = grey(rest[0])
            # Models do not keep grey exactly grey, so each channel is divided by its own alpha, that white stays white.
            # Where that is nothing, the colour is as bright as all channels together.
            brightness = grey(out) / seen.clamp_min(_LEAST)
            out = ((out + _FAINT * brightness) / (rest[0] + _FAINT)).clamp_max(1)
        return torch.cat([grey(out) if channels < 3 else out, seen], dim=1)

    return pictures, merge


def grey(colours: Tensor) -> Tensor:
    """Luma (B, 1, H, W) of ``colours`` (B, 3, H, W)."""
    return (colours * colours.new_tensor(_LUMA)[:, None, None]).sum(dim=1, keepdim=True)
