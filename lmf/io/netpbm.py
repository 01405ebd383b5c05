"""Reads Netpbm files (PBM, PGM, PPM) of any depth up to 16 bits, text or binary."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmf.io.formats import ImageError
from lmf.io.samples import full_range

_SPACE = rb"(?:\s|#[^\n]*\n)"
_HEADER = re.compile(rb"P([1-6])%b+(\d{1,9})%b+(\d{1,9})" % (_SPACE, _SPACE))
_MOST = re.compile(rb"%b+(\d{1,9})" % _SPACE)
_LONGEST = 1 << 16  # limit on the bytes of a header, including comments


class _Header(NamedTuple):
    kind: int
    width: int
    height: int
    most: int  # the value of white
    end: int


def size(path: Path) -> tuple[int, int]:
    """Return the (height, width) of a file."""
    with path.open("rb") as file:
        header = _header(file.read(_LONGEST))
    return header.height, header.width


def decode(path: Path) -> np.ndarray:
    """Decode a file to (H, W) or (H, W, 3): uint8, or uint16 if white is above 255."""
    data = path.read_bytes()
    kind, width, height, most, end = _header(data)
    channels = 3 if kind in (3, 6) else 1
    count = height * width * channels
    if kind == 4:
        packed = np.frombuffer(_enough(data[end + 1 :], height * -(-width // 8)), np.uint8)
        values = 1 - np.unpackbits(packed.reshape(height, -1), axis=1, count=width)
    elif kind > 4:
        dtype = np.dtype(np.uint8 if most < 256 else ">u2")
        values = np.frombuffer(_enough(data[end + 1 :], count * dtype.itemsize), dtype)
    else:
        text = re.sub(rb"#[^\n]*", b"", data[end:])
        words = re.findall(rb"[01]", text) if kind == 1 else text.split()
        if kind > 1 and not text[-1:].isspace() and len(words) == count:  # digits of the last value may be missing
            raise ImageError("the file is truncated: no space follows the last value")
        values = np.array([_number(word) for word in _enough(words, count)], np.int64)
        values = 1 - values if kind == 1 else values
    values = full_range(values, most)
    return values.reshape((height, width, 3) if channels == 3 else (height, width))


def _header(data: bytes) -> _Header:
    match = _HEADER.match(data)
    if not match:
        raise ImageError("its header is damaged")
    kind, width, height = (int(group) for group in match.groups())
    most, end = 1, match.end()
    if kind not in (1, 4):
        match = _MOST.match(data, end)
        if not match:
            raise ImageError("its header is damaged")
        most, end = int(match[1]), match.end()
    if not (width and height and 1 <= most <= 65535):
        raise ImageError(f"it has {width} x {height} pixels and a white of {most}")
    return _Header(kind, width, height, most, end)


def _enough(values: Any, count: int) -> Any:
    if len(values) < count:
        raise ImageError(f"the file is truncated: {len(values)} of {count} values")
    return values[:count]


def _number(word: bytes) -> int:
    if not word.isdigit() or len(word) > 5:
        raise ImageError(f"{word[:20]!r} is not a sample")
    return int(word)
