"""The assignment of levels to ranges of modulation intensity by dynamic programming."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def allocate(squares: Array, pixels: Array, cost: Array, prices: Array) -> Array:
    """Find, for each price, the cheapest level of every bin such that levels do not decrease from bin to bin.

    The sum over bins of ``cost[level] * pixels + price * squares[level]`` is minimised. The finer of two equal levels
    is preferred. A bin without pixels therefore uses the level of the next bin, or the finest one after the last bin.

    Args:
        squares: (L, bins) squared differences; 0 for the last level.
        pixels: (bins,) pixels.
        cost: (L,) cost per pixel, increasing.
        prices: (P,) price per squared difference; may be infinite.

    Returns:
        int64 (P, bins), indices of levels.
    """
    with np.errstate(invalid="ignore"):
        priced = np.nan_to_num(prices[:, None, None] * squares, nan=0.0, posinf=np.inf)
    objective = priced + cost[:, None] * pixels  # (P, L, bins)
    count, bins = len(cost), len(pixels)
    best = np.zeros((len(prices), count))  # objective of all bins so far if the last one has this level
    before = np.zeros((len(prices), count, bins), dtype=np.int64)  # level of the previous bin in that case
    for b in range(bins):
        least, level = best[:, 0], np.zeros(len(prices), dtype=np.int64)
        for n in range(count):
            better = best[:, n] <= least
            least, level = np.where(better, best[:, n], least), np.where(better, n, level)
            before[:, n, b] = level
            best[:, n] = least
        best = best + objective[:, :, b]
    chosen = np.empty((len(prices), bins), dtype=np.int64)
    row = np.arange(len(prices))
    chosen[:, -1] = count - 1 - best[:, ::-1].argmin(axis=1)
    for b in range(bins - 1, 0, -1):
        chosen[:, b - 1] = before[row, chosen[:, b], b]
    return chosen
