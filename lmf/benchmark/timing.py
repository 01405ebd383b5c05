"""Time on asynchronous devices."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")


def synchronize(device: torch.device) -> None:
    """Wait until ``device`` has finished all its work; a CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def now(device: torch.device) -> float:
    """Return the time in seconds when ``device`` has finished all its work."""
    synchronize(device)
    return time.perf_counter()


def timed(call: Callable[[], Result], device: torch.device) -> tuple[Result, float]:
    """Return the result of ``call`` and the seconds until ``device`` has finished."""
    start = now(device)
    result = call()
    return result, now(device) - start
