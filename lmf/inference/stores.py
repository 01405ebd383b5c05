"""Where features and latents of pictures are kept: features in a file, latents in memory up to a limit."""

from __future__ import annotations

import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from lmf.decoders.base import Latent
from lmf.grid import Size

LATENTS = 1 << 30  # bytes

Span = tuple[int, int]  # half-open
Box = tuple[Span, Span]  # rows, columns


class Cache:
    """The latents that were used last, up to ``limit`` bytes; several `Views` may share it. Safe for threads."""

    def __init__(self, limit: int = LATENTS) -> None:
        self.limit = limit
        self._held: OrderedDict[tuple[object, ...], tuple[Latent, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[object, ...]) -> Latent | None:
        """Return the latent stored under ``key``; None if there is none."""
        with self._lock:
            if key not in self._held:
                return None
            self._held.move_to_end(key)
            return self._held[key][0]

    def put(self, key: tuple[object, ...], latent: Latent) -> None:
        """Store ``latent`` and drop those used longest ago beyond the limit."""
        size = bytes_of(latent)
        with self._lock:
            self._drop([key] if key in self._held else [])
            self._held[key] = latent, size
            self._bytes += size
            while self._bytes > self.limit:
                self._drop([next(iter(self._held))])

    def forget(self, owner: object) -> None:
        """Drop all latents whose key begins with ``owner``."""
        with self._lock:
            self._drop([key for key in self._held if key[0] is owner])

    def _drop(self, keys: Iterable[tuple[object, ...]]) -> None:
        for key in keys:
            self._bytes -= self._held.pop(key)[1]


class Features:
    """The features of one picture in a temporary file, written and read by rectangle.

    The file has no name, so that it disappears with the process. Memory does not grow with the picture.

    Args:
        channels: width C of the features.
        size: (h, w).
    """

    def __init__(self, channels: int, size: Size) -> None:
        self.channels, self.size = channels, size
        self._file = tempfile.TemporaryFile(prefix="lmf-features-")  # noqa: SIM115 (closed with this object)

    def write(self, box: Box, feat: Tensor) -> None:
        """Store ``feat`` (1, C, rows, cols) at ``box``."""
        values = np.ascontiguousarray(feat[0].permute(1, 2, 0).float().cpu().numpy())
        for row, line in zip(range(*box[0]), values, strict=True):
            data, at = line.data.cast("B"), self._offset(row, box)
            while data:
                written = os.pwrite(self._file.fileno(), data, at)
                data, at = data[written:], at + written

    def read(self, box: Box) -> Tensor:
        """Return the features (1, C, rows, cols) at ``box``, channels-last in memory."""
        (top, bottom), (left, right) = box
        out = np.empty((bottom - top, right - left, self.channels), dtype=np.float32)
        for row, line in zip(range(top, bottom), out, strict=True):
            os.preadv(self._file.fileno(), [line.data.cast("B")], self._offset(row, box))
        return torch.from_numpy(out)[None].permute(0, 3, 1, 2)

    def _offset(self, row: int, box: Box) -> int:
        return (row * self.size[1] + box[1][0]) * self.channels * 4


def bytes_of(latent: Latent) -> int:
    """Return the size of a latent in memory."""
    return sum(tensor.nbytes for tensor in latent.tensors().values())
