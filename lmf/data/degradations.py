"""Bicubic reduction with PIL and as in MATLAB's ``imresize``."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]

_A = -0.5  # parameter of Keys' kernel in PIL and MATLAB


def resize_pil(image: Array, size: tuple[int, int]) -> Array:
    """Resize ``image`` (h, w, 3) to ``size`` (H, W) with PIL's antialiased bicubic filter, both uint8."""
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def resize_matlab(
    image: Array,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    border: Literal["replicate", "symmetric"] = "replicate",
) -> Array:
    """Resize a picture like MATLAB's bicubic ``imresize(image, scale)`` or ``imresize(image, [H W])``.

    Args:
        image: (h, w) or (h, w, C), uint8 or floating point.
        scale: factor for both sides. The output has ceil(h * scale) x ceil(w * scale) pixels.
        size: output (H, W), instead of ``scale``.
        border: extrapolation beyond the picture. ``"replicate"`` repeats the edge pixel and reproduces the published LR
            images of Set5 and Set14 exactly. ``"symmetric"`` mirrors the picture, as newer releases of MATLAB do.

    Returns:
        (H, W) or (H, W, C). uint8 for uint8, rounded after each axis as in MATLAB. float64 for floating point, neither
        rounded nor clamped.

    Raises:
        ValueError: if ``border`` is unknown, or if neither or both of ``scale`` and ``size`` are given.
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
    for axis in sorted((0, 1), key=lambda axis: factors[axis]):  # like MATLAB, the axis that shrinks most first
        out = _resize_axis(out, axis, size[axis], factors[axis], border == "symmetric")
    return out


def _resize_axis(image: Array, axis: int, length: int, factor: float, mirror: bool) -> Array:
    """Resize one axis of ``image`` to ``length`` pixels, see `resize_matlab`."""
    index, weight = _taps(image.shape[axis], length, factor, mirror)
    moved = np.moveaxis(image, axis, 0)
    out = np.zeros((length, *moved.shape[1:]))
    for tap in range(index.shape[1]):
        out += weight[:, tap].reshape(-1, *[1] * (moved.ndim - 1)) * moved[index[:, tap]]
    if image.dtype == np.uint8:
        out = np.floor(out.clip(0, 255) + 0.5).astype(np.uint8)
    return np.moveaxis(out, 0, axis)


def _taps(source: int, length: int, factor: float, mirror: bool) -> tuple[Array, Array]:
    """Return which of ``source`` pixels contribute to each of ``length`` output pixels, and their weights.

    Returns:
        int64 (length, taps) and float64 (length, taps).
    """
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


def _cubic(x: Array) -> Array:
    """Evaluate Keys' cubic convolution kernel with a = -0.5, which is zero beyond ±2."""
    x = np.abs(x)
    near = ((_A + 2) * x - (_A + 3)) * x**2 + 1
    far = _A * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
