"""Ranks of a distributed run: finds out the rank of this process, and ends it when the first one dies."""

from __future__ import annotations

import os
import threading
import time


def is_rank_zero() -> bool:
    """Return whether this process has global rank zero. Works before Lightning has set up the processes."""
    return all(os.environ.get(key, "0") == "0" for key in ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID"))


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
