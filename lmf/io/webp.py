"""Reads WebP files; refuses incomplete files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np

from lmf.io.formats import ImageError
from lmf.io.metadata import Metadata, fitting_icc


def header(path: Path) -> tuple[tuple[int, int], Metadata, int]:
    """Return the (height, width), the metadata and the number of frames."""
    parts = list(_chunks(path.read_bytes()))
    found = dict(reversed(parts))  # the first of several wins
    exif = found.get(b"EXIF", b"").removeprefix(b"Exif\0\0")
    metadata = Metadata(fitting_icc(found.get(b"ICCP")), exif or None, found.get(b"XMP ") or None)
    return _size(found), metadata, max(1, sum(name == b"ANMF" for name, _ in parts))


def decode(path: Path) -> np.ndarray:
    """Decode a file to (H, W, 3) or (H, W, 4) of uint8."""
    data = path.read_bytes()
    size = _size(dict(_chunks(data)))
    array = imagecodecs.webp_decode(data)
    if array.shape[:2] != size:
        raise ImageError(f"it holds {array.shape[1]} x {array.shape[0]} pixels, not {size[1]} x {size[0]}")
    return array


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    end, at = 8 + int.from_bytes(data[4:8], "little"), 12
    if len(data) < end:
        raise ImageError("the file is truncated")
    while at + 8 <= end:
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + length > end:
            raise ImageError("the file is truncated")
        yield name, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _size(found: dict[bytes, bytes]) -> tuple[int, int]:
    if len(body := found.get(b"VP8X", b"")) >= 10:
        return int.from_bytes(body[7:10], "little") + 1, int.from_bytes(body[4:7], "little") + 1
    if len(body := found.get(b"VP8L", b"")) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if len(body := found.get(b"VP8 ", b"")) >= 10:
        return int.from_bytes(body[8:10], "little") & 0x3FFF, int.from_bytes(body[6:8], "little") & 0x3FFF
    raise ImageError("it has no picture")
