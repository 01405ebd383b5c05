"""Converts the samples of a TIFF page to grey or RGB, with or without alpha."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from lmf.io.formats import ImageError
from lmf.io.samples import full_range

log = logging.getLogger(__name__)

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_BASE = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3}
_UNSPECIFIED, _ASSOCIATED, _UNASSOCIATED = 0, 1, 2


def to_rgb(page: Any, samples: np.ndarray, rgb: bool) -> np.ndarray:
    """Convert the samples of a page to grey or RGB.

    Args:
        page: the page.
        samples: (H, W, S).
        rgb: whether the decoder has already converted YCbCr to RGB.

    Returns:
        (H, W) or (H, W, C) of uint8 or uint16, with alpha last if there is one.

    Raises:
        ImageError: if the photometric interpretation is not supported or needs more samples.
    """
    kind = int(page.photometric)
    if kind not in _BASE or (kind == _CMYK and page.tags.valueof(332, default=1) != 1):
        raise ImageError(f"its colours are {getattr(page.photometric, 'name', kind)}; convert it to RGB first")
    if kind == _YCBCR and rgb:
        kind = _RGB
    base, extra = _BASE[kind], tuple(int(n) for n in page.extrasamples)
    if kind == _BLACK_IS_ZERO and samples.shape[2] >= 3 and all(n == _UNSPECIFIED for n in extra[:2]):
        base, extra = 3, extra[2:]  # a grey page with two unspecified channels more is RGB
    if samples.shape[2] < base:
        raise ImageError(f"it holds {samples.shape[2]} samples a pixel, expected {base}")
    extra += (_UNASSOCIATED,) * (samples.shape[2] - base - len(extra))  # old files do not specify them
    at = next((i for i, n in enumerate(extra) if n in (_ASSOCIATED, _UNASSOCIATED)), None)
    if dropped := samples.shape[2] - base - (at is not None):
        log.warning(f"{page.parent.filehandle.name}: {dropped} extra channels that are not alpha are left out")
    if kind == _PALETTE:
        colours = _looked_up(page, samples[..., 0])
    else:
        colours = full_range(samples[..., :base], 2**page.bitspersample - 1)
        if kind == _WHITE_IS_ZERO:
            colours = _white(colours) - colours
        elif kind == _CMYK:
            colours = from_cmyk(colours)
    if at is None:
        return colours[..., 0] if colours.shape[2] == 1 else colours
    alpha = full_range(samples[..., base + at, None], 2**page.bitspersample - 1)
    if extra[at] == _ASSOCIATED:
        colours = _divided(colours, alpha)
    return np.concatenate([colours, alpha.astype(colours.dtype)], axis=2)


def from_cmyk(samples: np.ndarray) -> np.ndarray:
    """Convert CMYK (H, W, 4) to RGB, with each ink absorbing its complement."""
    white = int(_white(samples))
    light = white - samples.astype(np.uint32)
    return ((light[..., :3] * light[..., 3:] + white // 2) // white).astype(samples.dtype)


def _white(samples: np.ndarray) -> Any:
    return samples.dtype.type(np.iinfo(samples.dtype).max)


def _divided(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Divide colours that have been multiplied with alpha by it."""
    white, divisor = int(_white(colours)), np.maximum(alpha, 1).astype(np.uint64)
    divided: np.ndarray = np.minimum((colours * np.uint64(white) + divisor // 2) // divisor, white)
    return divided.astype(colours.dtype)


def _looked_up(page: Any, index: np.ndarray) -> np.ndarray:
    table: np.ndarray = np.asarray(page.tags.valueof(320, default=()), np.uint16)
    if table.size != 3 * 2**page.bitspersample:
        raise ImageError(f"its palette has {table.size} values, expected {3 * 2**page.bitspersample}")
    table = table.reshape(3, -1).T
    high, low = table >> 8, table & 255
    if not high.any():  # some programs write 8 bits
        table = low.astype(np.uint8)
    elif not low.any() or (low == high).all():
        table = high.astype(np.uint8)
    colours: np.ndarray = table[index]
    return colours


def from_ycbcr(page: Any, pieces: Iterable[tuple[bytes, int, int]]) -> np.ndarray:
    """Convert a YCbCr page whose pixels share chroma in groups to RGB.

    Args:
        page: the page, contiguous and with 8 bits per sample.
        pieces: bytes, rows and columns of the strips or tiles in order.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ImageError: if the layout is not supported or data is missing.
    """
    if page.bitspersample != 8 or page.samplesperpixel != 3 or page.planarconfig != 1 or page.predictor != 1:
        raise ImageError("YCbCr pixels must be 8 bits a sample and contiguous; convert it to RGB first")
    h, v = (int(n) for n in page.tags.valueof(530, default=(2, 2)))
    if h not in (1, 2, 4) or v not in (1, 2, 4):
        raise ImageError(f"its chroma subsampling is {h} x {v}")
    height, width = page.imagelength, page.imagewidth
    out, y, x = np.empty((height, width, 3), np.uint8), 0, 0
    for data, rows, cols in pieces:
        down, across = math.ceil(rows / v), math.ceil(cols / h)
        needed = down * across * (h * v + 2)
        if len(data) < needed:
            raise ImageError(f"the file lacks data: {len(data)} of {needed} bytes")
        groups = np.frombuffer(data, np.uint8, needed).reshape(down, across, h * v + 2)
        luma = groups[..., : h * v].reshape(down, across, v, h).swapaxes(1, 2).reshape(down * v, across * h, 1)
        chroma = groups[..., h * v :].repeat(v, axis=0).repeat(h, axis=1)
        part = out[y : y + rows, x : x + cols]
        part[:] = _ycbcr(page, np.concatenate([luma, chroma], axis=2)[: part.shape[0], : part.shape[1]])
        x += cols
        if x >= width:
            x, y = 0, y + rows
    return out


def _ycbcr(page: Any, samples: np.ndarray) -> np.ndarray:
    red, green, blue = _rationals(page, 529, (0.299, 0.587, 0.114))
    black = _rationals(page, 532, (0, 255, 128, 255, 128, 255))
    samples = samples.astype(np.float32)
    luma = (samples[..., 0] - black[0]) * 255 / (black[1] - black[0])
    cb = (samples[..., 1] - black[2]) * 127 / (black[3] - black[2])
    cr = (samples[..., 2] - black[4]) * 127 / (black[5] - black[4])
    r, b = luma + cr * (2 - 2 * red), luma + cb * (2 - 2 * blue)
    g = (luma - red * r - blue * b) / green
    return np.clip(np.stack([r, g, b], axis=-1) + 0.5, 0, 255).astype(np.uint8)


def _rationals(page: Any, code: int, default: tuple[float, ...]) -> tuple[float, ...]:
    value = page.tags.valueof(code)
    if not isinstance(value, tuple) or len(value) != 2 * len(default):
        return default
    found = tuple(n / d if d else 0.0 for n, d in zip(value[::2], value[1::2], strict=True))
    usable = all(found) if len(default) == 3 else all(a != b for a, b in zip(found[::2], found[1::2], strict=True))
    return found if usable else default
