"""Cuts bands of rows into pieces, and compresses pieces in threads while the next band is computed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

BYTES = 1 << 20  # of a piece, at most, unless a row is longer
WAITING = 48  # pieces in memory: more than a band holds, so that the computation need not wait

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def mapped(function: Callable[[Piece], Result], pieces: Iterable[Piece]) -> Iterator[Result]:
    """Yield ``function(piece)`` in order, computed in threads ahead of the caller while ``pieces`` yields the next one.

    At most `WAITING` pieces or results are in memory. An error of ``function`` is raised in place of its result.
    """
    pool = ThreadPoolExecutor(os.cpu_count(), "compress")
    waiting: deque[Future[Result]] = deque()
    try:
        for piece in pieces:
            waiting.append(pool.submit(function, piece))
            while len(waiting) >= WAITING or (waiting and waiting[0].done()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def rows_of(shape: tuple[int, ...], itemsize: int) -> int:
    """Return how many rows of a picture of ``shape`` (H, W[, C]) are a piece."""
    height, width, channels = (*shape, 1)[:3]
    return min(height, max(1, BYTES // (width * channels * itemsize)))


def strips(bands: Iterable[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    """Yield ``bands`` as strips of ``rows`` rows; the last strip may have fewer."""
    rest: np.ndarray | None = None
    for band in bands:
        rest = band if rest is None else np.concatenate([rest, band])
        whole = len(rest) - len(rest) % rows
        yield from (rest[i : i + rows] for i in range(0, whole, rows))
        rest = rest[whole:]
    if rest is not None and len(rest):
        yield rest
