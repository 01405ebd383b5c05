"""Converts samples of any depth to 8 or 16 bits."""

from __future__ import annotations

import numpy as np


def full_range(samples: np.ndarray, white: int) -> np.ndarray:
    """Scale ``samples`` from 0 .. ``white`` to the full range of uint8, or of uint16 if ``white`` is above 255.

    Raises:
        ValueError: if a sample is above ``white``.
    """
    top, dtype = (255, np.uint8) if white < 256 else (65535, np.uint16)
    if samples.size and samples.max() > white:
        raise ValueError(f"it holds {samples.max()}, more than its white, {white}")
    if white == top:
        return samples.astype(dtype)
    table = ((np.arange(white + 1, dtype=np.int64) * 2 * top + white) // (2 * white)).astype(dtype)
    return table[samples.astype(np.uint16)]
