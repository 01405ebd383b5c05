"""Ranks of a distributed run: finds out the rank of this process, and ends it when the first one dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


def is_rank_zero() -> bool:
    """Return whether this process has global rank zero. Works before Lightning has set up the processes."""
    return all(os.environ.get(key, "0") == "0" for key in ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID"))


def share() -> tuple[int, int]:
    """Return the rank of this process and their number if torchrun or srun has started several; else (0, 1)."""
    for kind, rank, count in (("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE"),
                              ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):  # fmt: skip
        if kind in os.environ:
            return int(os.environ[rank]), int(os.environ[count])
    return 0, 1


@contextmanager
def watching(ranks: Callable[[], Sequence[subprocess.Popen[bytes]]], advice: str) -> Iterator[None]:
    """End this process, the first rank, with one line soon after another rank has died within the block.

    The first rank would wait for it in a collective operation, until Lightning kills the first rank without a word.

    Args:
        ranks: returns the other ranks on this machine.
        advice: end of the line.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            for rank, process in enumerate(ranks(), start=1):
                if code := process.poll():
                    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
                    print(f"ERROR: rank {rank} {how}; {advice}", file=sys.stderr, flush=True)
                    for other in ranks():
                        other.kill()
                    os._exit(1)

    threading.Thread(target=watch, name="watch-ranks", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def end_with_parent(parent: int, interval: float = 2.0) -> None:
    """End this process soon after its parent has ended for any reason.

    Otherwise a rank waits in a collective operation for a killed first rank until the time-out.

    Args:
        parent: process id of the parent.
        interval: seconds between checks.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(interval)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
