"""Measurement of memory."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], int | None]]:
    """Measure the peak memory inside a ``with`` block, beyond what was in use before it.

    It is memory of torch's allocator on CUDA and resident memory on a CPU under Linux.

    Yields:
        A function that returns the peak in bytes after the block, or None on other devices and systems.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
        return
    resident = reset_process_peak() if device.type == "cpu" else None
    yield lambda: None if resident is None else max(0, (process_peak() or 0) - resident)


def reset_process_peak() -> int | None:
    """Return free memory to the system and reset the peak of the process to its resident memory.

    Returns:
        The resident memory in bytes, or None if the system does not support it; Linux does.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError, TypeError):
        return None
    return process_peak()


def process_peak() -> int | None:
    """Return the peak resident memory of this process since its start or the last `reset_process_peak`.

    Returns:
        Bytes, or None if the system does not report it.
    """
    try:
        return next(int(x.split()[1]) << 10 for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    except (OSError, StopIteration):
        return None


def process_memory() -> int | None:
    """Return the resident memory of this process in bytes, or None if the system does not report it; Linux does."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def available(root: Path = Path("/")) -> int | None:
    """Return the memory in bytes that this process can still take without swapping, or None if that is unknown.

    It is the smaller of what Linux reports for the machine and what the control group of a container has left.

    Args:
        root: of the file system.
    """
    found = []
    with suppress(OSError, StopIteration, ValueError):
        lines = (root / "proc/meminfo").read_text().splitlines()
        found.append(next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable")))
    with suppress(OSError, StopIteration, ValueError):  # "max" is no number: no limit
        group = root / "sys/fs/cgroup"
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        lines = (group / "memory.stat").read_text().splitlines()
        cached = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file"))
        found.append(max(0, limit - used + cached))
    return min(found, default=None)
