"""Detects JPEG files that lack data, which their decoder does not report."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_PROGRESSIVE = 0xC2
_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_ALONE = {0x01, *range(0xD0, 0xD9)}
_SCAN, _END, _INTERVAL = 0xDA, 0xD9, 0xDD
# Filler for decoders that read beyond the data. It does not change a complete picture.
_MORE = bytes((37 * i + 11) % 251 for i in range(64))


class _Structure:
    """The markers of a JPEG file."""

    def __init__(self, data: bytes) -> None:
        self.frame, self.interval, self.height, self.width = 0, 0, 0, 0
        self.sampling: dict[int, tuple[int, int]] = {}  # component -> (horizontal, vertical)
        self.missing: dict[tuple[int, int], int] = {}  # (component, coefficient) -> bits still to come
        self.finished = False
        self.filled = b""  # the file with filler wherever a decoder could read beyond the data
        done, at = 0, 2
        while at + 2 <= len(data) and data[at] == 0xFF and data[at + 1] != _END:
            kind = data[at + 1]
            if kind == 0xFF or kind in _ALONE:
                at += 1 if kind == 0xFF else 2
                continue
            length = int.from_bytes(data[at + 2 : at + 4])
            body = data[at + 4 : at + 2 + length]
            at += 2 + length
            if kind in _FRAME and len(body) > 5 and not self.frame:
                self.frame, self.height, self.width = kind, int.from_bytes(body[1:3]), int.from_bytes(body[3:5])
                self.sampling = {body[i]: (body[i + 1] >> 4, body[i + 1] & 15) for i in range(6, len(body) - 2, 3)}
            elif kind == _INTERVAL:
                self.interval = int.from_bytes(body)
            elif kind == _SCAN and len(body) > 3:
                found = _MARKER.search(data, at)
                end = found.start() if found else len(data)
                if not self._scanned(body, len(_RESTART.findall(data, at, end))):
                    return
                self.filled += data[done:at] + _RESTART.sub(lambda match: _MORE + match[0], data[at:end]) + _MORE
                done = at = end
        self.filled += data[done:]
        needed = range(64) if self.frame == _PROGRESSIVE else range(1)
        complete = all(self.missing.get((component, n)) == 0 for component in self.sampling for n in needed)
        self.finished = complete and data[at : at + 2] == b"\xff\xd9"

    def _scanned(self, body: bytes, restarts: int) -> bool:
        """Record the content of a scan; return False if it has too few restart markers."""
        components = body[1 : 1 + 2 * body[0] : 2]
        first, last, bits = body[-3], body[-2], body[-1] & 15
        for component in components:
            for coefficient in range(first, min(last, 63) + 1):
                self.missing[component, coefficient] = bits
        if not self.interval or not self.sampling or not all(all(pair) for pair in self.sampling.values()):
            return True
        across, down = (max(pair[i] for pair in self.sampling.values()) for i in (0, 1))
        if len(components) == 1:  # a scan of one component has its own blocks
            h, v = self.sampling.get(components[0], (1, 1))
            blocks = -(-self.width * h // (8 * across)) * -(-self.height * v // (8 * down))
        else:
            blocks = -(-self.width // (8 * across)) * -(-self.height // (8 * down))
        return restarts >= -(-blocks // self.interval) - 1


def lacks_data(data: bytes, pixels: np.ndarray, decode: Callable[[bytes], np.ndarray]) -> bool:
    """Return whether a JPEG file lacks a part of its picture.

    Decoders read zeros where data is missing. The decoded picture of such a file changes if filler is inserted.

    Args:
        data: content of the file.
        pixels: (H, W[, C]) decoded from ``data``.
        decode: decodes the content of a file.
    """
    found = _Structure(data)
    return not found.finished or not np.array_equal(decode(found.filled), pixels)
