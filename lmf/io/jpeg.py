"""Whether a JPEG file holds all of its picture, which its decoder does not say."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_BASELINE, _PROGRESSIVE = {0xC0, 0xC1}, {0xC2}
_SOF = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_ALONE = {0x01, *range(0xD0, 0xD9)}
_SCAN, _END = 0xDA, 0xD9
# Bits for a decoder that asks for more than there is: a complete picture does not change by them.
_MORE = bytes((37 * i + 11) % 251 for i in range(512)) * 4


class _Structure:
    """The markers of a JPEG file."""

    def __init__(self, data: bytes) -> None:
        self.frame, self.size, self.end = 0, (0, 0), -1
        self.exact: dict[tuple[int, int], int] = {}  # (component, coefficient): bits still missing
        self.components: list[int] = []
        at = 2
        while at + 4 <= len(data) and data[at] == 0xFF:
            kind = data[at + 1]
            if kind == _END:
                self.end = at
                return
            if kind == 0xFF or kind in _ALONE:
                at += 1 if kind == 0xFF else 2
                continue
            length = int.from_bytes(data[at + 2 : at + 4])
            body = data[at + 4 : at + 2 + length]
            at += 2 + length
            if kind in _SOF and len(body) > 5 and not self.frame:
                self.frame, self.size = kind, (int.from_bytes(body[1:3]), int.from_bytes(body[3:5]))
                self.components = list(body[6::3])
            elif kind == _SCAN and len(body) > 3:
                self._scanned(body)
                found = _MARKER.search(data, at)
                at = found.start() if found else len(data)
        if data[at : at + 2] == b"\xff\xd9":
            self.end = at

    def _scanned(self, body: bytes) -> None:
        count = body[0]
        first, last, bits = body[-3], body[-2], body[-1] & 15
        for component in body[1 : 1 + 2 * count : 2]:
            for coefficient in range(first, min(last, 63) + 1):
                self.exact[component, coefficient] = bits

    @property
    def finished(self) -> bool:
        """Whether every component has been refined to its last bit."""
        needed = range(64) if self.frame in _PROGRESSIVE else range(1)
        return all(self.exact.get((component, n)) == 0 for component in self.components for n in needed)


def lacks_data(data: bytes, pixels: np.ndarray, decode: Callable[[bytes], np.ndarray]) -> bool:
    """Whether a decoder has made up a part of a picture.

    Where data are missing, decoders go on with zeros: what they make of ``data`` changes when more follows. In
    sequential files such a part is flat, so that only files with a flat last block need a second decoding.

    Args:
        data: a file.
        pixels: (H, W[, C]), what ``decode`` makes of it.
    """
    found = _Structure(data)
    if found.end < 0 or not found.finished:
        return True
    height, width = pixels.shape[:2]
    # Of the last block, without the edge that the decoder blends with its neighbours.
    corner = pixels[-max(1, (height - 1) % 8) :, -max(1, (width - 1) % 8) :]
    if found.frame in _BASELINE and (np.ptp(corner, axis=(0, 1)) > 0).any():
        return False
    return not np.array_equal(decode(data[: found.end] + _MORE + data[found.end :]), pixels)
