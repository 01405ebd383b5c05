"""Measurement of the peak performance of the machine."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lmf.benchmark.timing import synchronize


def measure_peak(device: torch.device) -> tuple[float, float]:
    """Measure the peak performance of ``device``.

    Matrix products and convolutions come from different libraries, so the faster of the two counts.

    Returns:
        FLOP/s of a large matrix product or convolution, and bytes read and written per second by a large copy.
    """
    n, side, length = (8192, 512, 1 << 28) if device.type == "cuda" else (1536, 96, 1 << 25)
    a, b = torch.rand(2, n, n, device=device)
    c = 256
    maps = torch.rand(1, c, side, side, device=device).contiguous(memory_format=torch.channels_last)
    weight = torch.rand(c, c, 3, 3, device=device)
    source, target = torch.rand(2, length, device=device)

    def seconds(work: Callable[[], Tensor]) -> float:
        taken = []
        for _ in range(2):
            start = time.perf_counter()
            work()
            synchronize(device)
            taken.append(time.perf_counter() - start)
        return min(taken)

    product = 2 * n**3 / seconds(lambda: a @ b)
    convolution = 2 * 9 * c**2 * side**2 / seconds(lambda: F.conv2d(maps, weight, padding=1))
    return max(product, convolution), 2 * source.nbytes / seconds(lambda: target.copy_(source))
