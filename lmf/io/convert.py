"""Pictures in memory: PIL images, numpy arrays and tensors, of 8 or 16 bits, with or without alpha.

Inside the package a picture is float32 (B, 3, H, W) in [0, 1]. `decompose` turns anything into that and gives the way
back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PIL
from torch import Tensor

from lmf.io import codecs
from lmf.io.codecs import ImageError

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, what PIL's convert("L") uses


def decompose(image: Any) -> tuple[Tensor, Callable[..., Any]]:
    """Takes a picture apart into colours and the way back.

    Args:
        image: PIL image; numpy array (H, W[, C]) of uint8, uint16 or float in [0, 1]; or float tensor ([B,] C, H, W)
            in [0, 1]. C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGB + alpha. PIL modes: RGB, L, RGBA, LA, I;16, F
            come back as they are, I (of at most 65535) too; 1 comes back as L, P as RGB or RGBA, CMYK and YCbCr
            as RGB.

    Returns:
        colour: float32 (B, 3, h, w) in [0, 1], on the device of the input; grey is replicated.
        restore: takes (B, 3, H, W) in [0, 1] and gives the kind of picture that came in: type, depth, mode,
            batch dimension, device. Grey is the luma (BT.601) of the colours; integers are rounded half up; alpha
            is resized bicubically (antialiased) to (H, W). ``restore(band, top, height)`` is for a band of rows from
            ``top`` of a picture of ``height`` rows.

    Raises:
        ImageError: another type, dtype, number of dimensions or channels; empty; NaN or outside [0, 1].
    """
    if isinstance(image, Tensor):
        return _decompose_tensor(image)
    if isinstance(image, np.ndarray):
        return _decompose_array(image)
    if isinstance(image, PIL.Image):
        colour, restore = _decompose_array(codecs.from_pil(image))
        return colour, lambda out, *place: _to_pil(restore(out, *place), image.mode)
    raise ImageError(f"an image must be a PIL image, a numpy array or a torch tensor, got {type(image).__name__}")


def _decompose_tensor(image: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    if not image.is_floating_point():
        raise ImageError(f"a tensor image must be floating point in [0, 1], got {image.dtype}")
    if image.ndim not in (3, 4) or image.shape[-3] not in (1, 2, 3, 4) or 0 in image.shape:
        raise ImageError(f"a tensor image must be ([B,] C, H, W) with C = 1 to 4, got shape {tuple(image.shape)}")
    planes = _in_range(image.detach().float())
    batched, dtype = image.ndim == 4, image.dtype
    colour, merge = _split(planes if batched else planes[None])

    def restore(out: Tensor, top: int = 0, height: int | None = None) -> Tensor:
        merged = merge(out, top, height).to(dtype)
        return merged if batched else merged[0]

    return colour, restore


def _decompose_array(array: np.ndarray) -> tuple[Tensor, Callable[[Tensor], np.ndarray]]:
    check_array(array, floating=True)
    dtype, shape = array.dtype, array.shape
    white = np.iinfo(dtype).max if dtype.kind == "u" else 1
    planes = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32) / np.float32(white))
    # Contiguous, as with odd strides convolutions would not see that they may choose their layout.
    planes = _in_range(planes.reshape(*shape[:2], -1)).permute(2, 0, 1)[None].contiguous()
    colour, merge = _split(planes)

    def restore(out: Tensor, top: int = 0, height: int | None = None) -> np.ndarray:
        merged = merge(out, top, height)[0].permute(1, 2, 0).numpy()  # (H, W, C)
        if white > 1:
            merged = np.floor(merged * white + 0.5)
        return np.ascontiguousarray(merged.reshape(*merged.shape[:2], *shape[2:]).astype(dtype))

    return colour, restore


def _split(planes: Tensor) -> tuple[Tensor, Callable[[Tensor, int, int | None], Tensor]]:
    """``planes`` (B, C, h, w) to colours (B, 3, h, w), and from colours (B, 3, H, W) back to (B, C, H, W)."""
    channels, device = planes.shape[1], planes.device
    alpha = planes[:, -1:] if channels in (2, 4) else None
    colour = planes[:, :3] if channels > 2 else planes[:, :1].expand(-1, 3, -1, -1)

    def merge(out: Tensor, top: int, height: int | None) -> Tensor:
        out = out.detach().to(device, torch.float32)
        if channels < 3:
            out = (out * out.new_tensor(_LUMA)[:, None, None]).sum(dim=1, keepdim=True)
        if alpha is not None:
            out = torch.cat(
                [out, resized_rows(alpha, height or out.shape[-2], out.shape[-1], top, out.shape[-2])], dim=1
            )
        return out.clamp(0, 1)

    return colour, merge


def resized_rows(planes: Tensor, height: int, width: int, top: int, rows: int) -> Tensor:
    """Rows ``top .. top + rows - 1`` of ``planes`` (B, C, h, w) resized to (``height``, ``width``), bicubically
    (a = -0.5) and antialiased, like ``F.interpolate`` does it and PIL: (B, C, rows, ``width``)."""
    h = planes.shape[-2]
    step = h / height
    stretch = max(step, 1.0)  # antialiasing widens the kernel when shrinking
    centre = (torch.arange(top, top + rows, dtype=torch.float64, device=planes.device) + 0.5) * step
    first = max(0, math.floor(centre[0].item() - 2 * stretch))
    last = min(h, math.ceil(centre[-1].item() + 2 * stretch))
    tap = torch.arange(first, last, dtype=torch.float64, device=planes.device) + 0.5
    d = ((tap - centre[:, None]) / stretch).abs().clamp_max(2)  # (rows, taps)
    weight = torch.where(d < 1, (1.5 * d - 2.5) * d * d + 1, ((-0.5 * d + 2.5) * d - 4) * d + 2)
    weight = (weight / weight.sum(dim=1, keepdim=True)).to(planes.dtype)
    wide = F.interpolate(planes[:, :, first:last], (last - first, width), mode="bicubic", antialias=True)
    return weight @ wide


def _in_range(values: Tensor) -> Tensor:
    low, high = (float(v) for v in values.aminmax())
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise ImageError(f"floating-point images must be finite and in [0, 1], got values from {low:g} to {high:g}")
    return values


def check_array(array: np.ndarray, floating: bool = False) -> None:
    shape = array.shape
    if array.ndim not in (2, 3) or 0 in shape or (array.ndim == 3 and shape[2] > 4):
        raise ImageError(f"an image array must be (H, W) or (H, W, C) with C = 1 to 4, got shape {shape}")
    if array.dtype not in (np.uint8, np.uint16) and not (floating and array.dtype.kind == "f"):
        kinds = "uint8, uint16 or floating point in [0, 1]" if floating else "uint8 or uint16"
        raise ImageError(f"an image array must be {kinds}, got {array.dtype}")


def _to_pil(array: np.ndarray, mode: str) -> PIL.Image:
    return PIL.fromarray(array.astype(np.int32) if mode == "I" else array)
