"""Bicubic reduction as the field does it: PIL's, and MATLAB's ``imresize``."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from PIL import Image

from lmf.grid import Size

_A = -0.5  # Keys' kernel, in both


def resize_pil(image: np.ndarray, size: Size) -> np.ndarray:
    """Resizes uint8 ``image`` (h, w, 3) to ``size`` (H, W) with PIL's antialiased bicubic, in 8 bits."""
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def resize_matlab(
    image: np.ndarray,
    scale: float | None = None,
    size: Size | None = None,
    border: Literal["replicate", "symmetric"] = "replicate",
) -> np.ndarray:
    """Resizes a picture as MATLAB's ``imresize(image, scale)`` or ``imresize(image, [H W])`` does, with bicubic.

    Args:
        image: (h, w) or (h, w, C); uint8 gives uint8, rounded after each axis as MATLAB does; floating point gives
            float64, neither rounded nor clamped.
        scale: factor on both sides; the output is ceil(h * scale) x ceil(w * scale).
        size: output (H, W) instead; the factor of each axis follows from it.
        border: what lies beyond the picture. ``"replicate"`` repeats the edge pixel and reproduces the published LR
            images of Set5 and Set14 exactly; ``"symmetric"`` mirrors the picture as newer releases of MATLAB do.

    Raises:
        ValueError: an unknown border, or not exactly one of ``scale`` and ``size``.
    """
    if border not in ("replicate", "symmetric"):
        raise ValueError(f"border must be 'replicate' or 'symmetric', got {border!r}")
    if (scale is None) == (size is None):
        raise ValueError(f"give either scale or size, got scale={scale}, size={size}")
    h, w = image.shape[:2]
    if size is not None:
        factors = size[0] / h, size[1] / w
    else:
        assert scale is not None
        factors, size = (scale, scale), (math.ceil(h * scale), math.ceil(w * scale))
    out = image
    for axis in sorted((0, 1), key=lambda axis: factors[axis]):  # MATLAB begins with the axis it shrinks most
        out = _resize_axis(out, axis, size[axis], factors[axis], border == "symmetric")
    return out


def _resize_axis(image: np.ndarray, axis: int, length: int, factor: float, mirror: bool) -> np.ndarray:
    index, weight = _taps(image.shape[axis], length, factor, mirror)
    moved = np.moveaxis(image, axis, 0)
    out = np.zeros((length, *moved.shape[1:]))
    for tap in range(index.shape[1]):
        out += weight[:, tap].reshape(-1, *[1] * (moved.ndim - 1)) * moved[index[:, tap]]
    if image.dtype == np.uint8:
        out = np.floor(out.clip(0, 255) + 0.5).astype(np.uint8)
    return np.moveaxis(out, 0, axis)


def _taps(source: int, length: int, factor: float, mirror: bool) -> tuple[np.ndarray, np.ndarray]:
    """Which of ``source`` pixels make each of ``length`` output pixels (length, taps), and with what weights."""
    stretch = min(factor, 1.0)  # antialiasing widens the kernel when shrinking
    width = 4 / stretch
    centre = (np.arange(length) + 0.5) / factor - 0.5
    first = np.floor(centre - width / 2 + 1).astype(np.int64)
    index = first[:, None] + np.arange(math.ceil(width) + 1)
    weight = _cubic((centre[:, None] - index) * stretch)
    weight /= weight.sum(axis=1, keepdims=True)
    if mirror:
        index = index % (2 * source)
        index = np.where(index < source, index, 2 * source - 1 - index)
    return index.clip(0, source - 1), weight


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = -0.5, zero beyond ±2."""
    x = np.abs(x)
    near = ((_A + 2) * x - (_A + 3)) * x**2 + 1
    far = _A * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
