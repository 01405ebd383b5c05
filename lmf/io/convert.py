"""Converts pictures in memory: PIL images, numpy arrays and tensors of 8 or 16 bits, with or without alpha.

Inside the package a picture is float32 (B, 3, H, W) in [0, 1]. `decompose` converts any picture to that and returns a
function that converts back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image as PIL
from torch import Tensor

from lmf.io import alpha, metadata
from lmf.io.alpha import Window
from lmf.io.formats import ImageError
from lmf.io.pil import from_pil


class Parts(NamedTuple):
    """The parts of a picture that are enlarged separately.

    Attributes:
        planes: one or two pictures to enlarge, float32 (B, 3, h, w) in [0, 1] on the device of the input. The first
            holds the colours, grey replicated. The second holds alpha as a grey picture, if alpha is not constant.
        compose: converts the enlarged ``planes``, (B, 3, H, W) each, back to the kind of the input: type, depth, mode,
            batch dimension and device. It clamps to [0, 1]. It also converts the same rectangle of each plane:
            ``compose(parts, window)``.
    """

    planes: list[Tensor]
    compose: Callable[..., Any]


def decompose(image: Any) -> Parts:
    """Split a picture into colours and alpha, and return a function that converts back.

    Grey is restored as the luma (BT.601) of the colours. Integers are rounded half up. If alpha varies, the colours of
    transparent pixels are replaced (`lmf.io.alpha`).

    Args:
        image: PIL image; numpy array (H, W[, C]) of uint8, uint16 or float in [0, 1]; or float tensor ([B,] C, H, W)
            in [0, 1]. C is 1 for grey, 2 for grey + alpha, 3 for RGB and 4 for RGB + alpha. The PIL modes RGB, L, RGBA,
            LA, I;16, F and I (up to 65535) are kept. Mode 1 becomes L, P becomes RGB or RGBA, CMYK and YCbCr become
            RGB. PIL images keep colour profile, EXIF, XMP and resolution in ``info``. The EXIF orientation does not
            change, because the pixels are not rotated.

    Raises:
        ImageError: if the type, dtype or shape is not supported, the picture is empty, or values are NaN or outside
            [0, 1].
    """
    if isinstance(image, Tensor):
        return _decompose_tensor(image)
    if isinstance(image, np.ndarray):
        return _decompose_array(image)
    if isinstance(image, PIL.Image):
        return _decompose_pil(image)
    raise ImageError(f"an image must be a PIL image, a numpy array or a torch tensor, got {type(image).__name__}")


def _decompose_pil(image: PIL.Image) -> Parts:
    planes, compose = _decompose_array(from_pil(image))
    mode, size, said = image.mode, (image.height, image.width), metadata.of_pil(image)

    def restore(out: Sequence[Tensor], window: Window | None = None) -> PIL.Image:
        array = compose(out, window)
        restored = PIL.fromarray(array.astype(np.int32) if mode == "I" else array)
        restored.info.update(metadata.to_info(said.enlarged(size, array.shape[:2], upright=False)))
        return restored

    return Parts(planes, restore)


def _decompose_tensor(image: Tensor) -> Parts:
    if not image.is_floating_point():
        raise ImageError(f"a tensor image must be floating point in [0, 1], got {image.dtype}")
    if image.ndim not in (3, 4) or image.shape[-3] not in (1, 2, 3, 4) or 0 in image.shape:
        raise ImageError(f"a tensor image must be ([B,] C, H, W) with C = 1 to 4, got shape {tuple(image.shape)}")
    values = _in_range(image.detach().float())
    batched, dtype = image.ndim == 4, image.dtype
    planes, merge = alpha.split(values if batched else values[None])

    def restore(out: Sequence[Tensor], window: Window | None = None) -> Tensor:
        merged = merge(out, window).to(dtype)
        return merged if batched else merged[0]

    return Parts(planes, restore)


def _decompose_array(array: np.ndarray) -> Parts:
    check_array(array, floating=True)
    dtype, shape = array.dtype, array.shape
    white = np.iinfo(dtype).max if dtype.kind == "u" else 1
    values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32) / np.float32(white))
    # Contiguous, because convolutions do not choose the best layout for other strides.
    values = _in_range(values.reshape(*shape[:2], -1)).permute(2, 0, 1)[None].contiguous()
    planes, merge = alpha.split(values)

    def restore(out: Sequence[Tensor], window: Window | None = None) -> np.ndarray:
        merged = merge(out, window)[0].permute(1, 2, 0).numpy()  # (H, W, C)
        if white > 1:
            merged = np.floor(merged * white + 0.5)
        return np.ascontiguousarray(merged.reshape(*merged.shape[:2], *shape[2:]).astype(dtype))

    return Parts(planes, restore)


def _in_range(values: Tensor) -> Tensor:
    low, high = (float(v) for v in values.aminmax())
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise ImageError(f"floating-point images must be finite and in [0, 1], got values from {low:g} to {high:g}")
    return values


def check_array(array: np.ndarray, floating: bool = False) -> None:
    """Check that ``array`` is a picture (H, W[, C]) of uint8 or uint16, or of floating point if ``floating`` is set.

    Raises:
        ImageError: if not.
    """
    shape = array.shape
    if array.ndim not in (2, 3) or 0 in shape or (array.ndim == 3 and shape[2] > 4):
        raise ImageError(f"an image array must be (H, W) or (H, W, C) with C = 1 to 4, got shape {shape}")
    if array.dtype not in (np.uint8, np.uint16) and not (floating and array.dtype.kind == "f"):
        kinds = "uint8, uint16 or floating point in [0, 1]" if floating else "uint8 or uint16"
        raise ImageError(f"an image array must be {kinds}, got {array.dtype}")
