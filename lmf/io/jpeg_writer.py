"""Writes JPEG files part by part.

Each part is compressed on its own, with the same tables. The parts follow each other as restart intervals of one scan,
which is what the format provides for. The coefficients, and thus the pixels, equal those of the picture compressed as a
whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from PIL import Image as PIL

from lmf.io.pieces import mapped, rows_of, strips

_ROWS = 16  # parts have multiples of it, the tallest unit of chroma subsampling
_UNITS = 65535  # largest restart interval
_SCAN, _FRAME, _INTERVAL, _RESTART, _END = 0xDA, 0xC0, 0xDD, 0xD0, b"\xff\xd9"


def encode(file: BinaryIO, bands: Iterable[np.ndarray], shape: tuple[int, ...], options: dict[str, Any]) -> None:
    """Write a picture from ``bands`` of rows, compressed in threads.

    Args:
        file: the file.
        bands: uint8 (rows, W[, C]) with C = 1 or 3, from top to bottom.
        shape: (H, W[, C]).
        options: of Pillow's ``save``. Metadata is taken from the first part.
    """
    width = shape[1]
    rows = rows_of(shape, 1)
    rows = max(_ROWS, min(rows, _UNITS * 8 // -(-width // 8)) // _ROWS * _ROWS)  # units have at least 8 x 8 pixels
    alike = {name: value for name, value in options.items() if name in ("quality", "subsampling")}

    def compressed(part: tuple[int, np.ndarray]) -> bytes:
        number, pixels = part
        data = BytesIO()
        PIL.fromarray(pixels).save(data, "JPEG", **(alike if number else options))
        return data.getvalue()

    parts = strips((band[..., 0] if band.shape[2:] == (1,) else band for band in bands), rows)
    for number, data in enumerate(mapped(compressed, enumerate(parts))):
        start = _scan(data)
        if number:
            file.write(bytes([0xFF, _RESTART + (number - 1) % 8]))
        else:
            file.write(_head(data[:start], shape[0], rows))
        file.write(data[start:].removesuffix(_END))
    file.write(_END)


def _scan(data: bytes) -> int:
    """Return where the compressed pixels of a file begin."""
    at = 2
    while data[at + 1] != _SCAN:
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return at + 2 + int.from_bytes(data[at + 2 : at + 4])


def _head(data: bytes, height: int, rows: int) -> bytes:
    """Return the segments ``data`` of a part, up to its pixels, as those of a picture of ``height`` in such parts."""
    out, at = bytearray(data[:2]), 2
    while at < len(data):
        kind, length = data[at + 1], 2 + int.from_bytes(data[at + 2 : at + 4])
        segment = bytearray(data[at : at + length])
        if kind == _FRAME:
            segment[5:7] = height.to_bytes(2)
            width, components = int.from_bytes(segment[7:9]), segment[9]
            # A unit covers 8 x 8 samples of the components with the lowest resolution, or of the only component.
            across, down = (8, 8) if components == 1 else (8 * (segment[11] >> 4), 8 * (segment[11] & 15))
            interval = -(-width // across) * (rows // down)
        if kind == _SCAN and rows < height:
            out += bytes([0xFF, _INTERVAL, 0, 4]) + interval.to_bytes(2)
        out += segment
        at += length
    return bytes(out)
